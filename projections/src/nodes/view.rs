//! A node as it is shown.

use chrono::{DateTime, Utc};
use domain::node::{Capacity, NodeState};
use domain::profile::{Level, Runtime};
use domain::values::Labels;
use domain::{AgentId, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeRow;

/// What agents take of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Agents.
    pub slots: u64,
}

/// A node as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Unique among the tenant's nodes that are not retired.
    pub name: String,
    /// Where it stands.
    pub state: NodeState,
    /// Why, where somebody said so.
    pub reason: Option<String>,
    /// Since when.
    pub state_since: DateTime<Utc>,
    /// What it offers.
    pub capacity: Capacity,
    /// What its agents have reserved of that.
    pub used: Used,
    /// Free labels, as they were given.
    pub labels: Labels,
    /// The strongest isolation that it can enforce.
    pub level: Level,
    /// What it can start agents in.
    pub runtimes: Vec<Runtime>,
    /// The version of its program.
    pub version: Option<String>,
    /// The agents that have a process there, at most 1,000.
    pub agents: Vec<AgentId>,
    /// When it was first registered.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// The stream's version.
    pub stream_version: u64,
    /// Of its last event.
    pub position: u64,
}

impl NodeView {
    /// A row with the agents on the node and what they take.
    pub fn of(id: NodeId, row: NodeRow, agents: Vec<AgentId>, used: Used) -> Self {
        let state = row.state();
        let said = row.said;
        Self {
            id,
            name: said.name,
            state,
            reason: row.reason,
            state_since: row.state_since,
            capacity: said.capacity,
            used,
            labels: said.labels,
            level: said.level,
            runtimes: said.runtimes,
            version: said.version,
            agents,
            created_at: row.created_at,
            updated_at: row.updated_at,
            stream_version: row.stream_version,
            position: row.position,
        }
    }
}
