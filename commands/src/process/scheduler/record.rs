//! Why a task goes to an agent: what a decision writes down of itself.

use domain::task::{Candidate, Choice, Rejected};

use super::matching::Match;
use super::rules::level_name;
use super::waiting::Turns;

/// Why a task goes to an agent.
#[derive(Debug)]
pub(super) struct Why {
    pub choice: Choice,
    /// For people.
    pub reason: String,
    pub candidates: Vec<Candidate>,
    pub of: usize,
    pub rejected: Rejected,
}

impl Why {
    /// An agent asked, and tasks were compared.
    pub fn turns(choice: Choice, queue: &str, turns: &Turns) -> Self {
        let level = turns.best.first().map_or(0, |next| next.level);
        let reason = reason(choice, queue, level, turns.of);
        let (candidates, of, rejected) = (turns.candidates(), turns.of, turns.rejected);
        Self { choice, reason, candidates, of, rejected }
    }

    /// A task came up, and agents were compared.
    pub fn matched(choice: Choice, queue: &str, found: &Match) -> Self {
        let reason = reason(choice, queue, 0, found.of);
        let (candidates, of, rejected) = (found.candidates(), found.of, found.rejected);
        Self { choice, reason, candidates, of, rejected }
    }
}

/// A choice in words. `level` is the urgency that the task counted as, `of` how many
/// agents fitted.
pub(super) fn reason(choice: Choice, queue: &str, level: usize, of: usize) -> String {
    let level = level_name(level);
    match choice {
        Choice::Queue => {
            format!(
                "claimed; next in turn ({level}) and oldest of the tasks in queue {queue} that fit"
            )
        }
        Choice::Queues => {
            format!("pushed; next in turn ({level}) and oldest of the waiting tasks that fit")
        }
        Choice::Claims => format!("best of the {of} waiting claims of queue {queue} that fit"),
        Choice::Listeners => format!("pushed; best of the {of} listeners that fit"),
    }
}
