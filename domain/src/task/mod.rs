//! Tasks: units of work, each held by at most one agent at a time.
//!
//! A task is submitted, waits in a queue, is assigned with a lease, started,
//! and ends as done, failed, dead or cancelled. A *lease* is the right to
//! answer for a task: it has a token that grows with every assignment and an
//! expiry by the database's clock.
//!
//! Invariants: an answer with another token than the current one is refused,
//! whatever the clock says; `attempt <= max_attempts`; tokens only grow.

mod affinity;
mod aggregate;
mod assignment;
mod command;
mod decision;
mod dependency;
mod event;
mod links;
mod number;
mod state;
mod submission;
mod upcast;

pub use affinity::*;
pub use aggregate::{Lease, SCHEDULER, Task};
pub use assignment::*;
pub use command::*;
pub use decision::*;
pub use dependency::*;
pub use event::*;
pub use links::*;
pub use number::{NotATask, TaskNumber, TaskRef};
pub use state::TaskState;
pub use submission::*;
