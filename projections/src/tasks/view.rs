//! The contract's Task.

use chrono::{DateTime, Utc};
use domain::task::{Affinity, Attachment, Dependency, TaskBlocked, TaskNumber, TaskState};
use domain::values::{Labels, Priority};
use domain::{AgentId, Json, TaskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Escalation, Part, Review, RollUp, TaskRow};

/// A task as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Task)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its short name within the tenant; an address may name it by that, too.
    pub number: TaskNumber,
    /// What is to be done, in a line.
    pub title: String,
    /// The same at length.
    pub description: Option<String>,
    /// The kind of work.
    #[serde(rename = "type")]
    pub kind: String,
    /// The queue it waits in.
    pub queue: String,
    /// The input of the work.
    pub payload: Json,
    /// Its urgency.
    pub priority: Priority,
    /// Where it stands.
    pub state: TaskState,
    /// What an agent must be able to do.
    pub capabilities: Vec<String>,
    /// Free labels, as they were given.
    pub labels: Labels,
    /// Who is meant to do it.
    pub assignees: Vec<String>,
    /// Who has it, or had it last before its end.
    pub agent_id: Option<AgentId>,
    /// Attempts begun.
    pub attempt: u32,
    /// Attempts in all.
    pub max_attempts: u32,
    /// When the current lease ends.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// The task that this one is a part of.
    pub parent_id: Option<TaskId>,
    /// Tasks that it waits for.
    pub depends_on: Vec<TaskId>,
    /// How many of those it needs, and what of them counts.
    pub dependency: Dependency,
    /// Its parts, oldest first; at most 1,000 are named.
    pub children: Vec<TaskId>,
    /// What its parts add up to; absent where it has none.
    pub subtasks: Option<RollUp>,
    /// Who submitted it.
    pub created_by: String,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it should be done.
    pub due_at: Option<DateTime<Utc>>,
    /// Not before this time.
    pub run_at: Option<DateTime<Utc>>,
    /// What the agent last told: `{ percent, message, data }`.
    pub progress: Json,
    /// What came out.
    pub result: Json,
    /// What went wrong last.
    pub error: Json,
    /// The class of that error, where the agent named one.
    pub error_class: Option<String>,
    /// The time by which it should have been done, once that has passed.
    pub overdue_at: Option<DateTime<Utc>>,
    /// That it stands still for too long, and where that lies.
    pub escalation: Option<Escalation>,
    /// What it waits for while it is blocked, and who may unblock it.
    pub blocked: Option<TaskBlocked>,
    /// The last verdict on its result.
    pub review: Option<Review>,
    /// What belongs to it, by reference.
    pub attachments: Vec<Attachment>,
    /// How long it is thought to take, in milliseconds.
    pub estimate_ms: Option<u64>,
    /// How long it may stand still while somebody works on it, in milliseconds.
    pub stall_ms: Option<u64>,
    /// What must hold for it to be accepted.
    pub acceptance_criteria: Vec<String>,
    /// What it is to bring about.
    pub deliverables: Vec<String>,
    /// Where it may run, and where it had better run.
    pub affinity: Box<Affinity>,
    /// When it was taken off the lists.
    pub archived_at: Option<DateTime<Utc>>,
    /// The stream's version.
    pub version: u64,
    /// Of its last event.
    pub position: u64,
}

impl TaskView {
    /// A row with its parts.
    pub fn of(id: TaskId, row: TaskRow, parts: &[Part]) -> Self {
        Self {
            id,
            number: row.number,
            title: row.title,
            description: row.description,
            kind: row.kind,
            queue: row.queue,
            payload: row.payload,
            priority: row.priority,
            state: row.state,
            capabilities: row.capabilities,
            labels: row.labels,
            assignees: row.assignees,
            agent_id: row.agent_id,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            lease_expires_at: row.lease_expires_at,
            parent_id: row.parent_id,
            depends_on: row.depends_on,
            dependency: row.dependency,
            children: parts.iter().map(|part| part.id).collect(),
            subtasks: RollUp::of(parts),
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
            due_at: row.due_at,
            run_at: row.run_at,
            progress: row.progress,
            result: row.result,
            error: row.error,
            error_class: row.error_class,
            overdue_at: row.overdue_at,
            escalation: row.escalation,
            blocked: row.blocked,
            review: row.review,
            attachments: row.attachments,
            estimate_ms: row.estimate_ms,
            stall_ms: row.stall_ms,
            acceptance_criteria: row.acceptance_criteria,
            deliverables: row.deliverables,
            affinity: row.affinity,
            archived_at: row.archived_at,
            version: row.version,
            position: row.position,
        }
    }
}
