//! Agents: the workers of the fleet.
//!
//! An agent registers under a name that is unique in its tenant, becomes ready,
//! works, and leaves by draining, retiring or falling silent. What is wanted of
//! it (`desired`), what it says of itself (`report`) and what we believe
//! (`state`) are different facts.
//!
//! Invariant: a retired agent never comes back; its name is free again.

mod aggregate;
mod command;
mod event;
mod upcast;

pub use aggregate::{Agent, AgentState, state_after};
pub use command::*;
pub use event::*;
