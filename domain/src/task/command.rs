//! What can be asked of a task. Field names are the contract's. What describes one stands in
//! `submission`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::decision::Decision;
use super::{SubmitTask, TaskState, UpdateTask};
use crate::ids::{AgentId, TaskId};
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::Check;

/// Lease length when nothing is said, in milliseconds.
pub const DEFAULT_LEASE_MS: u64 = 30_000;
/// Shortest lease: below it a slow network alone would lose the task.
pub const MIN_LEASE_MS: u64 = 1_000;
/// Longest lease: a day.
pub const MAX_LEASE_MS: u64 = 86_400_000;

commands! {
    /// The commands of a task.
    TaskCommand {
        /// Creates it.
        Submit(SubmitTask) = "submit",
        /// Changes what is described, not the state.
        Update(UpdateTask) = "update",
        /// Gives it to an agent, with a lease.
        Assign(AssignTask) = "assign",
        /// The agent begins (contract: accept).
        Start(StartTask) = "start",
        /// The agent tells how far it is.
        Progress(ProgressTask) = "progress",
        /// It can't go on for now.
        Block(BlockTask) = "block",
        /// It can go on.
        Unblock(Reason) = "unblock",
        /// The work waits for a verdict.
        SubmitForReview(SubmitForReview) = "submit_for_review",
        /// The verdict is yes.
        Approve(Reason) = "approve",
        /// The verdict is no: back to the queue, or dead where no attempt is left.
        Reject(Reason) = "reject",
        /// The agent is done.
        Complete(CompleteTask) = "complete",
        /// The agent could not do it.
        Fail(FailTask) = "fail",
        /// The agent needs longer.
        Extend(ExtendTask) = "extend",
        /// The agent hands it back undone.
        Release(ReleaseTask) = "release",
        /// Nobody is to do it any more.
        Cancel(CancelTask) = "cancel",
        /// Into the queue: out of the inbox, or revived after failing, changed on the way.
        Requeue(RequeueTask) = "requeue",
        /// Takes it from its agent and gives it to another.
        Reassign(AssignTask) = "reassign",
        /// Takes it from its agent.
        Unassign(Reason) = "unassign",
        /// Drops a failed or dead task from the dead letters.
        Discard(Reason) = "discard",
        /// Takes it off every list; its history stays.
        Archive(Reason) = "archive",
        /// The scheduler noticed that the lease has run out.
        ExpireLease(ExpireLease) = "expire_lease",
        /// The time at which it should have been done has passed.
        MarkOverdue(Reason) = "mark_overdue",
        /// It has stood still for too long.
        Escalate(EscalateTask) = "escalate",
    }
}

fn yes() -> bool {
    true
}

/// Tells `null` (clear it, or a fault where there is nothing to clear) from absence
/// (leave it).
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// Gives a task to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignTask {
    /// The agent.
    pub agent_id: AgentId,
    /// How long the lease runs, in milliseconds; 30,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Why this agent; the scheduler writes down what it chose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The agent begins with it at once and need not say `start`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
    /// How the scheduler came to it; only its own word is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Box<Decision>>,
}

impl AssignTask {
    /// To this agent, for a lease of the usual length, not begun.
    pub fn to(agent_id: AgentId) -> Self {
        Self { agent_id, lease_ms: None, reason: None, start: false, decision: None }
    }
}

fn check_lease(check: Check, lease_ms: Option<u64>) -> Check {
    match lease_ms {
        Some(ms) => check.range("lease_ms", ms, MIN_LEASE_MS, MAX_LEASE_MS),
        None => check,
    }
}

impl Body for AssignTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        check_lease(Check::default(), self.lease_ms)
            .maybe("reason", self.reason.as_ref(), 2_000)
            .done()
    }
}

/// The agent begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
}

impl Body for StartTask {}

/// The agent tells how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgressTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// 0 to 100; three decimals are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub data: Json,
}

impl Body for ProgressTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let percent = self.percent.is_none_or(|p| (0.0..=100.0).contains(&p));
        Check::default()
            .rule(percent, "percent", "out_of_range", "`percent` must lie between 0 and 100")
            .maybe("message", self.message.as_ref(), 2_000)
            .value("data", &self.data)
            .done()
    }
}

/// Why something is done; may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Body for Reason {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

/// Nobody is to do it any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CancelTask {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its open subtasks are cancelled with it, and theirs; `true` when absent. Tasks that
    /// depend on it are not touched.
    #[serde(skip_serializing_if = "is_yes")]
    pub cascade: bool,
}

impl Default for CancelTask {
    fn default() -> Self {
        Self { reason: None, cascade: true }
    }
}

impl From<Reason> for CancelTask {
    fn from(why: Reason) -> Self {
        Self { reason: why.reason, ..Self::default() }
    }
}

impl Body for CancelTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

/// It has stood still for too long: the managers found at which task that lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EscalateTask {
    /// Since when it stands still.
    pub since: DateTime<Utc>,
    /// When that is too long.
    pub due_at: DateTime<Utc>,
    /// Where that one stands; absent where it was never submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_state: Option<TaskState>,
    /// From the task itself to the one at which it lies: each waits for the next.
    pub path: Vec<TaskId>,
}

impl Body for EscalateTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .rule(!self.path.is_empty(), "path", "required", "the task itself, at least")
            .rule(self.path.len() <= super::MAX_WALK, "path", "too_many", "at most 1,000 entries")
            .time("since", Some(self.since))
            .time("due_at", Some(self.due_at))
            .done()
    }
}

/// Back into the queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequeueTask {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is to be different this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<UpdateTask>,
}

impl Body for RequeueTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let reason = Check::default().maybe("reason", self.reason.as_ref(), 2_000).done();
        let changes = self.changes.as_ref().map_or(Ok(()), Body::check).map_err(|faults| {
            let below = |fault: FieldError| FieldError {
                pointer: format!("/changes{}", fault.pointer),
                ..fault
            };
            faults.into_iter().map(below).collect::<Vec<_>>()
        });
        match (reason, changes) {
            (Ok(()), changes) => changes,
            (Err(mut faults), changes) => {
                faults.extend(changes.err().unwrap_or_default());
                Err(faults)
            }
        }
    }
}

/// It can't go on for now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockTask {
    /// What it waits for.
    pub reason: String,
    /// Who may unblock it, by the name that their commands carry; nobody named: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifted_by: Vec<String>,
    /// The token, when the agent itself says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_token: Option<u64>,
}

impl Body for BlockTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .text("reason", &self.reason, 1, 2_000)
            .words("lifted_by", &self.lifted_by, 64)
            .done()
    }
}

/// The work waits for a verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitForReview {
    /// The token, when the agent itself says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_token: Option<u64>,
    /// What came out.
    pub result: Json,
}

impl Body for SubmitForReview {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("result", &self.result).done()
    }
}

/// The agent is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// What came out.
    #[serde(default)]
    pub result: Json,
}

impl Body for CompleteTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("result", &self.result).done()
    }
}

/// The agent could not do it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// What went wrong: a text or any JSON.
    #[serde(default)]
    pub error: Json,
    /// Whether another attempt may help.
    #[serde(default = "yes")]
    pub retryable: bool,
    /// The error's class, held against the task's `retry.retryable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// When another attempt is worth it, in milliseconds from now, instead of the backoff: what
    /// a service that was asked too often says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Body for FailTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .value("error", &self.error)
            .maybe("class", self.class.as_ref(), 128)
            .range("retry_after_ms", self.retry_after_ms.unwrap_or(0), 0, MAX_LEASE_MS)
            .done()
    }
}

/// The agent needs longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// From now on, in milliseconds; 30,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

impl Body for ExtendTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        check_lease(Check::default(), self.lease_ms).done()
    }
}

/// The agent hands the task back undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Body for ReleaseTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

/// The scheduler noticed that the lease has run out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireLease {
    /// The token of the lease that has run out.
    pub lease_token: u64,
}

impl Body for ExpireLease {}
