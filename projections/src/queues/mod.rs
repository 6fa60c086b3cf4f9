//! Queues: how much waits where, read from the tasks and the counters, and what was
//! decided about them.
//!
//! A queue needs no row of its own: it exists while a task names it, or once did. What
//! was decided about it (its state, its policy) has one.

mod fold;
mod query;
mod view;

pub use fold::{QueueRow, Queues};
pub use view::{QueueStanding, QueueView};
