//! Where time and fresh ids enter the write side.

use std::sync::Arc;
use std::time::Instant;

use chrono::DurationRound;
use domain::Timestamp;
use parking_lot::RwLock;
use uuid::Uuid;

/// The database's clock, read now and then and carried on by the monotonic one
/// (invariant 10: one clock decides).
#[derive(Debug, Clone)]
pub struct Clock(Arc<RwLock<(Timestamp, Instant)>>);

impl Clock {
    /// A clock that was read just now.
    pub fn read_at(now: Timestamp) -> Self {
        Self(Arc::new(RwLock::new((now, Instant::now()))))
    }

    /// Takes a fresh reading over.
    pub fn set(&self, now: Timestamp) {
        *self.0.write() = (now, Instant::now());
    }

    /// The time, to the microsecond.
    pub fn now(&self) -> Timestamp {
        let (read, at) = *self.0.read();
        let now = read + at.elapsed();
        now.duration_trunc(chrono::Duration::microseconds(1)).unwrap_or(now)
    }
}

/// Makes ids that sort by time (UUIDv7), so that index pages stay hot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ids;

impl Ids {
    /// A fresh id.
    #[expect(clippy::disallowed_methods, reason = "the one source of fresh ids on the write side")]
    pub fn fresh(self) -> Uuid {
        Uuid::now_v7()
    }
}
