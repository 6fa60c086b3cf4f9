//! What became of a command, as every caller gets it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::problem::Problem;

/// The five ways in which a command can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its events (perhaps none) are committed.
    Accepted,
    /// The rules refused it; the refusal is committed.
    Refused,
    /// It could not be understood; nothing is remembered under its id.
    Invalid,
    /// It had been decided before; `original` has the first outcome.
    Duplicate,
    /// It was not taken; nothing is remembered under its id.
    Busy,
}

/// An event that a command led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeEvent {
    /// The event's name within its stream type, such as `submitted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its place in the log.
    pub position: u64,
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The command's id.
    pub command_id: Uuid,
    /// The stream it was meant for.
    pub stream_id: Uuid,
    /// The stream's version after it.
    pub version: u64,
    /// Of the last event, or the head at the decision where there is none.
    pub position: u64,
    /// The events, in order.
    pub events: Vec<OutcomeEvent>,
    /// Why it did not happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The first outcome, for a duplicate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub original: Option<Box<Outcome>>,
    /// When to try again, for `busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Outcome {
    /// An outcome that is not remembered: the command was not decided.
    pub fn undecided(status: Status, command_id: Uuid, stream_id: Uuid, problem: Problem) -> Self {
        Self {
            status,
            command_id,
            stream_id,
            version: 0,
            position: 0,
            events: Vec::new(),
            retry_after_ms: problem.retry_after_ms,
            problem: Some(problem),
            original: None,
        }
    }

    /// The answer to a repeat of a decided command.
    pub fn duplicate_of(first: Self) -> Self {
        Self {
            status: Status::Duplicate,
            command_id: first.command_id,
            stream_id: first.stream_id,
            version: first.version,
            position: first.position,
            events: first.events.clone(),
            problem: first.problem.clone(),
            retry_after_ms: None,
            original: Some(Box::new(first)),
        }
    }

    /// The outcome of the decision itself: the first one for a duplicate.
    pub fn decision(&self) -> &Self {
        self.original.as_deref().unwrap_or(self)
    }
}
