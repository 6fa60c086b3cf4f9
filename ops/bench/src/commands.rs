//! What the load consists of: the payloads of design/performance.md, with a fixed seed.

use bytes::Bytes;
use domain::task::{SubmitTask, UpdateTask};
use domain::{Json, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The actor of commands that come from this process.
pub const ACTOR: &str = "bench";

/// About 400 bytes of JSON, as the reference limits have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "it stands for a payload of anybody's")]
pub struct Payload {
    pub task_id: Uuid,
    pub tenant: String,
    pub agent: String,
    pub kind: String,
    pub priority: i32,
    pub attempt: u32,
    pub submitted_at: String,
    pub input: String,
    pub labels: Vec<String>,
}

/// The nth payload.
#[must_use]
pub fn payload(n: u64) -> Payload {
    let words = "lorem ipsum dolor sit amet consectetur adipiscing ".repeat(3);
    Payload {
        task_id: Uuid::from_u128((0x1234_5678_9abc_def0_u128 << 64) | u128::from(n)),
        tenant: format!("tenant-{:04}", n % 100),
        agent: format!("agent-{:06}", n % 1000),
        kind: "summarise-document".into(),
        priority: (n % 10) as i32,
        attempt: 1,
        submitted_at: "2026-11-20T12:00:00.000000Z".into(),
        input: format!("{:016x}{words}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        labels: vec!["region:eu".into(), "tier:gold".into(), "model:large".into()],
    }
}

/// The nth payload as JSON.
#[must_use]
pub fn payload_json(n: u64) -> Vec<u8> {
    serde_json::to_vec(&payload(n)).unwrap_or_default()
}

/// A small payload: with it the body of a submit has about 300 bytes (W2, W3).
#[must_use]
pub fn small_payload(n: u64) -> Json {
    let input =
        format!("{:016x}{}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15), "lorem ipsum ".repeat(8));
    Json::of(&serde_json::json!({ "document": n, "input": input, "model": "large" }))
}

/// The nth task to submit.
#[must_use]
pub fn submit(n: u64) -> SubmitTask {
    SubmitTask { payload: Json::of(&payload(n)), ..SubmitTask::titled("Summarise a document") }
}

/// The nth change of a task.
#[must_use]
pub fn update(n: u64) -> UpdateTask {
    UpdateTask { payload: Some(Json::of(&payload(n))), ..UpdateTask::default() }
}

/// The nth task as a request's body.
#[must_use]
pub fn submit_body(n: u64) -> Bytes {
    #[derive(Serialize)]
    struct Body {
        title: &'static str,
        payload: Payload,
    }
    let body = Body { title: "Summarise a document", payload: payload(n) };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// The nth change as a request's body.
#[must_use]
pub fn update_body(n: u64) -> Bytes {
    #[derive(Serialize)]
    struct Body {
        payload: Payload,
    }
    serde_json::to_vec(&Body { payload: payload(n) }).unwrap_or_default().into()
}

/// The one tenant there is so far.
#[must_use]
pub fn tenant() -> TenantId {
    TenantId::default_tenant()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_that_the_limits_have() {
        let size = payload_json(123_456).len();
        assert!((400..=430).contains(&size), "{size}");
        assert_eq!(payload_json(7), payload_json(7));
        let body = serde_json::to_vec(&SubmitTask {
            payload: small_payload(123_456),
            ..SubmitTask::titled("Summarise a document")
        });
        let size = body.unwrap().len();
        assert!((280..=480).contains(&size), "{size}");
    }
}
