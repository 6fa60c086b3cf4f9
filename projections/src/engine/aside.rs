//! Long work of the processor's beside the runtime's short tasks.

use tokio::runtime::{Handle, RuntimeFlavor};

/// From so many events on a batch takes tens of milliseconds: longer than those who wait for
/// an answer on the same thread should.
const LONG: usize = 1_024;

/// Runs work on so many events. Where it is long, another thread takes over what waits on
/// this one meanwhile (a rebuild's batches beside queries).
pub(super) fn aside<T>(events: usize, work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) if events > LONG => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}
