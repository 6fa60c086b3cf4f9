//! A line of the audit.

use chrono::{DateTime, Utc};
use domain::{AgentId, CrewId, Problem, StreamType, TaskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AuditRow;

/// Whether the line tells of an event or of a command that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It happened.
    Event,
    /// It was asked for and refused.
    Refused,
}

/// A line of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Of the event, or the log's head when the command was refused.
    pub position: u64,
    /// Whether it happened.
    pub outcome: AuditOutcome,
    /// `<stream type>.<event>`, or `<stream type>.<command>` for a refusal.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who asked.
    pub actor: String,
    /// The kind of the stream.
    pub stream_type: StreamType,
    /// The stream.
    pub stream_id: Uuid,
    /// The stream's version after it.
    pub version: u64,
    /// The agent that it concerns.
    pub agent_id: Option<AgentId>,
    /// The task that it concerns.
    pub task_id: Option<TaskId>,
    /// The crew that it concerns.
    pub crew_id: Option<CrewId>,
    /// The command that led to it.
    pub command_id: Uuid,
    /// That command's name.
    pub command: Option<String>,
    /// The credential that it came with: `token:` and the first 16 hexadecimal digits of the
    /// token's SHA-256. Null when it came over NATS, whose senders share one, or from a manager.
    pub credential: Option<String>,
    /// The request that it came with: its trace id, 32 hexadecimal digits.
    pub request_id: Option<String>,
    /// What it belongs to, across streams.
    pub correlation_id: Option<Uuid>,
    /// The position of the event that caused it.
    pub cause: Option<u64>,
    /// When it was decided.
    pub occurred_at: DateTime<Utc>,
    /// In a line, for people.
    pub summary: String,
    /// Why it was refused.
    pub problem: Option<Problem>,
}

impl AuditEntry {
    /// The line of an event.
    pub fn of(position: u64, row: AuditRow) -> Self {
        Self {
            position,
            outcome: AuditOutcome::Event,
            kind: row.kind,
            actor: row.actor,
            stream_type: row.stream_type,
            stream_id: row.stream_id,
            version: row.version,
            agent_id: row.agent_id,
            task_id: row.task_id,
            crew_id: row.crew_id,
            command_id: row.command_id,
            command: None,
            credential: None,
            request_id: row.request.map(|id| id.simple().to_string()),
            correlation_id: row.correlation_id,
            cause: row.cause,
            occurred_at: row.occurred_at,
            summary: row.summary,
            problem: None,
        }
    }
}
