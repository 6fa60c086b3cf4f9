//! How many events to take at a time.

use std::sync::Arc;
use std::time::Duration;

use domain::Recorded;

/// Most events in a batch: beyond it nothing is gained and memory is lost.
pub const MAX_BATCH: usize = 5_000;
/// Payload bytes that a batch's length is fitted to.
const BATCH_BYTES: usize = 8 << 20;
/// The first batch, before the size of events is known.
const FIRST_BATCH: usize = 500;

/// Shortest and longest pause between two batches: the longest is what a reader may be
/// behind beside the batch itself.
const BREATH: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(16));
/// Pause per event of the last batch: a stream of single commits is taken in handfuls, and
/// the busier the log is, the larger the handful, so that rows which change often are
/// written once and the commands keep the processor.
const BREATH_PER_EVENT: Duration = Duration::from_micros(100);

/// Fits the length of batches to the size of the events.
#[derive(Debug, Clone, Copy)]
pub struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST_BATCH)
    }
}

impl Pace {
    /// From the first event after a silence to its batch, where nobody waits for it.
    pub(super) const LINGER: Duration = BREATH.0;

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

    /// How long to wait after a batch of this length; not at all when it was as long as it
    /// may be, because there is more.
    pub(super) fn breath(self, length: usize) -> Option<Duration> {
        let (least, most) = BREATH;
        let length32 = u32::try_from(length).unwrap_or(u32::MAX);
        let breath = BREATH_PER_EVENT.saturating_mul(length32).clamp(least, most);
        (length < MAX_BATCH.min(self.0)).then_some(breath)
    }

    /// A batch of this length was refused.
    pub fn halve(&mut self, length: usize) {
        self.0 = (length / 2).max(1);
    }
}
