//! What can be asked of a node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::aggregate::NodeState;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::profile::{Level, Runtime};
pub use crate::task::Reason;
use crate::values::{Check, Labels};

commands! {
    /// The commands of a node.
    NodeCommand {
        /// Creates it, or connects a known one again.
        Register(RegisterNode) = "register",
        /// Nothing new is placed on it, and what runs there moves away.
        Drain(Reason) = "drain",
        /// It is given agents again.
        Resume(Reason) = "resume",
        /// What its watcher concludes.
        Assess(AssessNode) = "assess",
        /// Gone for good; the name is free again.
        Retire(Reason) = "retire",
    }
}

/// What a node offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Agents at once.
    pub slots: u32,
}

/// A node as it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterNode {
    /// Unique among the tenant's nodes that are not retired.
    pub name: String,
    /// What it offers.
    pub capacity: Capacity,
    /// Free labels.
    #[serde(default)]
    pub labels: Labels,
    /// The strongest isolation that it can enforce.
    #[serde(default)]
    pub level: Level,
    /// What it can start agents in.
    #[serde(default = "process")]
    pub runtimes: Vec<Runtime>,
    /// The version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

fn process() -> Vec<Runtime> {
    vec![Runtime::Process]
}

impl Body for RegisterNode {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .text("name", &self.name, 1, 128)
            .range("capacity/cpu_millis", self.capacity.cpu_millis, 1, 1_024_000_000)
            .range("capacity/memory_bytes", self.capacity.memory_bytes, 1 << 20, 1 << 50)
            .range("capacity/slots", self.capacity.slots.into(), 1, 100_000)
            .labels("labels", &self.labels)
            .rule(self.runtimes.len() <= 8, "runtimes", "too_many", "at most 8 runtimes")
            .maybe("version", self.version.as_ref(), 128)
            .done()
    }
}

/// What the watcher of nodes concludes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssessNode {
    /// online or offline.
    pub state: NodeState,
    /// For people.
    pub reason: String,
}

impl Body for AssessNode {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let seen = matches!(self.state, NodeState::Online | NodeState::Offline);
        Check::default()
            .rule(seen, "state", "unknown_value", "online or offline")
            .text("reason", &self.reason, 0, 2_000)
            .done()
    }
}
