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
    /// The trace id of the request; only what came with one has it, so never a manager's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
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
        Column::new("request", ColumnKind::Uuid),
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
            Cell::Uuid(row.request),
        ]
    }
}

impl AuditRow {
    /// The line of an event as it stands in the log. One of a later release is named and
    /// otherwise left as it is: it must not take the lines beside it along.
    pub fn read(recorded: &Recorded) -> Self {
        match recorded.event() {
            Ok(event) => Self::of(recorded, event),
            Err(error) => Self { summary: error.to_string(), ..Self::bare(recorded) },
        }
    }

    /// What the event's envelope says alone.
    fn bare(recorded: &Recorded) -> Self {
        let about = |kind| (recorded.stream_type == kind).then_some(recorded.stream_id);
        Self {
            kind: format!("{}.{}", recorded.stream_type, recorded.event_type),
            actor: recorded.actor.as_ref().to_owned(),
            stream_type: recorded.stream_type,
            stream_id: recorded.stream_id,
            version: recorded.version,
            agent_id: about(StreamType::Agent).map(AgentId),
            task_id: about(StreamType::Task).map(TaskId),
            crew_id: about(StreamType::Crew).map(CrewId),
            command_id: recorded.command_id,
            correlation_id: recorded.correlation_id,
            cause: recorded.causation_position,
            request: recorded.trace.as_deref().and_then(request),
            occurred_at: recorded.occurred_at,
            recorded_at: recorded.recorded_at,
            summary: String::new(),
        }
    }

    /// The line of an event.
    pub fn of(recorded: &Recorded, event: &Event) -> Self {
        Self {
            agent_id: agent_of(recorded, event),
            summary: summary(event),
            ..Self::bare(recorded)
        }
    }
}

/// The request that a `traceparent` belongs to: its trace id (W3C Trace Context, 3.2.2.3).
pub(crate) fn request(trace: &str) -> Option<Uuid> {
    Uuid::try_parse(trace.get(3..35)?).ok()
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
