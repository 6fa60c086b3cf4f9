//! Schedules over HTTP: tasks that are submitted when a time comes or an event happens.

mod routes;

pub(crate) use routes::NOT_HERE;
pub use routes::{
    __path_command_schedule, __path_create_schedule, __path_delete_schedule, __path_get_schedule,
    __path_list_schedules, __path_next_runs, __path_update_schedule, command_schedule,
    create_schedule, delete_schedule, get_schedule, list_schedules, next_runs, update_schedule,
};
