//! The scheduler: which task goes to which agent, by claim and by push.
//!
//! First-fit: the most urgent and oldest waiting task that an agent may have. Both
//! ways lead to the same `task assign`. `board` is the fold, `core` decides (both
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
mod handle;
mod listeners;
#[cfg(test)]
mod safety;
mod waiters;
mod waiting;
mod why;

pub use board::QueueDepth;
pub use handle::{Gauges, SchedulerHandle};

pub(in crate::process) use self::core::Scheduler;
pub(in crate::process) use deliver::{look_up, probe, serve};
