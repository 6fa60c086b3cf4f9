//! How far each read model is, and waiting for it to come further.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

use crate::Model;

/// How far each read model is known to be in this process; shared by the engine, which
/// moves it, and the queries, which wait on it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<[PerModel; Model::ALL.len()]>);

#[derive(Debug)]
struct PerModel {
    position: watch::Sender<u64>,
    counters: Counters,
}

/// What the engine of this process has done for one read model, since it started.
#[derive(Debug, Default)]
pub struct Counters {
    events: AtomicU64,
    batches: AtomicU64,
    micros: AtomicU64,
    unknown: AtomicU64,
    skipped: AtomicU64,
    parked: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Events read.
    pub events: u64,
    /// Batches committed.
    pub batches: u64,
    /// Time that they took, from the fold's begin to the commit, in microseconds.
    pub micros: u64,
    /// Events of types that this release does not know.
    pub unknown: u64,
    /// Events of parked streams.
    pub skipped: u64,
    /// Streams that stand still now.
    pub parked: u64,
}

impl Counters {
    pub(crate) fn batch(&self, events: u64, unknown: u64, skipped: u64) {
        self.events.fetch_add(events, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.unknown.fetch_add(unknown, Relaxed);
        self.skipped.fetch_add(skipped, Relaxed);
    }

    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }

    pub(crate) fn parked(&self, streams: usize) {
        self.parked.store(streams as u64, Relaxed);
    }

    /// The numbers now.
    pub fn read(&self) -> Counted {
        Counted {
            events: self.events.load(Relaxed),
            batches: self.batches.load(Relaxed),
            micros: self.micros.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            parked: self.parked.load(Relaxed),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        let none = |_| PerModel { position: watch::Sender::new(0), counters: Counters::default() };
        Self(Arc::new(Model::ALL.map(none)))
    }
}

impl Progress {
    /// The last checkpoint heard of.
    pub fn position(&self, model: Model) -> u64 {
        *self.of(model).borrow()
    }

    /// Wakes whenever the checkpoint grows.
    pub fn watch(&self, model: Model) -> watch::Receiver<u64> {
        self.of(model).subscribe()
    }

    /// Whether somebody waits for the checkpoint to grow.
    pub fn is_awaited(&self, model: Model) -> bool {
        self.of(model).receiver_count() > 0
    }

    /// A checkpoint was committed or read; an older one changes nothing.
    pub fn advance(&self, model: Model, position: u64) {
        self.of(model).send_if_modified(|known| {
            let grown = position > *known;
            *known = position.max(*known);
            grown
        });
    }

    /// The model was set back, to be folded anew.
    pub fn reset(&self, model: Model, position: u64) {
        self.of(model).send_replace(position);
    }

    /// What the engine has done for a model.
    pub fn counters(&self, model: Model) -> &Counters {
        &self.0[model as usize].counters
    }

    fn of(&self, model: Model) -> &watch::Sender<u64> {
        &self.0[model as usize].position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_kept_per_model_and_never_falls_by_an_old_report() {
        let progress = Progress::default();
        progress.advance(Model::Audit, 7);
        progress.advance(Model::Audit, 3);
        assert_eq!(progress.position(Model::Audit), 7);
        assert_eq!(progress.position(Model::Tasks), 0);
        progress.reset(Model::Audit, 0);
        assert_eq!(progress.position(Model::Audit), 0);
    }
}
