//! Recording what could not be processed.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap, jetstream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::{Outcome, Problem};
use serde::Serialize;

use super::{TenantCheck, intake};
use crate::BrokerError;
use crate::envelope::{JSON, header};
use crate::error::During;
use crate::subject;

/// Most bytes of a body that are kept with it: the record must fit into one message whatever
/// escaping costs.
const MAX_KEPT: usize = 128 << 10;
/// Most headers that are kept, and characters of each.
const MAX_HEADERS: usize = 64;
const MAX_HEADER: usize = 512;

/// The record of a message that could not be processed.
#[derive(Serialize)]
struct DeadLetter<'a> {
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    problem: &'a Problem,
    /// The outcomes of a batch of which only some items were malformed.
    #[serde(skip_serializing_if = "<[Outcome]>::is_empty")]
    outcomes: &'a [Outcome],
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    body_bytes: usize,
    body_truncated: bool,
}

/// A message that could not be processed, and why.
pub(super) struct Failed<'a> {
    pub subject: &'a str,
    pub sequence: Option<u64>,
    pub headers: Option<&'a HeaderMap>,
    pub payload: &'a [u8],
    pub problem: &'a Problem,
    pub outcomes: &'a [Outcome],
}

/// Writes to `taffrail.<tenant>.dead.<consumer>`.
#[derive(Clone)]
pub(super) struct DeadLetters {
    client: Client,
    jetstream: jetstream::Context,
    tenants: TenantCheck,
}

impl DeadLetters {
    pub(super) fn new(client: Client, tenants: TenantCheck) -> Self {
        Self { jetstream: jetstream::new(client.clone()), client, tenants }
    }

    /// Records a message and waits until the stream has it.
    ///
    /// # Errors
    /// When it has not; the message must then not be given up.
    pub(super) async fn record(
        &self,
        consumer: &str,
        failed: Failed<'_>,
    ) -> Result<(), BrokerError> {
        let (subject, headers, body) = self.message(consumer, failed);
        let acked = self.jetstream.publish_with_headers(subject, headers, body).await;
        acked.during("recording a dead letter")?.await.during("recording a dead letter")?;
        Ok(())
    }

    /// Records a request that was answered anyway; nobody waits for the stream.
    pub(super) async fn note(&self, consumer: &str, failed: Failed<'_>) {
        let (subject, headers, body) = self.message(consumer, failed);
        if let Err(error) = self.client.publish_with_headers(subject, headers, body).await {
            tracing::debug!(%error, "a malformed request was not recorded");
        }
    }

    fn message(&self, consumer: &str, failed: Failed<'_>) -> (String, HeaderMap, Bytes) {
        let tenant = intake::dead_tenant(failed.subject, &self.tenants);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, JSON);
        let reason = failed.problem.code().map_or("invalid-body", domain::Code::slug);
        headers.insert(header::REASON, reason);
        (subject::dead(&tenant, consumer), headers, record_of(&failed))
    }
}

fn record_of(failed: &Failed<'_>) -> Bytes {
    let short = |text: &str| text.chars().take(MAX_HEADER).collect::<String>();
    let headers = failed.headers.map(|headers| {
        let pairs = headers.iter().take(MAX_HEADERS).map(|(name, values)| {
            let values: Vec<&str> = values.iter().map(async_nats::HeaderValue::as_str).collect();
            (short(name.as_ref()), short(&values.join(", ")))
        });
        pairs.collect()
    });
    let kept = &failed.payload[..failed.payload.len().min(MAX_KEPT)];
    let body = std::str::from_utf8(kept).ok();
    let record = DeadLetter {
        subject: failed.subject,
        sequence: failed.sequence,
        problem: failed.problem,
        outcomes: failed.outcomes,
        headers: headers.unwrap_or_default(),
        body,
        body_base64: body.is_none().then(|| STANDARD.encode(kept)),
        body_bytes: failed.payload.len(),
        body_truncated: kept.len() < failed.payload.len(),
    };
    serde_json::to_vec(&record).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use domain::Code;

    use super::*;

    #[test]
    fn a_record_says_why_and_keeps_what_came() {
        let problem = Problem::new(Code::InvalidBody, "no JSON");
        let mut headers = HeaderMap::new();
        headers.append("X-Twice", "a");
        headers.append("X-Twice", "b");
        let failed = |payload| Failed {
            subject: "taffrail.default.cmd.x",
            sequence: Some(3),
            headers: Some(&headers),
            payload,
            problem: &problem,
            outcomes: &[],
        };
        let read =
            |bytes: Bytes| -> serde_json::Value { serde_json::from_slice(&bytes).expect("JSON") };
        let text = read(record_of(&failed(b"{")));
        assert_eq!((&text["body"], &text["sequence"]), (&"{".into(), &3.into()));
        assert_eq!(text["headers"]["X-Twice"], "a, b");
        assert_eq!(text["problem"]["detail"], "no JSON");
        let binary = read(record_of(&failed(b"\xff\x00")));
        assert_eq!(binary["body_base64"], "/wA=");
        let control = vec![1u8; 1 << 20];
        let long = record_of(&failed(&control));
        assert!(long.len() < 1 << 20, "{} bytes fit into a message", long.len());
        assert_eq!(read(long)["body_truncated"], true);
    }
}
