//! Pulling durable commands, a second's worth at a time.
//!
//! Requests are short and made one after another: a consumer or stream that has vanished
//! answers the next one with an error within that second, so no heartbeats and no watchdog
//! of the client library are needed (reliability D27), and a drain ends when the last
//! request has: nothing lies undelivered in a buffer until its ack runs out.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::budget::MAX_IN_FLIGHT;
use crate::error::During;
use crate::{BrokerError, streams};

/// The one durable consumer of the stream of commands.
const CONSUMER: &str = "processor";
/// Most messages of one request.
const BATCH: usize = 512;
/// Most bytes of one request: what waits between the socket and the processor.
const BATCH_BYTES: usize = 8 << 20;
/// How long a request waits for messages.
const EXPIRES: Duration = Duration::from_secs(1);
/// How much longer we wait before the request counts as lost.
const GRACE: Duration = Duration::from_secs(2);
/// A command whose outcome takes longer is kept alive by `+WPI` (reliability D24).
const ACK_WAIT: Duration = Duration::from_secs(30);

/// A consumer that is pulled from.
pub(super) struct Pull {
    client: Client,
    jetstream: Context,
    subject: String,
    inbox: String,
    messages: Subscriber,
    /// Messages that the current request may still bring.
    open: usize,
    deadline: Instant,
}

impl Pull {
    /// Makes stream and consumer where they are missing.
    pub(super) async fn open(client: &Client) -> Result<Self, BrokerError> {
        let jetstream = jetstream::new(client.clone());
        streams::ensure(&jetstream, streams::commands()).await?;
        jetstream
            .create_consumer_on_stream(
                pull::Config {
                    durable_name: Some(CONSUMER.into()),
                    deliver_policy: DeliverPolicy::All,
                    ack_policy: AckPolicy::Explicit,
                    ack_wait: ACK_WAIT,
                    // Overload puts commands back as often as it lasts; a limit here would
                    // leave them in the stream for ever, undelivered (reliability D25).
                    max_deliver: -1,
                    // Commands put back count too (nats-server #6093).
                    max_ack_pending: 2 * MAX_IN_FLIGHT as i64,
                    ..pull::Config::default()
                },
                streams::COMMANDS,
            )
            .await
            .during("making the consumer of commands")?;
        let inbox = client.new_inbox();
        let messages =
            client.subscribe(inbox.clone()).await.during("subscribing to pulled commands")?;
        Ok(Self {
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", streams::COMMANDS),
            client: client.clone(),
            jetstream,
            inbox,
            messages,
            open: 0,
            deadline: Instant::now(),
        })
    }

    /// Whether the last request is done, so that a new one is due.
    pub(super) fn idle(&self) -> bool {
        self.open == 0
    }

    /// Asks for up to so many messages.
    pub(super) async fn request(&mut self, room: usize) -> Result<(), BrokerError> {
        let batch = room.clamp(1, BATCH);
        let expires = EXPIRES.as_nanos();
        let body = format!(r#"{{"batch":{batch},"max_bytes":{BATCH_BYTES},"expires":{expires}}}"#);
        self.deadline = Instant::now() + EXPIRES + GRACE;
        let inbox = self.inbox.clone();
        let sent = self.client.publish_with_reply(self.subject.clone(), inbox, body.into());
        timeout_at(self.deadline, sent)
            .await
            .during("pulling commands")?
            .during("pulling commands")?;
        self.open = batch;
        Ok(())
    }

    /// The request's next message; `None` when it is done.
    pub(super) async fn next(&mut self) -> Result<Option<jetstream::Message>, BrokerError> {
        let lost = |reason: &str| Err(BrokerError::nats("pulling commands", reason));
        let message = match timeout_at(self.deadline, self.messages.next()).await {
            Err(_) => return lost("no answer"),
            Ok(None) => return lost("the connection is closed"),
            Ok(Some(message)) => message,
        };
        match message.status {
            None | Some(StatusCode::OK) => {
                self.open -= 1;
                let context = self.jetstream.clone();
                Ok(Some(jetstream::Message { message, context }))
            }
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => self.done(),
            Some(_) if exceeds_bytes(&message) => self.done(),
            // Said of every request that names a limit in bytes, behind its last message; by
            // then the next one may be under way.
            Some(_) if message.description.as_deref() == Some("Batch Completed") => Ok(None),
            Some(status) => lost(message.description.as_deref().unwrap_or(&status.to_string())),
        }
    }

    fn done(&mut self) -> Result<Option<jetstream::Message>, BrokerError> {
        self.open = 0;
        Ok(None)
    }
}

fn exceeds_bytes(message: &Message) -> bool {
    message.description.as_deref().is_some_and(|text| text.contains("MaxBytes"))
}

/// Tells the server what became of a message; what gets lost is delivered again.
pub(super) async fn answer(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an ack was not sent; the command will come again");
    }
}
