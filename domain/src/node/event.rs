//! What can have happened to a node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::{AssessNode, RegisterNode};
use super::upcast::UPCASTS;
use crate::task::TaskNoted;

events! {
    /// The events of a node.
    NodeEvent of "node" upcast UPCASTS;
    {
        /// It was created.
        Registered(RegisterNode) = "registered" v 1,
        /// Its daemon is new; what it offers may be, too.
        Reconnected(RegisterNode) = "reconnected" v 1,
        /// Nothing new is placed on it, and what runs there moves away.
        Draining(TaskNoted) = "draining" v 1,
        /// It is given agents again.
        Resumed(TaskNoted) = "resumed" v 1,
        /// What its watcher concluded.
        Assessed(AssessNode) = "assessed" v 1,
        /// Gone for good.
        Retired(NodeRetired) = "retired" v 1,
    }
}

/// Gone for good; its name is free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRetired {
    /// The name that is free now.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
