//! Schedules: tasks that are submitted when a time comes or an event happens.
//!
//! Words: a **slot** is an instant at which a schedule is to fire; a **firing** is the
//! decision to submit one task, numbered from 1 (its **run**); the **cursor** is the last
//! slot that was decided about, fired or skipped. The template is the body of a task.
//!
//! Invariants: a slot is decided about once, in order, and not before its time by the
//! database's clock (invariant 10); the id of a firing's task follows from schedule and
//! run, so whoever submits it submits the same task.

mod aggregate;
mod command;
pub mod cron;
mod event;
mod spec;
mod template;
mod timing;
mod upcast;

pub use aggregate::{Schedule, ScheduleState};
pub use command::*;
pub use event::*;
pub use spec::{MisfirePolicy, OverlapPolicy, ScheduleSpec};
pub use template::{Filling, Template};
pub use timing::{MOST_COUNTED, OnEvent, ScheduleKind, Timing, When};

use crate::ids::{ScheduleId, TaskId};

/// The task that a firing submits; the same for ever.
pub fn task_of(schedule: ScheduleId, run: u64) -> TaskId {
    TaskId(uuid::Uuid::new_v5(&schedule.0, format!("run:{run}").as_bytes()))
}
