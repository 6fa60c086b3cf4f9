//! The exchange between a node and the managers: what runs there, and what should.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::agent::Phase;
use crate::ids::AgentId;
use crate::macros::Body;
use crate::problem::{FieldError, Problem};
use crate::profile::Profile;
use crate::values::Check;

/// Agents that one exchange may name.
pub const MAX_AGENTS: usize = 10_000;

/// Request on `taffrail.<tenant>.node.<id>.sync`: every few seconds, and at once after the
/// control word `sync`. It is the node's sign of life, and its agents' that have none of
/// their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Made anew when the daemon starts.
    pub boot: Uuid,
    /// What the node has of each agent that it knows.
    #[serde(default)]
    pub agents: Vec<Running>,
}

impl Body for SyncRequest {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let few = self.agents.len() <= MAX_AGENTS;
        Check::default().rule(few, "agents", "too_many", "at most 10,000 agents").done()
    }
}

/// One agent as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// The agent.
    pub agent_id: AgentId,
    /// Of the process.
    pub generation: u32,
    /// How far it is.
    pub phase: Phase,
}

/// The answer: all that the node should run. What is not named is to be stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SyncReply {
    /// Whether the request was understood and the node is known; if not, `agents` means
    /// nothing.
    pub ok: bool,
    /// The agents that are placed on the node.
    #[serde(default)]
    pub agents: Vec<Wanted>,
    /// Why not. `not-found`: register (again).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What is wanted of one agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It runs.
    Run,
    /// It ends: SIGTERM, and SIGKILL after the grace.
    Stop,
    /// It ends at once.
    Kill,
}

/// One agent that is placed on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Wanted {
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
    /// Of the process; an older one is to be stopped first.
    pub generation: u32,
    /// What is wanted.
    pub want: Want,
    /// What to start. Absent when the request named this generation already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Box<Launch>>,
}

/// All that starting an agent takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Launch {
    /// The profile's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_name: Option<String>,
    /// The profile, put together with those that it extends.
    pub profile: Profile,
    /// What the agent's role is.
    pub role: String,
    /// What the agent can do: what it claims and registers with where the node speaks for it.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Tasks that it holds at once.
    pub slots: u32,
}
