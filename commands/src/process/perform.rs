//! One run of the managers in this process: what its parts share, and how commands
//! are sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{Outcome, Status};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lifecycle::Lifecycle;
use super::scheduler::Scheduler;
use super::{Moment, Source};
use crate::{AgentWire, Clock, CommandEnvelope, Executor};

/// Longest wait between two tries of a command that was not taken.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for the fold to come to a position that is committed already.
const FOLD_WAIT: Duration = Duration::from_secs(10);

/// From taking the managers' lease to losing it.
pub(in crate::process) struct Session {
    pub scheduler: Mutex<Scheduler>,
    pub lifecycle: Arc<Mutex<Lifecycle>>,
    pub source: Arc<dyn Source>,
    pub executor: Arc<dyn Executor>,
    pub wire: Arc<dyn AgentWire>,
    pub clock: Clock,
    /// The token of the managers' lease.
    pub fence: Option<i64>,
    /// The position that every manager has folded.
    pub folded: watch::Sender<u64>,
    /// Wakes the runner: something may be asked for now.
    pub wake: Notify,
    /// The lease is lost, or the process ends.
    pub cancel: CancellationToken,
    /// What is under way.
    pub tasks: TaskTracker,
}

impl Session {
    /// Now, by both clocks.
    pub fn now(&self) -> Moment {
        Moment { time: self.clock.now(), instant: Instant::now() }
    }

    /// Has a command decided; tries again while it is not taken, at most `tries` times
    /// and not once the lease is gone.
    pub async fn execute(&self, command: &CommandEnvelope, tries: u32) -> Outcome {
        let mut pause = Duration::from_millis(20);
        let mut tried = 1;
        loop {
            let outcome = self
                .executor
                .execute(CommandEnvelope { fence: self.fence, ..command.clone() })
                .await;
            if outcome.status != Status::Busy || tried >= tries || self.cancel.is_cancelled() {
                return outcome;
            }
            let asked = outcome.retry_after_ms.map(Duration::from_millis).unwrap_or_default();
            self.pause(asked.max(pause).min(LONGEST_PAUSE)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            tried += 1;
        }
    }

    /// Waits, unless the lease is lost before.
    pub async fn pause(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.cancel.cancelled()).await;
    }

    /// Waits until the fold has come to a position; false when it has not in time.
    pub async fn folded_to(&self, position: u64) -> bool {
        let mut folded = self.folded.subscribe();
        let reached = folded.wait_for(|at| *at >= position);
        tokio::select! {
            () = self.cancel.cancelled() => false,
            reached = tokio::time::timeout(FOLD_WAIT, reached) => matches!(reached, Ok(Ok(_))),
        }
    }
}
