//! Nodes: one row each; what runs on them is read from the agents.

mod fold;
mod query;
mod view;

pub use fold::{NodeRow, Nodes};
pub(crate) use query::BY_ID;
pub use query::NodeFilter;
pub use view::{NodeView, Used};
