//! Tasks over HTTP.

mod candidates;
mod dead;
mod list;
mod named;
mod routes;
mod why;

pub use candidates::{__path_candidates, candidates};
pub use dead::{
    __path_discard_dead_letter, __path_discard_dead_letters, __path_requeue_dead_letter,
    __path_requeue_dead_letters, discard_dead_letter, discard_dead_letters, requeue_dead_letter,
    requeue_dead_letters,
};
pub use list::{
    __path_list_children, __path_list_dead_letters, __path_list_task_events, __path_list_tasks,
    list_children, list_dead_letters, list_task_events, list_tasks,
};
pub use named::TaskAt;
pub(crate) use named::{parameter, stream};
pub(crate) use routes::NOT_HERE;
pub use routes::{
    __path_archive_task, __path_command_task, __path_get_task, __path_submit_task,
    __path_update_task, archive_task, command_task, get_task, submit_task, update_task,
};
pub use why::{__path_why_task, why_task};
