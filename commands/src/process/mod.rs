//! Process managers: what reacts to events with commands.
//!
//! Each manager is a pure fold of the log with a `react`; one runner reads by
//! position, feeds them all and executes what they ask for. A reaction follows from
//! what is *open* in the state, never from having just seen an event, so a restart
//! folds the log again and goes on where the last process stopped. The ids of the
//! commands derive from the state that caused them: a reaction that is repeated
//! after a crash has the same id, and the processor answers it as a duplicate.
//!
//! One process at a time runs them (lease row `managers`).

mod deadlines;
mod extensions;
mod lifecycle;
mod operations;
mod perform;
mod purge;
mod roster;
mod runner;
mod scheduler;
mod schedules;
mod source;
mod subtasks;
#[cfg(test)]
mod tests;
mod watchdog;

use std::time::{Duration, Instant};

use domain::{Outcome, Recorded, Timestamp};
use uuid::Uuid;

pub use deadlines::Deadlines;
pub use extensions::Extensions;
pub use lifecycle::{LONG_COMMANDS, LifecycleHandle, NODE_DRAIN, ROLLING_RESTART};
pub use purge::PURGE;
pub use roster::{AgentFacts, Roster};
pub use runner::{Managers, ManagersConfig};
pub use scheduler::{
    DecisionFault, DecisionReport, Decisions, Fit, Fits, Follower, Gauges, QueueDepth,
    SchedulerHandle, Trial, Waits, fork,
};
pub use schedules::Schedules;
pub use source::Source;
pub use subtasks::Subtasks;
pub use watchdog::{Signs, Watchdog};

use crate::CommandEnvelope;

/// Now, by both clocks: due times go by the database's, silence by the monotonic one.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The database's time (invariant 10).
    pub time: Timestamp,
    /// This process's monotonic clock.
    pub instant: Instant,
}

/// A fold of the log that asks for commands.
pub trait Manager: Send {
    /// Folds one event; never reacts, so that catching up asks for nothing.
    fn apply(&mut self, event: &Recorded);

    /// What the open work asks for now, and has not been asked for yet.
    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope>;

    /// Learns what became of a command that it asked for.
    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Moment);

    /// How long until there may be something to ask for, if no event comes.
    fn due(&self, now: Moment) -> Option<Duration>;
}

/// The id of a command that a manager sends to a stream for a cause; the same for ever.
pub fn command_id(stream: Uuid, manager: &str, cause: std::fmt::Arguments<'_>) -> Uuid {
    Uuid::new_v5(&stream, format!("{manager}:{cause}").as_bytes())
}

/// From one time to a later one; nothing when it is the earlier one.
pub(crate) fn until(now: Timestamp, then: Timestamp) -> Duration {
    (then - now).to_std().unwrap_or_default()
}
