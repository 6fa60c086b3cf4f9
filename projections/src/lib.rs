//! The read side: pure folds of the log into rows, the engine that keeps them in
//! PostgreSQL, and the queries over them.
//!
//! Invariants: a fold reads nothing but its row and its event, so live, replayed and
//! past answers come from the same lines; rows and checkpoint change in one
//! transaction; every answer names the position it reflects; no decision of the write
//! side reads a row of these tables.

pub mod agents;
pub mod audit;
pub mod causes;
pub mod engine;
mod error;
pub mod events;
pub mod metrics;
pub mod models;
pub mod nodes;
pub mod operations;
pub mod profiles;
mod progress;
mod query;
pub mod queues;
pub mod schedules;
pub mod tasks;
#[cfg(test)]
mod testing;

pub use engine::{Key, Projection};
pub use error::{ProjectionError, QueryError};
pub use models::Model;
pub use progress::{Counted, Progress};
pub use query::{
    Answer, Cursor, Gathered, ModelView, Move, Moves, Page, PreviousView, Queries, RebuildView,
    Shown,
};
