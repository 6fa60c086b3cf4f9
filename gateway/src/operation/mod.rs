//! Operations over HTTP: long-running work, answered 202 and followed by its id.

mod accept;
mod routes;

pub use accept::AcceptedBody;
pub(crate) use accept::{accept_command, accept_work};
pub use routes::{
    __path_cancel_operation, __path_get_operation, __path_list_operations, __path_operation_events,
    cancel_operation, get_operation, list_operations, operation_events,
};
