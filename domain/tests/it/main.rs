//! The rules as a caller of the crate meets them: given, when, then; properties; bad
//! input; and the corpus of every event that was ever stored.

mod agent;
mod bad_input;
mod crew;
mod golden;
mod golden_samples;
mod operation;
mod properties;
mod queue;
mod schedule;
mod schedule_times;
mod support;
mod task;
mod task_lease;
mod task_links;
mod task_retry;
mod task_table;
mod walk;
