//! Nodes over HTTP: what they offer, and emptying them.

mod routes;

pub(crate) use routes::COMMANDS;
pub use routes::{
    __path_command_node, __path_get_node, __path_list_nodes, command_node, get_node, list_nodes,
};
