//! Agents: the workers of the fleet.
//!
//! An agent registers under a name that is unique in its tenant, becomes ready,
//! works, and leaves by draining, retiring or falling silent. Three facts are kept apart,
//! each with its own family of events: what is *desired* of it (operators: `deploy_requested`,
//! `draining`, `hibernated`, `woken`, `restarted`, `retired`, `force_stopped`, and `placed`,
//! which turns the wish into a process on a node), what is *observed* of it (its node:
//! `observed`, itself: `reported`) and what is *believed* of it (managers: `validated`,
//! `ready`, `assessed`, `quarantined`). Where desired and observed state differ for long,
//! that is an event of its own: `drifted`.
//!
//! An agent with a profile is *managed*: a node starts and stops it, an operation follows
//! what takes its time, and one at a time is under way. Others are started by people.
//!
//! Invariant: a retired agent never comes back; its name is free again. Nothing that is
//! observed moves an agent out of a final state.

mod aggregate;
mod command;
mod event;
mod observation;
mod round;
mod state;
mod upcast;

pub use aggregate::{Agent, Desired, Process, state_after};
pub use command::*;
pub use event::*;
pub use observation::*;
pub use round::*;
pub use state::AgentState;
