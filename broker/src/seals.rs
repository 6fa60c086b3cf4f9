//! Seals of the log, published outside the database in `TAFFRAIL_SEALS`: documents in order,
//! which this crate carries and does not read. The server lets nobody delete or purge any.

use async_nats::Client;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;

use crate::BrokerError;
use crate::error::During;
use crate::streams::{ensure, info};

/// The stream of seals.
pub const SEALS: &str = "TAFFRAIL_SEALS";
/// Where they are published; they are no tenant's.
pub const SUBJECT: &str = "taffrail.seals";

/// The stream's seals, oldest first.
#[derive(Debug, Clone)]
pub struct SealStream {
    client: Client,
    jetstream: Context,
}

impl SealStream {
    /// The stream behind a connection.
    pub fn new(client: Client) -> Self {
        Self { jetstream: jetstream::new(client.clone()), client }
    }

    /// Adds documents, in order; the server has them all when it returns. The stream is made
    /// where it is missing. After a failure some may stand there twice.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn publish(&self, documents: Vec<Bytes>) -> Result<(), BrokerError> {
        // Looking first would be a request more for every seal.
        if self.send(&documents).await.is_ok() {
            return Ok(());
        }
        ensure(&self.jetstream, config()).await?;
        self.send(&documents).await
    }

    async fn send(&self, documents: &[Bytes]) -> Result<(), BrokerError> {
        let mut acks = Vec::with_capacity(documents.len());
        for document in documents {
            let sent = self.jetstream.publish(SUBJECT, document.clone()).await;
            acks.push(sent.during("publishing seals")?.into_future());
        }
        try_join_all(acks).await.during("publishing seals")?;
        Ok(())
    }

    /// The documents at the end, back to the first of which `enough` holds; oldest first.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn back_to(&self, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<Bytes>, BrokerError> {
        let Some(info) = info(&self.jetstream, SEALS).await? else { return Ok(Vec::new()) };
        let stream = self.jetstream.get_stream_no_info(SEALS).await.during("reading seals")?;
        let mut found = Vec::new();
        let state = info.state;
        let mut sequence = state.last_sequence;
        while state.messages > 0 && sequence >= state.first_sequence && sequence > 0 {
            let message = stream.get_raw_message(sequence).await.during("reading seals")?;
            let last = enough(&message.payload);
            found.push(message.payload);
            if last {
                break;
            }
            sequence -= 1;
        }
        found.reverse();
        Ok(found)
    }

    /// Every document.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn all(&self) -> Result<Vec<Bytes>, BrokerError> {
        let Some(info) = info(&self.jetstream, SEALS).await? else { return Ok(Vec::new()) };
        if info.state.messages == 0 {
            return Ok(Vec::new());
        }
        let stream = self.jetstream.get_stream_no_info(SEALS).await.during("reading seals")?;
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.during("reading seals")?;
        let mut messages = consumer.messages().await.during("reading seals")?;
        let mut found = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.during("reading seals")?;
            let at = message.info().map(|info| info.stream_sequence);
            found.push(message.message.payload);
            if at.during("reading seals")? >= info.state.last_sequence {
                break;
            }
        }
        Ok(found)
    }
}

fn config() -> Config {
    Config {
        name: SEALS.into(),
        subjects: vec![SUBJECT.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        max_messages: -1,
        max_bytes: -1,
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        num_replicas: 1,
        ..Config::default()
    }
}
