//! How many events to take at a time.

use std::sync::Arc;

use domain::Recorded;

/// Most events in a batch: beyond it nothing is gained and memory is lost.
pub const MAX_BATCH: usize = 5_000;
/// Payload bytes that a batch's length is fitted to.
const BATCH_BYTES: usize = 8 << 20;
/// The first batch, before the size of events is known.
const FIRST_BATCH: usize = 500;

/// Fits the length of batches to the size of the events.
#[derive(Debug, Clone, Copy)]
pub struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST_BATCH)
    }
}

impl Pace {
    /// The length of the next batch.
    pub fn limit(self) -> usize {
        self.0
    }

    /// A batch went well: the next may be twice as long, as far as its bytes allow.
    pub fn took(&mut self, events: &[Arc<Recorded>]) {
        let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
        let mean = bytes / events.len().max(1) + 1;
        self.0 = (self.0 * 2).min(MAX_BATCH).min(BATCH_BYTES / mean).max(1);
    }

    /// A batch of this length was refused.
    pub fn halve(&mut self, length: usize) {
        self.0 = (length / 2).max(1);
    }
}
