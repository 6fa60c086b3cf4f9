//! The registry: one row per agent.
//!
//! Invariants: desired, observed and believed state come from different events; the
//! tasks an agent holds, and with them `busy`, are read from the tasks themselves, so
//! the two can't contradict each other; what only heartbeats know is laid over the
//! answer by the gateway and is null here.

mod fleet;
mod fold;
mod query;
mod view;

pub use fleet::{CapabilityView, FleetView, HealthView, HealthWord};
pub use fold::{AgentRow, Agents};
pub use query::AgentFilter;
pub(crate) use query::BY_ID;
pub use view::{AgentView, ProcessView, RoundView};
