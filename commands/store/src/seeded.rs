//! Faults that the fault suite plants in order to see whether it finds them, and named
//! points at which a process dies. The environment names at most one.
//!
//! A release build has none of it: every question is a constant there.

use std::sync::Arc;

use domain::Recorded;

/// A fault that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The append is answered before it is on the disk.
    AcksBeforeFlush,
    /// The relay leaves an event out and does not notice.
    RelayDrops,
    /// A read model's checkpoint moves in a transaction of its own.
    CheckpointApart,
    /// A repeated command is decided as if it were new.
    DedupeForgets,
}

impl Planted {
    /// What names it in the environment.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcksBeforeFlush => "acks-before-flush",
            Self::RelayDrops => "relay-drops",
            Self::CheckpointApart => "checkpoint-apart",
            Self::DedupeForgets => "dedupe-forgets",
        }
    }
}

#[cfg(debug_assertions)]
pub use planted::{planted, point, relayed};
#[cfg(not(debug_assertions))]
pub use sound::{planted, point, relayed};

#[cfg(debug_assertions)]
mod planted {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Arc, Planted, Recorded};

    /// One event in so many is left out.
    const EVERY: u64 = 10;

    /// What `TAFFRAIL_SEED_FAULT` says: a name, for a point `name:passings`.
    fn seeded() -> Option<(&'static str, u32)> {
        static SEEDED: OnceLock<Option<String>> = OnceLock::new();
        let text = SEEDED.get_or_init(|| std::env::var("TAFFRAIL_SEED_FAULT").ok()).as_deref()?;
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        Some((name, count.parse().unwrap_or(1)))
    }

    /// Whether a fault is planted in this process.
    pub fn planted(fault: Planted) -> bool {
        seeded().is_some_and(|(name, _)| name == fault.name())
    }

    /// Dies here, at the so-manieth passing, where the environment names this point.
    pub fn point(name: &str) {
        static PASSED: AtomicU32 = AtomicU32::new(0);
        if let Some((_, count)) = seeded().filter(|(seeded, _)| *seeded == name)
            && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == count
        {
            std::process::abort();
        }
    }

    /// What the relay publishes: with the fault, one event in ten is missing and the one
    /// before it stands in its place, so that no sequence tells.
    pub fn relayed(mut events: Vec<Arc<Recorded>>) -> Vec<Arc<Recorded>> {
        if planted(Planted::RelayDrops) {
            for index in 1..events.len() {
                let position = events[index].position;
                if position.is_multiple_of(EVERY) {
                    let before = Recorded { position, ..(*events[index - 1]).clone() };
                    events[index] = Arc::new(before);
                }
            }
        }
        events
    }
}

#[cfg(not(debug_assertions))]
mod sound {
    use super::{Arc, Planted, Recorded};

    /// No fault is planted.
    pub const fn planted(_: Planted) -> bool {
        false
    }

    /// Nobody dies here.
    pub const fn point(_: &str) {}

    /// What the relay publishes: the events.
    pub fn relayed(events: Vec<Arc<Recorded>>) -> Vec<Arc<Recorded>> {
        events
    }
}
