//! NATS as a place where seals are published.

use broker::SealStream;
use bytes::Bytes;
use commands::Boxed;
use replay::seal::{Outside, OutsideError, Seal};

/// `TAFFRAIL_SEALS`.
#[derive(Debug, Clone)]
pub struct NatsSeals(SealStream);

impl NatsSeals {
    /// The stream behind a connection.
    pub fn new(client: async_nats::Client) -> Self {
        Self(SealStream::new(client))
    }

    /// Every seal in it. What is no seal, or nobody signed, was put there by somebody else.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn all(&self) -> Result<Vec<Seal>, OutsideError> {
        Ok(seals(self.0.all().await.map_err(failed)?))
    }
}

fn failed(error: broker::BrokerError) -> OutsideError {
    OutsideError { place: broker::seals::SEALS.into(), reason: error.to_string() }
}

fn read(document: &[u8]) -> Option<Seal> {
    serde_json::from_slice::<Seal>(document).ok().filter(Seal::is_signed)
}

fn seals(documents: Vec<Bytes>) -> Vec<Seal> {
    documents.iter().filter_map(|document| read(document)).collect()
}

impl Outside for NatsSeals {
    fn name(&self) -> &'static str {
        broker::seals::SEALS
    }

    fn last(&self) -> Boxed<Result<u64, OutsideError>> {
        let stream = self.0.clone();
        Box::pin(async move {
            let last = stream.back_to(|document| read(document).is_some()).await;
            Ok(seals(last.map_err(failed)?).last().map_or(0, |seal| seal.number))
        })
    }

    fn after(&self, number: u64) -> Boxed<Result<Vec<Seal>, OutsideError>> {
        let stream = self.0.clone();
        Box::pin(async move {
            let reached = |document: &[u8]| read(document).is_some_and(|s| s.number <= number);
            let found = stream.back_to(reached).await.map_err(failed)?;
            let mut seals = seals(found);
            seals.retain(|seal| seal.number > number);
            Ok(seals)
        })
    }

    fn publish(&self, seals: Vec<Seal>) -> Boxed<Result<(), OutsideError>> {
        let stream = self.0.clone();
        Box::pin(async move {
            let documents = seals.iter().filter_map(|seal| serde_json::to_vec(seal).ok());
            stream.publish(documents.map(Bytes::from).collect()).await.map_err(failed)
        })
    }
}
