//! What can have happened to a task. Shapes are for ever: a new optional field
//! takes `#[serde(default)]`, any other change raises the version (`upcast.rs`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Dependency;
use super::affinity::Affinity;
use super::decision::Decision;
use super::state::TaskState;
use super::submission::{Attachment, RetryPolicy};
use super::upcast::UPCASTS;
use crate::ids::{AgentId, TaskId};
use crate::json::Json;
use crate::values::{Labels, Priority};

events! {
    /// The events of a task.
    TaskEvent of "task" upcast UPCASTS;
    {
        /// It was created.
        Submitted(TaskSubmitted) = "submitted" v 1,
        /// Its description changed.
        Updated(TaskUpdated) = "updated" v 1,
        /// An agent got it, with a lease.
        Assigned(TaskAssigned) = "assigned" v 1,
        /// It was taken from its agent.
        Unassigned(TaskUnassigned) = "unassigned" v 1,
        /// The agent began.
        Started(TaskStarted) = "started" v 1,
        /// The agent told how far it is.
        Progressed(TaskProgressed) = "progressed" v 1,
        /// It can't go on for now.
        Blocked(TaskBlocked) = "blocked" v 1,
        /// It can go on.
        Unblocked(TaskNoted) = "unblocked" v 1,
        /// The work waits for a verdict.
        ReviewRequested(TaskReviewRequested) = "review_requested" v 1,
        /// The verdict was yes.
        Approved(TaskNoted) = "approved" v 1,
        /// The verdict was no.
        Rejected(TaskNoted) = "rejected" v 1,
        /// It is done.
        Completed(TaskCompleted) = "completed" v 1,
        /// An attempt failed; `retry_at` says when the next may begin.
        AttemptFailed(TaskAttemptFailed) = "attempt_failed" v 1,
        /// It ended by an error that no further attempt would mend.
        Failed(TaskFailed) = "failed" v 1,
        /// Its attempts are used up.
        DeadLettered(TaskDeadLettered) = "dead_lettered" v 1,
        /// The agent got longer.
        LeaseExtended(TaskLeaseExtended) = "lease_extended" v 1,
        /// The agent handed it back.
        Released(TaskUnassigned) = "released" v 1,
        /// The agent was silent past the lease.
        LeaseExpired(TaskLeaseExpired) = "lease_expired" v 1,
        /// Nobody is to do it any more.
        Cancelled(TaskCancelled) = "cancelled" v 1,
        /// It waits in the queue again.
        Requeued(TaskEnded) = "requeued" v 1,
        /// It is off every list.
        Archived(TaskNoted) = "archived" v 1,
        /// It should have been done by now and is not.
        Overdue(TaskOverdue) = "overdue" v 1,
        /// It has stood still for too long.
        Escalated(TaskEscalated) = "escalated" v 1,
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn yes() -> bool {
    true
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

/// All that was known at submission; see `SubmitTask` for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the same fields as SubmitTask")]
pub struct TaskSubmitted {
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    pub queue: String,
    pub payload: Json,
    pub priority: Priority,
    pub capabilities: Vec<String>,
    pub labels: Labels,
    pub assignees: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    pub depends_on: Vec<TaskId>,
    #[serde(default, skip_serializing_if = "Dependency::is_default")]
    pub dependency: Dependency,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    pub triage: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    pub retry: RetryPolicy,
    pub submitted_at: DateTime<Utc>,
    /// How many tasks stand above it: its parent, the parent's parent, and so on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptance_criteria: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliverables: Vec<String>,
    #[serde(default, skip_serializing_if = "Affinity::is_empty")]
    pub affinity: Box<Affinity>,
}

/// What changed; an absent field stayed, a `null` was cleared.
pub type TaskUpdated = super::submission::UpdateTask;

/// An agent got the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskAssigned {
    /// The agent.
    pub agent_id: AgentId,
    /// From 1.
    pub attempt: u32,
    /// Every answer must carry it.
    pub lease_token: u64,
    /// By the database's clock.
    pub lease_expires_at: DateTime<Utc>,
    /// The task's queue.
    pub queue: String,
    /// Why this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the scheduler came to it, where it was the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Box<Decision>>,
}

/// An agent does not have the task any more; the attempt does not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskUnassigned {
    /// The agent.
    pub agent_id: AgentId,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The agent began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskStarted {
    /// The agent.
    pub agent_id: AgentId,
    /// From 1.
    pub attempt: u32,
    /// The task's queue.
    pub queue: String,
    /// By the database's clock.
    pub started_at: DateTime<Utc>,
    /// Since the submission, in milliseconds.
    pub waited_ms: u64,
}

/// How far the agent is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskProgressed {
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub data: Json,
}

/// It can't go on for now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskBlocked {
    /// What it waits for.
    pub reason: String,
    /// Who may unblock it; nobody named: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifted_by: Vec<String>,
}

/// It should have been done by now and is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskOverdue {
    /// The time that has passed.
    pub due_at: DateTime<Utc>,
    /// Where it stands instead.
    pub state: TaskState,
    /// The task's queue.
    pub queue: String,
}

/// Nobody is to do it any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskCancelled {
    /// The task's queue.
    pub queue: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its open subtasks are to be cancelled too.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub cascade: bool,
}

/// It has stood still for too long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskEscalated {
    /// Since when it stands still.
    pub since: DateTime<Utc>,
    /// Where it stands itself.
    pub state: TaskState,
    /// The task at which it lies: itself, or the last of those it waits for.
    pub head: TaskId,
    /// Where that one stands; absent where it was never submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_state: Option<TaskState>,
    /// From the task itself to that one: each waits for the next.
    pub path: Vec<TaskId>,
    /// The task's queue.
    pub queue: String,
}

/// It happened, perhaps for a reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskNoted {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The work waits for a verdict; the lease has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskReviewRequested {
    /// What came out.
    pub result: Json,
}

/// It is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskCompleted {
    /// Who did it; absent where nobody held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What came out.
    pub result: Json,
    /// The task's queue.
    pub queue: String,
    /// Since the start of the attempt, in milliseconds.
    pub ran_ms: u64,
}

/// An attempt failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskAttemptFailed {
    /// The agent.
    pub agent_id: AgentId,
    /// From 1.
    pub attempt: u32,
    /// What went wrong.
    pub error: Json,
    /// The error's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// When the next attempt may begin; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// The task's queue.
    pub queue: String,
}

/// It ended by an error that no further attempt would mend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskFailed {
    /// What went wrong.
    pub error: Json,
    /// The task's queue.
    pub queue: String,
}

/// Its attempts are used up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskDeadLettered {
    /// How many there were.
    pub attempts: u32,
    /// The last error.
    pub error: Json,
    /// The task's queue.
    pub queue: String,
}

/// The agent got longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskLeaseExtended {
    /// The lease.
    pub lease_token: u64,
    /// By the database's clock.
    pub lease_expires_at: DateTime<Utc>,
}

/// The agent was silent past the lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskLeaseExpired {
    /// The agent.
    pub agent_id: AgentId,
    /// The attempt that ended thereby.
    pub attempt: u32,
    /// The lease that is void.
    pub lease_token: u64,
    /// The task's queue.
    pub queue: String,
}

/// It left a state for the reason given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskEnded {
    /// The task's queue.
    pub queue: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
