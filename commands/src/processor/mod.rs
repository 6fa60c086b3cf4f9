//! The command processor: load, decide, group commit.
//!
//! A batch is what arrived while the last flush was under way: an idle system commits
//! one command at once, a busy one hundreds. Invariants: the caller is answered after
//! the commit; a stream with events in an unanswered flush is not in the next one (else
//! version n+2 could stand without n+1); a command id is decided once, for ever.

mod batch;
mod engine;
mod links;
mod lookup;
mod role;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use domain::task::{SubtaskLimits, TaskTypes};
use domain::{Code, Outcome, Problem, Status};
use store::StreamKey;
use tokio::sync::{mpsc, oneshot, watch};

use crate::claims::Boxed;
use crate::command::{CommandEnvelope, Executor};
use crate::fence::{self, Fence, Standing};
use batch::CommandKey;
pub use role::{ProcessorRole, processor};
pub use stats::{LATENCY_BOUNDS_US, Stats, StatsSnapshot};

/// What bounds the processor.
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    /// Commands that may wait; beyond that callers hear `busy`.
    pub queue: usize,
    /// Commands in one flush.
    pub batch_commands: usize,
    /// Bytes of command bodies in one flush.
    pub batch_bytes: usize,
    /// Flushes in flight on the one connection; two equal two partitions (performance.md 4.5).
    pub in_flight: usize,
    /// Live aggregates kept in memory.
    pub cache: usize,
    /// Events after which a stream takes no more (reliability R17).
    pub stream_limit: u64,
    /// Events between two snapshots of a stream.
    pub snapshot_every: u64,
    /// How long every id is looked up before it is decided, after a start and after a repeat:
    /// repeats come in swarms, when something in between has failed. In quiet times an id is
    /// taken for new, and the log's unique keys tell if it is not.
    pub careful: Duration,
    /// What is set for whole types of tasks.
    pub task_types: Arc<TaskTypes>,
    /// How far tasks may be split.
    pub subtasks: SubtaskLimits,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            queue: 8_192,
            batch_commands: 1_024,
            batch_bytes: 1 << 20,
            in_flight: 2,
            cache: 50_000,
            stream_limit: 50_000,
            snapshot_every: 200,
            careful: Duration::from_secs(5),
            task_types: Arc::default(),
            subtasks: SubtaskLimits::default(),
        }
    }
}

/// A command that somebody waits for.
#[derive(Debug)]
struct Pending {
    /// Boxed, because it goes through many hands.
    command: Box<CommandEnvelope>,
    reply: oneshot::Sender<Outcome>,
    /// It was aboard a flush or a look-up that failed without a word: it may stand in the log.
    failed: bool,
    /// The log is asked about it, whatever is known.
    asks: bool,
    /// Failures for which the content of its batch was to blame.
    blamed: u32,
}

impl Pending {
    fn stream_key(&self) -> StreamKey {
        (self.command.tenant.clone(), self.command.stream_id)
    }

    /// The stream of the parent that the command names.
    fn parent_key(&self) -> Option<StreamKey> {
        let parent = self.command.command.links()?.parent?;
        Some((self.command.tenant.clone(), parent.0))
    }

    fn command_key(&self) -> CommandKey {
        (self.command.command_id, self.command.tenant.clone())
    }

    fn answer(self, outcome: Outcome) {
        // The caller may have gone; the outcome stands all the same.
        let _ = self.reply.send(outcome);
    }

    /// One line per decided command: at `info` where it did not happen, else at `debug`,
    /// because a busy system decides more commands than anybody reads.
    fn log(&self, outcome: &Outcome) {
        let command = &self.command;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    tenant = %command.tenant,
                    stream_type = %command.command.stream_type(),
                    stream_id = %command.stream_id,
                    command = command.command.name(),
                    command_id = %command.command_id,
                    correlation_id = command.correlation_id.map(tracing::field::display),
                    trace = command.trace.as_deref(),
                    actor = command.actor,
                    status = ?outcome.status,
                    position = outcome.position,
                    problem = outcome.problem.as_ref().map(|problem| problem.detail.as_str()),
                    "decided"
                )
            };
        }
        match outcome.status {
            Status::Refused | Status::Invalid => line!(info),
            Status::Accepted | Status::Duplicate | Status::Busy => line!(debug),
        }
    }

    fn busy(self, why: &str) {
        let outcome = busy(&self.command, why);
        self.answer(outcome);
    }
}

/// The door to the processor of this process.
#[derive(Debug, Clone)]
pub struct Processor {
    queue: mpsc::Sender<Pending>,
    active: watch::Receiver<bool>,
    stats: Arc<Stats>,
    fence: Fence,
}

impl Processor {
    /// Whether this process holds the lease and decides.
    pub fn active(&self) -> watch::Receiver<bool> {
        self.active.clone()
    }

    /// What it has done and how full it is.
    pub fn stats(&self) -> StatsSnapshot {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        self.stats.snapshot(waiting, self.queue.max_capacity())
    }
}

impl Executor for Processor {
    fn execute(&self, command: CommandEnvelope) -> Boxed<Outcome> {
        let refused = |command: &CommandEnvelope, why: &str| {
            self.stats.busy();
            let outcome = busy(command, why);
            Box::pin(async move { outcome })
        };
        if !*self.active.borrow() {
            return refused(&command, "this process does not hold the processor's lease");
        }
        let (command_id, stream_id) = (command.command_id, command.stream_id);
        if let Some(problem) = command.command.misplaced(&command.tenant, stream_id) {
            let outcome = Outcome::undecided(Status::Invalid, command_id, stream_id, problem);
            return Box::pin(async move { outcome });
        }
        match self.fence.standing(&command) {
            Standing::Good => {}
            Standing::Stale => {
                let problem = Problem::from(&fence::stale());
                let outcome = Outcome::undecided(Status::Invalid, command_id, stream_id, problem);
                return Box::pin(async move { outcome });
            }
            Standing::Unknown => {
                self.fence.ask();
                return refused(&command, "the manager's lease is not known here yet");
            }
        }
        let (reply, answer) = oneshot::channel();
        let command = Box::new(command);
        match self.queue.try_send(Pending { command, reply, failed: false, asks: false, blamed: 0 })
        {
            Ok(()) => Box::pin(async move {
                answer.await.unwrap_or_else(|_| {
                    let problem = Problem::new(
                        Code::Unavailable,
                        "the processor stopped before the outcome was known; send it again \
                         with the same command id",
                    );
                    Outcome::undecided(Status::Busy, command_id, stream_id, problem)
                })
            }),
            Err(mpsc::error::TrySendError::Full(pending)) => {
                refused(&pending.command, "the queue of commands is full")
            }
            Err(mpsc::error::TrySendError::Closed(pending)) => {
                refused(&pending.command, "the processor is stopping")
            }
        }
    }
}

fn busy(command: &CommandEnvelope, why: &str) -> Outcome {
    let problem = Problem { retry_after_ms: Some(1_000), ..Problem::new(Code::Busy, why) };
    Outcome::undecided(Status::Busy, command.command_id, command.stream_id, problem)
}
