//! The bound on what is in flight, in messages and in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most messages in flight.
pub(super) const MAX_IN_FLIGHT: usize = 4_096;
/// Bytes that one permit stands for; with the count of permits it bounds the bytes to 64 MiB.
const UNIT: usize = 1_024;
/// Permits that the smallest message takes, so that permits bound the messages too.
const LEAST: usize = 16;
const PERMITS: usize = MAX_IN_FLIGHT * LEAST;

/// Room for messages in flight; a permit is held until the message's outcome went out.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PERMITS)))
    }

    /// Waits for room.
    pub(super) async fn wait(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_many_owned(cost(bytes)).await.ok()
    }

    /// Takes room if there is any.
    pub(super) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(cost(bytes)).ok()
    }

    /// How many small messages there is room for.
    pub(super) fn free(&self) -> usize {
        self.0.available_permits() / LEAST
    }
}

fn cost(bytes: usize) -> u32 {
    let units = (bytes / UNIT + 1).clamp(LEAST, PERMITS);
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_messages_and_bytes_are_bounded() {
        let budget = Budget::new();
        let small: Vec<_> = std::iter::from_fn(|| budget.take(100)).collect();
        assert_eq!(small.len(), MAX_IN_FLIGHT);
        drop(small);
        let large: Vec<_> = std::iter::from_fn(|| budget.take(1 << 20)).collect();
        assert_eq!(large.len(), 63, "64 MiB, less the rounding");
        assert_eq!(budget.free(), (PERMITS - 63 * 1025) / LEAST);
    }
}
