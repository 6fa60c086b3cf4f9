//! What each event makes of a task's row.

use chrono::{DateTime, Utc};
use domain::task::{
    Affinity, Attachment, Dependency, TaskBlocked, TaskEscalated, TaskEvent, TaskNoted, TaskNumber,
    TaskState, TaskSubmitted, TaskUpdated,
};
use domain::values::{Labels, Priority};
use domain::{AgentId, Event, Json, Recorded, StreamType, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{label_terms, search_text};
use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of tasks.
#[derive(Debug, Clone, Copy)]
pub struct Tasks;

/// What is kept of a task; see [`super::TaskView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as TaskView, but for those explained")]
pub struct TaskRow {
    pub number: TaskNumber,
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    pub queue: String,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub payload: Json,
    pub priority: Priority,
    pub state: TaskState,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assignees: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    pub attempt: u32,
    pub max_attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    #[serde(default, skip_serializing_if = "Dependency::is_default")]
    pub dependency: Dependency,
    pub created_by: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub progress: Json,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub result: Json,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub error: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<Escalation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<TaskBlocked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    pub version: u64,
    pub position: u64,
    /// Of its first event: the order of lists, which never changes.
    pub created: u64,
    /// Since when it waits in its queue; the queue's age is the oldest of these.
    pub queued_at: Timestamp,
    /// How far its agent last said it is, in whole percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

/// That a task stands still for too long, and where that lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Escalation {
    /// When that was recorded.
    pub at: DateTime<Utc>,
    /// Since when it stands still.
    pub since: DateTime<Utc>,
    /// The task at which it lies: itself, or the last of those it waits for.
    pub head: TaskId,
    /// Where that one stood; absent where it was never submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_state: Option<TaskState>,
    /// From the task itself to that one: each waits for the next.
    pub path: Vec<TaskId>,
}

/// The last verdict on a task's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Review {
    /// Whether it was accepted.
    pub approved: bool,
    /// What the reviewer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
    /// Who it was.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl Projection for Tasks {
    const NAME: &'static str = "tasks";
    const COLUMNS: &'static [Column] = &[
        Column::new("created", ColumnKind::Int),
        Column::new("number", ColumnKind::Int),
        Column::new("state", ColumnKind::Text),
        Column::new("queue", ColumnKind::Text),
        Column::new("priority", ColumnKind::Int),
        Column::new("agent_id", ColumnKind::Uuid),
        Column::new("holder", ColumnKind::Uuid),
        Column::new("parent_id", ColumnKind::Uuid),
        Column::new("due_at", ColumnKind::Int),
        Column::new("queued_at", ColumnKind::Int),
        Column::new("archived", ColumnKind::Bool),
        Column::new("capabilities", ColumnKind::Words),
        Column::new("labels", ColumnKind::Words),
        Column::new("search", ColumnKind::Text),
        Column::new("percent", ColumnKind::Int),
        Column::new("escalated_at", ColumnKind::Int),
    ];
    const NUMBERED: Option<StreamType> = Some(StreamType::Task);
    type Key = Uuid;
    type Row = TaskRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        match event {
            Event::Task(_) => vec![recorded.stream_id],
            Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => Vec::new(),
        }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<TaskRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<TaskRow> {
        let Event::Task(event) = event else { return row };
        let mut row = match (event, row) {
            (TaskEvent::Submitted(new), _) => return Some(TaskRow::submitted(new, recorded)),
            (_, None) => return None,
            (_, Some(row)) => row,
        };
        row.apply(event, &recorded.actor, recorded.occurred_at);
        row.updated_at = recorded.occurred_at;
        row.version = recorded.version;
        row.position = recorded.position;
        Some(row)
    }

    fn number(row: &mut TaskRow, number: u64) {
        row.number = TaskNumber(number);
    }

    fn shown(key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::TaskView::of(domain::TaskId(*key), row, &[]))
            .unwrap_or_default()
    }

    fn index(_: &Uuid, row: &TaskRow) -> Vec<Cell> {
        let agent = row.agent_id.map(|id| id.0);
        vec![
            Cell::position(row.created),
            Cell::position(row.number.0),
            Cell::text(row.state.as_str()),
            Cell::text(&row.queue),
            Cell::Int(Some(row.priority as i64)),
            Cell::Uuid(agent),
            Cell::Uuid(agent.filter(|_| row.is_held())),
            Cell::Uuid(row.parent_id.map(|id| id.0)),
            Cell::instant(row.due_at),
            Cell::instant(Some(row.queued_at)),
            Cell::Bool(row.archived_at.is_some()),
            Cell::Words(row.capabilities.clone()),
            Cell::Words(label_terms(&row.labels)),
            Cell::Text(Some(search_text(&row.title, row.description.as_deref()))),
            Cell::Int(row.percent.map(i64::from)),
            Cell::instant(row.escalation.as_ref().map(|said| said.at)),
        ]
    }
}

impl Escalation {
    fn of(said: &TaskEscalated, at: Timestamp) -> Self {
        let TaskEscalated { since, head, head_state, path, .. } = said.clone();
        Self { at, since, head, head_state, path }
    }
}

impl Review {
    fn of(approved: bool, said: &TaskNoted, by: &str, at: Timestamp) -> Self {
        Self { approved, feedback: said.reason.clone(), by: by.to_owned(), at }
    }
}

impl TaskRow {
    fn submitted(new: &TaskSubmitted, recorded: &Recorded) -> Self {
        let new = new.clone();
        Self {
            // The engine counts; see `Projection::number`.
            number: TaskNumber::default(),
            title: new.title,
            description: new.description,
            kind: new.kind,
            queue: new.queue,
            payload: new.payload,
            priority: new.priority,
            state: if new.triage { TaskState::Inbox } else { TaskState::Queued },
            capabilities: new.capabilities,
            labels: new.labels,
            assignees: new.assignees,
            agent_id: None,
            attempt: 0,
            max_attempts: new.retry.max_attempts,
            lease_expires_at: None,
            parent_id: new.parent_id,
            depends_on: new.depends_on,
            dependency: new.dependency,
            created_by: recorded.actor.as_ref().to_owned(),
            created_at: new.submitted_at,
            updated_at: recorded.occurred_at,
            due_at: new.due_at,
            run_at: new.run_at,
            progress: Json::null(),
            result: Json::null(),
            error: Json::null(),
            error_class: None,
            overdue_at: None,
            escalation: None,
            blocked: None,
            review: None,
            attachments: new.attachments,
            estimate_ms: new.estimate_ms,
            stall_ms: new.stall_ms,
            acceptance_criteria: new.acceptance_criteria,
            deliverables: new.deliverables,
            affinity: new.affinity,
            archived_at: None,
            version: recorded.version,
            position: recorded.position,
            created: recorded.position,
            queued_at: recorded.occurred_at,
            percent: None,
        }
    }

    /// Whether an agent has it now.
    pub fn is_held(&self) -> bool {
        matches!(self.state, TaskState::Assigned | TaskState::InProgress | TaskState::Blocked)
    }

    fn apply(&mut self, event: &TaskEvent, actor: &str, at: Timestamp) {
        use TaskEvent as E;
        match event {
            E::Submitted(_) => {}
            E::Approved(said) => self.review = Some(Review::of(true, said, actor, at)),
            E::Updated(changes) => self.update(changes),
            E::Assigned(to) => {
                self.state = TaskState::Assigned;
                self.agent_id = Some(to.agent_id);
                self.attempt = to.attempt;
                self.lease_expires_at = Some(to.lease_expires_at);
                self.progress = Json::null();
                (self.percent, self.escalation) = (None, None);
            }
            E::Unassigned(_) | E::Released(_) => {
                self.attempt = self.attempt.saturating_sub(1);
                self.wait(at);
            }
            E::Started(_) | E::Unblocked(_) => {
                self.state = TaskState::InProgress;
                (self.blocked, self.escalation) = (None, None);
            }
            E::Progressed(far) => {
                self.progress = Json::of(far);
                self.percent = far.percent.map(|percent| percent as u8);
            }
            E::Blocked(by) => {
                self.state = TaskState::Blocked;
                self.blocked = Some(by.clone());
            }
            E::ReviewRequested(asked) => {
                self.result = asked.result.clone();
                self.end(TaskState::Review);
            }
            E::Completed(done) => {
                self.result = done.result.clone();
                self.error = Json::null();
                self.error_class = None;
                self.end(TaskState::Done);
            }
            E::AttemptFailed(failed) => {
                self.error = failed.error.clone();
                self.error_class = failed.class.clone();
                let last = self.agent_id;
                self.wait(at);
                // When this was the last attempt, the end that follows names who had it.
                self.agent_id = last.filter(|_| failed.retry_at.is_none());
            }
            E::Rejected(said) => {
                self.review = Some(Review::of(false, said, actor, at));
                self.wait(at);
            }
            E::Overdue(late) => self.overdue_at = Some(late.due_at),
            E::Escalated(said) => self.escalation = Some(Escalation::of(said, at)),
            E::LeaseExpired(_) => self.wait(at),
            E::Failed(failed) => {
                self.error = failed.error.clone();
                self.end(TaskState::Failed);
            }
            E::DeadLettered(dead) => {
                // The class is that of a failed attempt; a lost lease or a rejection has none.
                if dead.error != self.error {
                    self.error_class = None;
                }
                self.error = dead.error.clone();
                self.end(TaskState::Dead);
            }
            E::LeaseExtended(longer) => self.lease_expires_at = Some(longer.lease_expires_at),
            E::Cancelled(_) => self.end(TaskState::Cancelled),
            E::Requeued(_) => {
                self.attempt = 0;
                self.result = Json::null();
                self.error = Json::null();
                self.error_class = None;
                self.wait(at);
            }
            E::Archived(_) => self.archived_at = Some(at),
        }
    }

    fn update(&mut self, changes: &TaskUpdated) {
        let changes = changes.clone();
        self.title = changes.title.unwrap_or(std::mem::take(&mut self.title));
        self.description = changes.description.unwrap_or(self.description.take());
        if let Some(payload) = changes.payload {
            self.payload = payload;
        }
        self.priority = changes.priority.unwrap_or(self.priority);
        if let Some(capabilities) = changes.capabilities {
            self.capabilities = capabilities;
        }
        if let Some(labels) = changes.labels {
            self.labels = labels;
        }
        if let Some(assignees) = changes.assignees {
            self.assignees = assignees;
        }
        if let Some(depends_on) = changes.depends_on {
            self.depends_on = depends_on;
            self.escalation = None;
        }
        self.dependency = changes.dependency.unwrap_or(self.dependency);
        if let Some(due_at) = changes.due_at {
            self.due_at = due_at;
            self.overdue_at = None;
        }
        self.attachments = changes.attachments.unwrap_or(std::mem::take(&mut self.attachments));
        self.estimate_ms = changes.estimate_ms.unwrap_or(self.estimate_ms);
        self.stall_ms = changes.stall_ms.unwrap_or(self.stall_ms);
        if let Some(criteria) = changes.acceptance_criteria {
            self.acceptance_criteria = criteria;
        }
        if let Some(deliverables) = changes.deliverables {
            self.deliverables = deliverables;
        }
        if let Some(affinity) = changes.affinity {
            self.affinity = affinity;
        }
        self.run_at = changes.run_at.unwrap_or(self.run_at);
    }

    /// Back into the queue, with nobody's hand on it.
    fn wait(&mut self, at: Timestamp) {
        self.end(TaskState::Queued);
        self.agent_id = None;
        self.progress = Json::null();
        self.percent = None;
        self.queued_at = at;
    }

    fn end(&mut self, state: TaskState) {
        self.state = state;
        self.lease_expires_at = None;
        (self.blocked, self.escalation) = (None, None);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
