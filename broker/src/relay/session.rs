//! Publishing behind the stream's end, pipelined, until something is not as expected.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use domain::Recorded;
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::mirror::Verdict;
use super::{Relay, Standing};
use crate::envelope::event_headers;
use crate::error::During;
use crate::{BrokerError, subject};

/// Acks that may be outstanding (performance, section `jetstream`: 1,024 saturate the server;
/// the rest covers its hiccups). The subscription for acks holds more.
const WINDOW: u64 = 4_096;
/// Events of one read: small enough that acks are looked at in between.
const CHUNK: u64 = 512;
/// How long the log goes unasked while nobody tells of new events (reliability D21).
const POLL: Duration = Duration::from_millis(250);
/// How often an idle stream is compared with the log: it may have been deleted, or the
/// database put back, without any event that would show it.
const COMPARE: Duration = Duration::from_secs(2);
/// How long an ack may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of the acks is waited for after an error: what is still under way would
/// otherwise collide with what comes next.
const DRAIN: Duration = Duration::from_secs(1);
/// The broker's code for a publish whose expected sequence is not the last one.
const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As asked.
    Cancelled,
    /// Another relay was faster.
    Outrun,
    /// Stream or log are not what they were: compare again.
    Changed,
}

/// The broker's answer to a publish.
#[derive(Deserialize)]
struct PubAck {
    seq: Option<u64>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

struct Session<'a> {
    relay: &'a Relay,
    acks: Subscriber,
    /// Where all acks come, in the order of publishing: one subscription and no table of
    /// waiters, which the client library would keep for good where an ack is lost; and one
    /// subject, for which the server need not look up its way each time.
    inbox: Subject,
    epoch: u64,
    sent: u64,
    acked: u64,
    /// When the oldest outstanding ack, if any, counts as lost.
    overdue: Instant,
}

/// Publishes until cancelled or until something is not as expected.
pub(super) async fn run(
    relay: &Relay,
    standing: Standing,
    cancel: &CancellationToken,
) -> Result<End, BrokerError> {
    let inbox = Subject::from(relay.client.new_inbox());
    let acks = relay.client.subscribe(inbox.clone()).await.during("subscribing to acks")?;
    let mut session = Session {
        relay,
        acks,
        inbox,
        epoch: standing.epoch,
        sent: standing.relayed,
        acked: standing.relayed,
        overdue: Instant::now(),
    };
    let ended = session.follow(cancel).await;
    // Also after an error: an answer that is still to come tells how far the stream went.
    let _ = timeout(DRAIN, session.drain()).await;
    ended
}

impl Session<'_> {
    async fn follow(&mut self, cancel: &CancellationToken) -> Result<End, BrokerError> {
        let feed = &self.relay.reader.feed;
        let mut head = feed.watch();
        let mut poll = Instant::now();
        let mut compare = Instant::now() + COMPARE;
        let mut stood = self.acked;
        loop {
            let known = *head.borrow_and_update();
            let before = self.sent;
            if self.room() > 0 && (known > self.sent || poll <= Instant::now()) {
                poll = Instant::now() + POLL;
                if let Some(end) = self.send().await? {
                    return Ok(end);
                }
            }
            while let Some(ack) = self.acks.next().now_or_never() {
                if let Some(end) = self.ack(ack)? {
                    return Ok(end);
                }
            }
            if self.acked != stood {
                stood = self.acked;
                // Once for all of them: this wakes everybody who waits for it.
                self.relay.stand(Standing { epoch: self.epoch, relayed: self.acked });
            }
            if self.sent != self.acked {
                compare = Instant::now() + COMPARE;
            } else if compare <= Instant::now() {
                compare = Instant::now() + COMPARE;
                if let Some(end) = self.compare().await? {
                    return Ok(end);
                }
            }
            // A full chunk has more behind it, also where nobody tells of the log's end.
            if self.sent - before == CHUNK {
                poll = Instant::now();
                continue;
            }
            let waits = self.sent != self.acked;
            let wake = if waits { self.overdue.min(poll) } else { poll };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(End::Cancelled),
                ack = self.acks.next() => {
                    if let Some(end) = self.ack(ack)? {
                        return Ok(end);
                    }
                }
                changed = head.changed() => {
                    if changed.is_err() {
                        return Ok(End::Cancelled);
                    }
                }
                () = sleep_until(wake) => {
                    if waits && self.overdue <= Instant::now() {
                        return Err(BrokerError::nats("publishing events", "an ack is overdue"));
                    }
                }
            }
        }
    }

    fn room(&self) -> u64 {
        WINDOW - (self.sent - self.acked)
    }

    /// Publishes the next events, as many as there are and fit.
    async fn send(&mut self) -> Result<Option<End>, BrokerError> {
        let limit = usize::try_from(self.room().min(CHUNK)).unwrap_or_default();
        let events = store::seeded::relayed(self.relay.reader.after(self.sent, limit).await?);
        if let Some(last) = events.last() {
            self.relay.reader.feed.announce(last.position);
        }
        for event in events {
            // Somebody has begun a new generation: under the old one nothing may be added.
            if event.epoch > self.epoch {
                return Ok(Some(End::Changed));
            }
            self.publish(&event).await?;
        }
        Ok(None)
    }

    async fn publish(&mut self, event: &Recorded) -> Result<(), BrokerError> {
        if self.sent == self.acked {
            self.overdue = Instant::now() + ACK_TIMEOUT;
        }
        let mut headers = event_headers(event, self.epoch);
        headers.insert(
            async_nats::header::NATS_EXPECTED_LAST_SEQUENCE,
            (event.position - 1).to_string(),
        );
        let sent = self.relay.client.publish_with_reply_and_headers(
            subject::event(event),
            self.inbox.clone(),
            headers,
            event.payload.clone(),
        );
        // Waits while the connection is away and the client's queue full.
        timeout(ACK_TIMEOUT, sent)
            .await
            .during("publishing events")?
            .during("publishing events")?;
        self.sent = event.position;
        Ok(())
    }

    fn ack(&mut self, message: Option<Message>) -> Result<Option<End>, BrokerError> {
        let Some(message) = message else {
            return Err(BrokerError::nats("publishing events", "the connection is closed"));
        };
        let failed = |reason: &str| Err(BrokerError::nats("publishing events", reason));
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return failed("there is no stream");
        }
        let ack: PubAck = serde_json::from_slice(&message.payload).during("reading an ack")?;
        match (ack.seq, ack.error) {
            (_, Some(refusal)) if refusal.err_code == WRONG_LAST_SEQUENCE => Ok(Some(End::Outrun)),
            (_, Some(refusal)) => failed(&refusal.description),
            // In the order of publishing: a sequence left out would be a message lost.
            (Some(sequence), None) if sequence == self.acked + 1 => {
                store::seeded::point("dies-after-puback");
                self.acked = sequence;
                self.overdue = Instant::now() + ACK_TIMEOUT;
                self.relay.counters.published.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            (_, None) => failed("an ack for another sequence came"),
        }
    }

    /// Whether the idle stream is still what it was.
    async fn compare(&mut self) -> Result<Option<End>, BrokerError> {
        match self.relay.compare().await? {
            Verdict::Same(standing)
                if standing.epoch == self.epoch && standing.relayed >= self.acked =>
            {
                // Another relay went on meanwhile: follow it without a fight.
                self.sent = standing.relayed;
                self.acked = standing.relayed;
                self.relay.stand(standing);
                Ok(None)
            }
            Verdict::Same(_) | Verdict::Missing | Verdict::Useless(_) | Verdict::Ahead { .. } => {
                Ok(Some(End::Changed))
            }
        }
    }

    /// Waits for the answers that are still to come, and counts those that are good.
    async fn drain(&mut self) {
        let mut awaited = self.sent - self.acked;
        while awaited > 0 && self.acked < self.sent {
            let Some(message) = self.acks.next().await else { return };
            // What went wrong is found by the comparison that follows.
            let _ = self.ack(Some(message));
            awaited -= 1;
        }
        self.relay.stand(Standing { epoch: self.epoch, relayed: self.acked });
    }
}
