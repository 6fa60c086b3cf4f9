//! Nodes: hosts that start agents.
//!
//! A node says what it offers when it registers, and tells again and again which agents it
//! runs; the answer says which it should ([`SyncRequest`], [`SyncReply`]). So what is wanted
//! of a node is a level, not a row of messages: whatever is lost on the way, the next
//! exchange carries it.

mod aggregate;
mod command;
mod event;
mod sync;
mod upcast;

pub use aggregate::{Node, NodeState};
pub use command::*;
pub use event::*;
pub use sync::*;
