//! Queues over HTTP: what waits where, claims, and what is decided about a queue.

mod change;
mod read;

pub use change::{__path_change_queue, __path_configure_queue, __path_purge_queue};
pub use change::{change_queue, configure_queue, purge_queue};
pub use read::{__path_claim, __path_get_queue, __path_list_queues};
pub use read::{claim, get_queue, list_queues};

use domain::ids::is_token;

use crate::error::{ApiError, ApiResult};

pub(crate) fn check(queue: &str) -> ApiResult<()> {
    if is_token(queue) {
        return Ok(());
    }
    let message = "a queue's name has 1 to 64 of the characters A-Z a-z 0-9 _ -";
    Err(ApiError::parameter("/path/queue", message))
}
