//! How the scheduler came to an assignment: enough to decide it once more from the log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::state::TaskState;
use crate::ids::{AgentId, TaskId};

/// Most candidates that a record names.
pub const MAX_CANDIDATES: usize = 4;

/// How the scheduler came to an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The token of the managers' lease under which it was made; 0 where there is none.
    pub session: u64,
    /// Its number in the session, from 1.
    pub nth: u64,
    /// The log position up to which the scheduler had read.
    pub seen: u64,
    /// The time it went by.
    pub at: DateTime<Utc>,
    /// Who is to have the task.
    pub agent_id: AgentId,
    /// What there was to choose from.
    pub choice: Choice,
    /// The best, the chosen one first. Of agents: points. Of tasks: their turn, the
    /// least negative comes first.
    pub candidates: Vec<Candidate>,
    /// How many there were, those that are not named included.
    pub of: u32,
    /// How many more would have been there, by what spoke against them.
    #[serde(default, skip_serializing_if = "Rejected::is_empty")]
    pub rejected: Rejected,
    /// What it learnt beside the log since the decisions before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learnt: Vec<Learnt>,
}

/// What there was to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// A task came up: agents whose claims wait.
    Claims,
    /// A task came up and nobody asks: agents that listen.
    Listeners,
    /// An agent asked: tasks of one queue.
    Queue,
    /// An agent that listens has room: tasks of all queues.
    Queues,
}

/// An agent or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Which.
    pub id: Uuid,
    /// The most comes first.
    pub score: i64,
}

/// How many were passed over, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rejected {
    /// The agent can't do it, or not in that version.
    #[serde(skip_serializing_if = "is_zero")]
    pub capability: u32,
    /// It is meant for others.
    #[serde(skip_serializing_if = "is_zero")]
    pub assignee: u32,
    /// A required label is missing, or an excluded one is there.
    #[serde(skip_serializing_if = "is_zero")]
    pub label: u32,
    /// The agent costs too much.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u32,
    /// It must not be this agent.
    #[serde(skip_serializing_if = "is_zero")]
    pub apart: u32,
    /// It waits for another agent still.
    #[serde(skip_serializing_if = "is_zero")]
    pub sticky: u32,
}

/// Why an agent may not have a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the same words as Rejected's fields")]
pub enum Rejection {
    Capability,
    Assignee,
    Label,
    Cost,
    Apart,
    Sticky,
}

/// What a scheduler can learn beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Learnt {
    /// An assignment that it had decided did not come about.
    Lost {
        /// The number of that decision.
        nth: u64,
        /// Its task.
        task: TaskId,
        /// Its agent.
        agent: AgentId,
        /// The log position up to which the scheduler had read when it was made.
        seen: u64,
        /// The time it went by.
        at: DateTime<Utc>,
        /// Before which decision it was learnt.
        before: u64,
        /// And after which log position.
        after: u64,
        /// The task rests until then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rest: Option<DateTime<Utc>>,
    },
    /// How a dependency stands that had ended before anybody waited for it.
    Found {
        /// The dependency.
        task: TaskId,
        /// Its state.
        state: TaskState,
        /// It is off every list.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        archived: bool,
        /// Before which decision it was learnt.
        before: u64,
        /// And after which log position.
        after: u64,
    },
}

impl Learnt {
    /// The number of the first decision that knew of it.
    pub const fn before(&self) -> u64 {
        match self {
            Self::Lost { before, .. } | Self::Found { before, .. } => *before,
        }
    }

    /// The log position after which it was learnt.
    pub const fn after(&self) -> u64 {
        match self {
            Self::Lost { after, .. } | Self::Found { after, .. } => *after,
        }
    }
}

impl Rejected {
    /// Nobody was.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Counts some more.
    pub fn add(&mut self, why: Rejection, more: usize) {
        let counter = match why {
            Rejection::Capability => &mut self.capability,
            Rejection::Assignee => &mut self.assignee,
            Rejection::Label => &mut self.label,
            Rejection::Cost => &mut self.cost,
            Rejection::Apart => &mut self.apart,
            Rejection::Sticky => &mut self.sticky,
        };
        *counter = counter.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like that")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
