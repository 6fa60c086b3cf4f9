//! Where time and fresh ids enter the write side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DurationRound;
use domain::Timestamp;
use parking_lot::RwLock;
use store::Leases;
use uuid::Uuid;

/// How often [`Clock::follow`] reads: clocks drift apart by milliseconds in this time.
const READ_EVERY: Duration = Duration::from_secs(10);

/// The database's clock, read now and then and carried on by the monotonic one
/// (invariant 10: one clock decides). Within a process it never runs backwards: where a
/// reading says that it is ahead, it goes on slower until the database's has caught up.
#[derive(Debug, Clone)]
pub struct Clock(Arc<RwLock<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    read: Timestamp,
    at: Instant,
    /// How far the clock was ahead of the reading; an eighth of the time makes up for it.
    ahead: Duration,
}

impl Reading {
    fn after(&self, elapsed: Duration) -> Timestamp {
        self.read + elapsed + self.ahead.saturating_sub(elapsed / 8)
    }
}

impl Clock {
    /// A clock that was read just now.
    pub fn read_at(now: Timestamp) -> Self {
        let reading = Reading { read: now, at: Instant::now(), ahead: Duration::ZERO };
        Self(Arc::new(RwLock::new(reading)))
    }

    /// Takes a fresh reading over.
    pub fn set(&self, now: Timestamp) {
        let mut reading = self.0.write();
        let at = Instant::now();
        let shown = reading.after(at - reading.at);
        // Negative, which is no duration, where the database is the one ahead.
        let ahead = (shown - now).to_std().unwrap_or_default();
        *reading = Reading { read: now, at, ahead };
    }

    /// The time, to the microsecond.
    pub fn now(&self) -> Timestamp {
        let reading = *self.0.read();
        let now = reading.after(reading.at.elapsed());
        now.duration_trunc(chrono::Duration::microseconds(1)).unwrap_or(now)
    }

    /// Keeps to the database's time; runs until dropped.
    pub async fn follow(self, leases: Leases) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            match leases.now().await {
                Ok(now) => self.set(now),
                Err(error) => tracing::debug!(%error, "the database's clock was not read"),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_lies_behind_slows_the_clock_and_never_turns_it_back() {
        let start = Timestamp::UNIX_EPOCH;
        let ms = Duration::from_millis;
        let behind = Reading { read: start, at: Instant::now(), ahead: ms(800) };
        assert_eq!(behind.after(ms(0)), start + ms(800));
        assert_eq!(behind.after(ms(800)), start + ms(1_500));
        assert_eq!(behind.after(ms(6_400)), start + ms(6_400));
        assert_eq!(behind.after(ms(9_000)), start + ms(9_000));

        let clock = Clock::read_at(start + ms(60_000));
        clock.set(start);
        assert!(clock.now() >= start + ms(60_000));
        clock.set(start + ms(120_000));
        assert!(clock.now() >= start + ms(120_000));
    }
}
