//! Tasks over HTTP.

mod list;
mod routes;
mod why;

pub use list::{
    __path_list_children, __path_list_dead_letters, __path_list_task_events, __path_list_tasks,
    list_children, list_dead_letters, list_task_events, list_tasks,
};
pub(crate) use routes::NOT_HERE;
pub use routes::{
    __path_archive_task, __path_command_task, __path_get_task, __path_requeue_dead_letter,
    __path_submit_task, __path_update_task, archive_task, command_task, get_task,
    requeue_dead_letter, submit_task, update_task,
};
pub use why::{__path_why_task, why_task};
