//! Given events, then commands; and the runner against a log in memory that decides
//! with the real aggregates.

pub mod decisions;
pub mod log;
mod matching;
pub mod memory;
mod operations;
mod pure;
mod queues;
mod running;
mod schedules;
mod schedules_pure;
mod subtasks;
mod why;
