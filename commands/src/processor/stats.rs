//! What the processor has done, counted without locks on the hot path.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use domain::Status;

/// Upper bounds of the append latency's buckets, in microseconds.
pub const LATENCY_BOUNDS_US: [u64; 12] =
    [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 512_000, 2_000_000];

/// Running counters.
#[derive(Debug, Default)]
pub struct Stats {
    accepted: AtomicU64,
    refused: AtomicU64,
    duplicate: AtomicU64,
    busy: AtomicU64,
    invalid: AtomicU64,
    events: AtomicU64,
    batches: AtomicU64,
    batched_commands: AtomicU64,
    failed_flushes: AtomicU64,
    append_us: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatsSnapshot {
    /// Commands accepted.
    pub accepted: u64,
    /// Commands refused by the rules.
    pub refused: u64,
    /// Repeats answered with the first outcome.
    pub duplicate: u64,
    /// Commands turned away.
    pub busy: u64,
    /// Commands that could not be decided.
    pub invalid: u64,
    /// Events committed.
    pub events: u64,
    /// Flushes committed.
    pub batches: u64,
    /// Commands in those flushes.
    pub batched_commands: u64,
    /// Flushes that failed and were decided anew.
    pub failed_flushes: u64,
    /// Time spent in committed flushes, in microseconds.
    pub append_us: u64,
    /// Flushes per bucket of [`LATENCY_BOUNDS_US`]; the last is beyond all bounds.
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// Commands waiting now.
    pub waiting: usize,
    /// Commands that may wait.
    pub capacity: usize,
}

impl Stats {
    pub(super) fn busy(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self, status: Status) {
        let counter = match status {
            Status::Accepted => &self.accepted,
            Status::Refused => &self.refused,
            Status::Duplicate => &self.duplicate,
            Status::Busy => &self.busy,
            Status::Invalid => &self.invalid,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn flushed(&self, commands: usize, events: usize, took: Duration) {
        let us = took.as_micros() as u64;
        self.batches.fetch_add(1, Relaxed);
        self.batched_commands.fetch_add(commands as u64, Relaxed);
        self.events.fetch_add(events as u64, Relaxed);
        self.append_us.fetch_add(us, Relaxed);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.latency[bucket].fetch_add(1, Relaxed);
    }

    pub(super) fn flush_failed(&self) {
        self.failed_flushes.fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self, waiting: usize, capacity: usize) -> StatsSnapshot {
        StatsSnapshot {
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            duplicate: self.duplicate.load(Relaxed),
            busy: self.busy.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
            events: self.events.load(Relaxed),
            batches: self.batches.load(Relaxed),
            batched_commands: self.batched_commands.load(Relaxed),
            failed_flushes: self.failed_flushes.load(Relaxed),
            append_us: self.append_us.load(Relaxed),
            latency: std::array::from_fn(|bucket| self.latency[bucket].load(Relaxed)),
            waiting,
            capacity,
        }
    }
}
