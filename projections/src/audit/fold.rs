//! The line of each event.

use domain::crew::CrewEvent;
use domain::task::TaskEvent;
use domain::{AgentId, CrewId, Event, Recorded, StreamType, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::summary;
use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of the audit.
#[derive(Debug, Clone, Copy)]
pub struct Audit;

/// What is kept of an event; see [`super::AuditEntry`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as AuditEntry, but for the one explained")]
pub struct AuditRow {
    #[serde(rename = "type")]
    pub kind: String,
    pub actor: String,
    pub stream_type: StreamType,
    pub stream_id: Uuid,
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crew_id: Option<CrewId>,
    pub command_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    pub occurred_at: Timestamp,
    /// Never runs backwards along positions: what `from` and `to` are held against.
    pub recorded_at: Timestamp,
    pub summary: String,
}

impl Projection for Audit {
    const NAME: &'static str = "audit";
    const COLUMNS: &'static [Column] = &[
        Column::new("type", ColumnKind::Text),
        Column::new("actor", ColumnKind::Text),
        Column::new("agent_id", ColumnKind::Uuid),
        Column::new("correlation_id", ColumnKind::Uuid),
        Column::new("cause", ColumnKind::Int),
    ];
    const WRITE_ONCE: bool = true;
    const AT: &'static str = "key";
    /// The log has the event; a copy of it would double the cost of every command.
    const DOCUMENT: bool = false;
    /// The event's position.
    type Key = i64;
    type Row = AuditRow;

    fn keys(recorded: &Recorded, _: &Event) -> Vec<i64> {
        i64::try_from(recorded.position).into_iter().collect()
    }

    fn fold(
        &self,
        _: &i64,
        _: Option<AuditRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<AuditRow> {
        Some(AuditRow::of(recorded, event))
    }

    fn index(_: &i64, row: &AuditRow) -> Vec<Cell> {
        vec![
            Cell::text(&row.kind),
            Cell::text(&row.actor),
            Cell::Uuid(row.agent_id.map(|id| id.0)),
            Cell::Uuid(row.correlation_id),
            Cell::Int(row.cause.and_then(|cause| i64::try_from(cause).ok())),
        ]
    }
}

impl AuditRow {
    /// The line of an event.
    pub fn of(recorded: &Recorded, event: &Event) -> Self {
        Self {
            kind: format!("{}.{}", recorded.stream_type, recorded.event_type),
            actor: recorded.actor.as_ref().to_owned(),
            stream_type: recorded.stream_type,
            stream_id: recorded.stream_id,
            version: recorded.version,
            agent_id: agent_of(recorded, event),
            task_id: matches!(event, Event::Task(_)).then_some(TaskId(recorded.stream_id)),
            crew_id: matches!(event, Event::Crew(_)).then_some(CrewId(recorded.stream_id)),
            command_id: recorded.command_id,
            correlation_id: recorded.correlation_id,
            cause: recorded.causation_position,
            occurred_at: recorded.occurred_at,
            recorded_at: recorded.recorded_at,
            summary: summary(event),
        }
    }
}

/// The agent that an event names.
fn agent_of(recorded: &Recorded, event: &Event) -> Option<AgentId> {
    match event {
        Event::Agent(_) => Some(AgentId(recorded.stream_id)),
        Event::Task(event) => match event {
            TaskEvent::Assigned(to) => Some(to.agent_id),
            TaskEvent::Unassigned(from) | TaskEvent::Released(from) => Some(from.agent_id),
            TaskEvent::Started(by) => Some(by.agent_id),
            TaskEvent::Completed(by) => by.agent_id,
            TaskEvent::AttemptFailed(by) => Some(by.agent_id),
            TaskEvent::LeaseExpired(by) => Some(by.agent_id),
            TaskEvent::Submitted(_)
            | TaskEvent::Updated(_)
            | TaskEvent::Progressed(_)
            | TaskEvent::Blocked(_)
            | TaskEvent::Unblocked(_)
            | TaskEvent::ReviewRequested(_)
            | TaskEvent::Approved(_)
            | TaskEvent::Rejected(_)
            | TaskEvent::Failed(_)
            | TaskEvent::DeadLettered(_)
            | TaskEvent::LeaseExtended(_)
            | TaskEvent::Cancelled(_)
            | TaskEvent::Requeued(_)
            | TaskEvent::Overdue(_)
            | TaskEvent::Escalated(_)
            | TaskEvent::Archived(_) => None,
        },
        Event::Crew(CrewEvent::RoleAssigned(role)) => Some(role.agent_id),
        Event::Crew(_)
        | Event::Operation(_)
        | Event::Schedule(_)
        | Event::Queue(_)
        | Event::Node(_)
        | Event::Profile(_) => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
