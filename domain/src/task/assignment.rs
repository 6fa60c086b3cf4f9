//! What an agent is handed: the wire shape of a claimed or pushed task.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::{MAX_LEASE_MS, MIN_LEASE_MS};
use crate::ids::{AgentId, TaskId};
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::{Check, Priority};

/// Longest wait of a claim, in milliseconds.
pub const MAX_CLAIM_WAIT_MS: u64 = 30_000;
/// Most tasks that one claim may take.
pub const MAX_CLAIM: u32 = 256;

fn one() -> u32 {
    1
}

/// An agent asks for work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimTasks {
    /// Who asks; the subject says it where the agent asks under its own name.
    pub agent_id: AgentId,
    /// At most so many tasks, 1 to 256.
    #[serde(default = "one")]
    pub max: u32,
    /// How long to wait for the first one, at most 30,000 ms.
    #[serde(default)]
    pub wait_ms: u64,
    /// How long the leases run; 30,000 ms when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// The agent begins at once: what it gets is started in the same commit, and no `start`
    /// need follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

impl ClaimTasks {
    /// One task for this agent, for a lease of the usual length, without waiting.
    pub fn by(agent_id: AgentId) -> Self {
        Self { agent_id, max: 1, wait_ms: 0, lease_ms: None, start: false }
    }
}

impl Body for ClaimTasks {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check::default().range("max", self.max.into(), 1, MAX_CLAIM.into()).range(
            "wait_ms",
            self.wait_ms,
            0,
            MAX_CLAIM_WAIT_MS,
        );
        if let Some(ms) = self.lease_ms {
            check = check.range("lease_ms", ms, MIN_LEASE_MS, MAX_LEASE_MS);
        }
        check.done()
    }
}

/// The tasks an agent got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Claimed {
    /// In the order of service.
    pub tasks: Vec<Assignment>,
}

/// A lease as the agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssignmentLease {
    /// Every answer must carry it as `lease_token`.
    pub token: u64,
    /// By the database's clock.
    pub expires_at: DateTime<Utc>,
}

/// A task as it is handed to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// The task.
    pub task_id: TaskId,
    /// What is to be done, in a line.
    #[serde(default)]
    pub title: String,
    /// From 1.
    pub attempt: u32,
    /// The right to answer for it.
    pub lease: AssignmentLease,
    /// The kind of work.
    #[serde(rename = "type")]
    pub kind: String,
    /// The queue it came from.
    pub queue: String,
    /// Its urgency.
    pub priority: Priority,
    /// The input of the work.
    pub payload: Json,
    /// When it should be done.
    pub deadline: Option<DateTime<Utc>>,
    /// W3C trace context of its submission.
    pub traceparent: Option<String>,
    /// It is started already, as its claim asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
}
