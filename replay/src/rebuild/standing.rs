//! How far a rebuild is: phase, pace, the time left, and the alarm when it stands still.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use projections::Model;

/// Phases without a count of steps may be silent for so many times longer than a fold: an
/// index over a hundred million rows takes minutes.
const SILENT_PHASES: u32 = 20;

/// What a rebuild is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Events are folded.
    Folding,
    /// The rows are held against the live ones.
    Comparing,
    /// Indexes and statistics are made.
    Building,
    /// The last events, and the change of places.
    Switching,
}

impl Phase {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Folding => "folding",
            Self::Comparing => "comparing",
            Self::Building => "building indexes",
            Self::Switching => "switching",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The model.
    pub model: Model,
    /// What it is at.
    pub phase: Phase,
    /// The position reached.
    pub done: u64,
    /// The position to reach.
    pub total: u64,
    /// Events folded per second in this phase.
    pub per_s: Option<u64>,
    /// The time that the fold will take at this pace.
    pub left: Option<Duration>,
    /// Since when it has made no progress, once that is too long.
    pub stalled: Option<Duration>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.phase.as_str(), self.model)?;
        if let Some(since) = self.stalled {
            return write!(f, ": no progress for {} s, at {}", since.as_secs(), self.done);
        }
        if let Some(per_s) = self.per_s {
            write!(f, ", {per_s} events/s")?;
        }
        if let Some(left) = self.left {
            write!(f, ", about {} s left", left.as_secs_f64().ceil())?;
        }
        Ok(())
    }
}

/// Where the work notes how far it is.
#[derive(Debug)]
pub(super) struct Board {
    model: Model,
    stalls_after: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    phase: Phase,
    began: Instant,
    /// Where the phase began.
    from: u64,
    done: u64,
    total: u64,
    moved: Instant,
    alarmed: bool,
}

impl Board {
    pub fn new(model: Model, stalls_after: Duration) -> Self {
        let (began, moved) = (Instant::now(), Instant::now());
        let (phase, alarmed) = (Phase::Folding, false);
        let seen = Seen { phase, began, from: 0, done: 0, total: 0, moved, alarmed };
        Self { model, stalls_after, seen: Mutex::new(seen) }
    }

    /// How long a fold may stand still.
    pub fn patience(&self) -> Duration {
        self.stalls_after
    }

    pub fn enter(&self, phase: Phase) {
        let mut seen = self.seen();
        let now = Instant::now();
        *seen = Seen { phase, began: now, from: seen.done, moved: now, alarmed: false, ..*seen };
    }

    /// The work is at a position, of those that it is to reach.
    pub fn reach(&self, done: u64, total: u64) {
        let mut seen = self.seen();
        if done != seen.done {
            seen.moved = Instant::now();
            seen.alarmed = false;
        }
        (seen.done, seen.total) = (done, total.max(done));
    }

    pub fn standing(&self) -> Standing {
        let seen = self.seen();
        let since = seen.moved.elapsed();
        let limit = match seen.phase {
            Phase::Folding => self.stalls_after,
            Phase::Comparing | Phase::Building | Phase::Switching => {
                self.stalls_after * SILENT_PHASES
            }
        };
        let done = seen.done.saturating_sub(seen.from);
        let pace = done as f64 / seen.began.elapsed().as_secs_f64().max(1e-3);
        let folding = seen.phase == Phase::Folding && done > 0;
        let left = seen.total.saturating_sub(seen.done) as f64 / pace;
        Standing {
            model: self.model,
            phase: seen.phase,
            done: seen.done,
            total: seen.total,
            per_s: folding.then_some(pace as u64),
            left: folding.then(|| Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX)),
            stalled: (since >= limit).then_some(since),
        }
    }

    /// Says once that it stands still.
    pub fn alarm(&self, standing: &Standing) {
        let mut seen = self.seen();
        if let (Some(since), false) = (standing.stalled, seen.alarmed) {
            seen.alarmed = true;
            tracing::error!(
                model = self.model.as_str(),
                phase = standing.phase.as_str(),
                position = standing.done,
                since_ms = since.as_millis() as u64,
                "ALARM: a rebuild makes no progress; what is read is not touched by it"
            );
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_and_time_left_follow_from_the_phase_and_silence_is_an_alarm() {
        let board = Board::new(Model::Tasks, Duration::from_millis(40));
        assert_eq!(board.standing().left, None, "nothing is known yet");
        std::thread::sleep(Duration::from_millis(20));
        board.reach(1_000, 3_000);
        let standing = board.standing();
        let (left, per_s) = (standing.left.unwrap(), standing.per_s.unwrap());
        assert!(left >= Duration::from_millis(40) && left < Duration::from_secs(4), "{left:?}");
        assert!(per_s > 200 && per_s <= 50_000, "{per_s}");
        assert_eq!(standing.stalled, None);
        assert!(standing.to_string().starts_with("folding tasks, "), "{standing}");

        std::thread::sleep(Duration::from_millis(50));
        board.reach(1_000, 3_500);
        let standing = board.standing();
        assert!(standing.stalled.is_some(), "the same position is no progress");
        assert!(standing.to_string().contains("no progress for"), "{standing}");
        board.reach(1_001, 3_500);
        assert_eq!(board.standing().stalled, None);
        // What has no steps to count is given longer.
        board.enter(Phase::Building);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((board.standing().stalled, board.standing().left), (None, None));
    }
}
