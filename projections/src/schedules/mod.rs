//! Schedules: one row each, as `GET /v1/schedules/{id}` shows it; a deleted one has none.

mod fold;
mod query;
mod view;

pub use fold::{ScheduleRow, Schedules};
pub(crate) use query::BY_ID;
pub use query::ScheduleFilter;
pub use view::ScheduleView;
