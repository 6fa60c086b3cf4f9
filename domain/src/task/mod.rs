//! Tasks: units of work, each held by at most one agent at a time.
//!
//! A task is submitted, waits in a queue, is assigned with a lease, started,
//! and ends as done, failed, dead or cancelled. A *lease* is the right to
//! answer for a task: it has a token that grows with every assignment and an
//! expiry by the database's clock.
//!
//! Invariants: an answer with another token than the current one is refused,
//! whatever the clock says; `attempt <= max_attempts`; tokens only grow.

mod aggregate;
mod assignment;
mod command;
mod event;
mod number;
mod state;
mod upcast;

pub use aggregate::{Lease, Task};
pub use assignment::*;
pub use command::*;
pub use event::*;
pub use number::{NotATask, TaskNumber, TaskRef};
pub use state::TaskState;
