//! Because of what an event happened, and what came of it: the log as a graph.
//!
//! An event's `causation_position` is what its command said caused it: managers always say it,
//! people and agents act by themselves. What an agent does with a task it was given has
//! therefore no recorded cause; it *follows* what came before it in its stream, and the graph
//! says which of the two a line is.

mod names;
mod query;
mod walk;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::{AgentId, Problem, StreamType, TaskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most levels up and down.
pub const MAX_DEPTH: u32 = 64;
/// Levels when nothing is said.
pub const DEPTH: u32 = 16;
/// Most entries of an answer.
pub const MAX_NODES: u32 = 1_000;
/// Entries when nothing is said.
pub const NODES: u32 = 200;

/// What to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The event at a position.
    Position(u64),
    /// The event of this id.
    Event(Uuid),
    /// All that happened to a task.
    Task(TaskId),
    /// The newest that happened to an agent.
    Agent(AgentId),
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Levels above and below what is explained, 1 to [`MAX_DEPTH`].
    pub depth: u32,
    /// Entries in all, 1 to [`MAX_NODES`].
    pub nodes: u32,
    /// Of the explained event's effects only those behind this position: how to go on where an
    /// answer was cut.
    pub after: u64,
}

/// How an entry hangs on the one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Somebody asked for it, because of nothing in the log.
    Root,
    /// It names the entry above as its cause.
    Caused,
    /// It names no cause; it came after the entry above in the same stream.
    Followed,
    /// Its cause lies outside of the answer: further up, or where the caller may not look.
    Beyond,
}

/// An event, or a command that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CauseNode {
    /// Of the event, or the log's head when the command was refused.
    pub position: u64,
    /// Whether it was refused: then nothing happened.
    pub refused: bool,
    /// The event's id; null for a refusal.
    pub event_id: Option<Uuid>,
    /// `<stream type>.<event>`, or `<stream type>.<command>` for a refusal.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of its stream.
    pub stream_type: StreamType,
    /// Its stream; its name stands in `names`.
    pub stream_id: Uuid,
    /// Its place in the stream.
    pub version: u64,
    /// When it was decided.
    pub occurred_at: DateTime<Utc>,
    /// Who asked.
    pub actor: String,
    /// The command that led to it.
    pub command_id: Uuid,
    /// That command's name.
    pub command: Option<String>,
    /// The credential that the command came with; null when it came over NATS or from a manager.
    pub credential: Option<String>,
    /// The request that it came with, where there was one.
    pub request_id: Option<String>,
    /// What it belongs to, across streams.
    pub correlation_id: Option<Uuid>,
    /// The position that it names as its cause.
    pub cause: Option<u64>,
    /// The agent that it names.
    pub agent_id: Option<AgentId>,
    /// In a line, for people.
    pub summary: String,
    /// Why it was refused.
    pub problem: Option<Problem>,
    /// The position of the entry that it hangs on in this answer; null at the top.
    pub from: Option<u64>,
    /// How it hangs there.
    pub link: Link,
    /// It is what was asked about.
    pub asked: bool,
    /// There is more below it than is shown, behind this position:
    /// `?event=<position>&after=<more_after>` goes on.
    pub more_after: Option<u64>,
}

/// The graph around what was asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Causes {
    /// Every entry once, in the order of positions.
    pub nodes: Vec<CauseNode>,
    /// What the streams and agents in it are called, by their ids: `TASK-7`, an agent's name.
    pub names: BTreeMap<Uuid, String>,
    /// The stream that was asked about has older events than are shown, up to this position.
    pub earlier: Option<u64>,
}
