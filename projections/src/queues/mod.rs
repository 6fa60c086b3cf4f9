//! Queues: how much waits where, read from the tasks and the counters.
//!
//! A queue has no row of its own: it exists while a task names it, or once did.

mod query;
mod view;

pub use view::QueueView;
