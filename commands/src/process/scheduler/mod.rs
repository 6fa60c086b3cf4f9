//! The scheduler: which task goes to which agent, by claim and by push.
//!
//! An agent gets the oldest task that it may have, of the priority whose turn it is by
//! the queue's policy (`share`, `rules`), as far as limits let it (`groups`). Both ways
//! lead to the same `task assign`. `board` is the fold, `core` decides (both
//! pure), `handle` and `deliver` carry it out.
//!
//! Invariants: a task is on its way to at most one agent at a time (it is *reserved*
//! until its outcome is folded, and its command expects the stream's version and derives
//! its id from it, so that two schedulers at once collide); an agent never gets more
//! than its slots; a waiting claim comes before a push.

mod board;
mod core;
mod deliver;
mod entry;
mod facts;
mod fits;
pub mod fork;
mod groups;
mod handle;
mod listeners;
mod matching;
mod needs;
mod record;
#[cfg(test)]
mod released;
mod rules;
#[cfg(test)]
mod safety;
mod share;
#[cfg(test)]
mod sim;
mod stuck;
mod trial;
mod verify;
mod waiters;
mod waiting;
mod why;

pub use board::QueueDepth;
pub use fits::{Fit, Fits};
pub use handle::{Gauges, SchedulerHandle};
pub use trial::Trial;
pub use verify::{DecisionFault, DecisionReport, Decisions, Follower};
pub use why::Waits;

pub(in crate::process) use self::core::Scheduler;
pub(in crate::process) use deliver::{escalate, look_up, probe, serve};
