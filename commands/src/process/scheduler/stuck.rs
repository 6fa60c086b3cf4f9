//! Tasks that stand still, where that lies, and when it is too long.
//!
//! A task stands still while it is blocked, or while what it waits for cannot come: a
//! dependency that can no longer give what is needed, was never submitted, or stands still
//! itself, blocked, in review or in the inbox. At which task that lies is the *head* of its
//! chain. Nobody is told of every change along a chain: a task that may stand still is
//! looked at once per period, and again just when the standstill that is found then will
//! have lasted a whole one. One that began after a look cannot be over-long before the next.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use domain::task::{EscalateTask, Need, TaskCommand, TaskState};
use domain::{Code, Outcome, Status, TaskId, Timestamp};

use super::board::Board;
use super::entry::Entry;
use crate::CommandEnvelope;
use crate::process::command_id;

/// Who the commands are from.
const ACTOR: &str = "manager:escalation";
/// Tasks of a chain that are looked at; a longer one is not judged.
const MOST_LOOKED_AT: usize = 1_000;
/// Generations that are gone down: below the stack's size, above any chain that people make.
const MOST_DEEP: usize = 300;
/// Commands asked for at once.
const MOST_AT_ONCE: usize = 64;
/// First wait after an answer that was no decision, or that called it too early.
const AGAIN_US: i64 = 100_000;

/// That, and why, a task stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stuck {
    /// Since when, in microseconds.
    pub since: i64,
    /// From the head back to the task.
    pub path: Vec<TaskId>,
    /// Where the head stands; `None`: it was never submitted.
    pub head_state: Option<TaskState>,
    /// The event that made the head stand so, or that named it.
    pub cause: u64,
}

#[derive(Debug, Clone)]
struct Watch {
    /// When to look; `None` while a command is under way.
    at: Option<i64>,
    /// How often a command was answered with something else than an event. Part of the
    /// command's id, because a refusal is remembered under it for ever.
    tries: u32,
    /// Since when it stood still as that was last recorded.
    escalated: Option<i64>,
}

/// What is watched for standing still too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Watches {
    /// How long is too long, in microseconds; never when absent.
    after: Option<i64>,
    tasks: HashMap<TaskId, Watch>,
    due: BTreeSet<(i64, TaskId)>,
}

impl Watches {
    pub fn new(after: Option<Duration>) -> Self {
        let after = after.and_then(|after| i64::try_from(after.as_micros()).ok());
        Self { after, ..Self::default() }
    }

    /// Looks at a task after a whole period, unless it is watched already.
    pub fn watch(&mut self, task: TaskId, now: i64) {
        let Some(after) = self.after else { return };
        if self.tasks.contains_key(&task) {
            return;
        }
        let at = now.saturating_add(after);
        self.tasks.insert(task, Watch { at: Some(at), tries: 0, escalated: None });
        self.due.insert((at, task));
    }

    fn look_at(&mut self, task: TaskId, at: i64) {
        if let Some(watch) = self.tasks.get_mut(&task) {
            if let Some(before) = watch.at.replace(at) {
                self.due.remove(&(before, task));
            }
            self.due.insert((at, task));
        }
    }

    pub fn forget(&mut self, task: TaskId) {
        if let Some(at) = self.tasks.remove(&task).and_then(|watch| watch.at) {
            self.due.remove(&(at, task));
        }
    }

    /// That it stands still since then is recorded.
    pub fn escalated(&mut self, task: TaskId, since: Timestamp) {
        if let Some(watch) = self.tasks.get_mut(&task) {
            (watch.escalated, watch.tries) = (Some(since.timestamp_micros()), 0);
        }
    }

    pub fn next(&self) -> Option<Timestamp> {
        self.due.first().and_then(|(at, _)| Timestamp::from_timestamp_micros(*at))
    }
}

impl Board {
    /// Whether, and why, a task stands still.
    pub(super) fn stuck(&self, task: TaskId) -> Option<Stuck> {
        let mut left = MOST_LOOKED_AT;
        self.stuck_below(task, MOST_DEEP, &mut left)
    }

    fn stuck_below(&self, task: TaskId, deep: usize, left: &mut usize) -> Option<Stuck> {
        *left = left.checked_sub(1)?;
        let entry = self.task(task)?;
        if matches!(entry.state, TaskState::Blocked | TaskState::Inbox | TaskState::Review) {
            return Some(ended_at(task, entry));
        }
        let needs = entry.needs.as_deref().filter(|_| entry.state == TaskState::Queued)?;
        let own = needs.since.max(entry.stands_since);
        let mut found: Option<Stuck> = None;
        for on in &needs.open {
            let below = match self.task(*on).filter(|below| below.tenant == entry.tenant) {
                Some(below) if needs.mode.is_lost_by(below.state, false) => {
                    Some(ended_at(*on, below))
                }
                Some(_) if deep == 0 => None,
                Some(_) => self.stuck_below(*on, deep - 1, left),
                None => match self.standing(&entry.tenant, *on) {
                    Some(gone) => Some(Stuck {
                        since: gone.at,
                        path: vec![*on],
                        head_state: Some(gone.state),
                        cause: gone.cause,
                    }),
                    None if self.is_absent(&entry.tenant, *on) => {
                        let path = vec![*on];
                        Some(Stuck { since: own, path, head_state: None, cause: needs.cause })
                    }
                    None => None,
                },
            };
            match (needs.mode.need, below) {
                // As long as one of them moves, there is hope.
                (Need::Any, None) => return None,
                (Need::All, None) => {}
                (Need::All, Some(below))
                    if found.as_ref().is_some_and(|f| f.since <= below.since) => {}
                (Need::Any, Some(below))
                    if found.as_ref().is_some_and(|f| f.since >= below.since) => {}
                (Need::All | Need::Any, Some(below)) => found = Some(below),
            }
        }
        let mut stuck = found?;
        stuck.since = stuck.since.max(own);
        stuck.path.push(task);
        Some(stuck)
    }

    /// What stands still for too long and is not recorded as such yet.
    pub(super) fn escalations(&mut self, now: Timestamp) -> Vec<CommandEnvelope> {
        let (Some(after), now) = (self.watches.after, now.timestamp_micros()) else {
            return vec![];
        };
        let mut commands = Vec::new();
        while commands.len() < MOST_AT_ONCE
            && let Some((at, task)) = self.watches.due.first().copied()
            && at <= now
        {
            let watched = self.task(task).filter(|entry| may_stand_still(entry));
            let Some(entry) = watched else {
                self.watches.forget(task);
                continue;
            };
            let Some(stuck) = self.stuck(task) else {
                self.watches.look_at(task, now.saturating_add(after));
                continue;
            };
            let due = stuck.since.saturating_add(after);
            let Some(watch) = self.watches.tasks.get(&task) else { continue };
            if due > now {
                self.watches.look_at(task, due);
            } else if watch.escalated == Some(stuck.since) {
                self.watches.look_at(task, now.saturating_add(after));
            } else {
                commands.extend(escalate(task, entry, &stuck, due, watch.tries));
                self.watches.due.remove(&(at, task));
                if let Some(watch) = self.watches.tasks.get_mut(&task) {
                    watch.at = None;
                }
            }
        }
        commands
    }

    /// Learns what became of a command of [`Self::escalations`].
    pub(super) fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Timestamp) {
        let task = TaskId(command.stream_id);
        let (Some(after), now) = (self.watches.after, now.timestamp_micros()) else { return };
        let Some(watch) = self.watches.tasks.get_mut(&task) else { return };
        let decision = outcome.decision();
        let code = decision.problem.as_ref().and_then(|problem| problem.code());
        let wait = match decision.status {
            Status::Accepted | Status::Duplicate => after,
            // It moved, or the clocks differ: it is looked at anew.
            Status::Refused if matches!(code, Some(Code::NotPossible | Code::VersionMismatch)) => {
                watch.tries += 1;
                AGAIN_US << watch.tries.min(8)
            }
            Status::Refused => after,
            Status::Busy | Status::Invalid => AGAIN_US,
        };
        self.watches.look_at(task, now.saturating_add(wait));
    }
}

/// Whether a task is one that is looked at: it is blocked, or waits for others.
pub(super) fn may_stand_still(entry: &Entry) -> bool {
    entry.state == TaskState::Blocked || (entry.state == TaskState::Queued && entry.needs.is_some())
}

fn ended_at(task: TaskId, entry: &Entry) -> Stuck {
    let (since, cause) = (entry.stands_since, entry.stands_cause);
    Stuck { since, path: vec![task], head_state: Some(entry.state), cause }
}

fn escalate(
    task: TaskId,
    entry: &Entry,
    stuck: &Stuck,
    due: i64,
    tries: u32,
) -> Option<CommandEnvelope> {
    let found = EscalateTask {
        since: Timestamp::from_timestamp_micros(stuck.since)?,
        due_at: Timestamp::from_timestamp_micros(due)?,
        head_state: stuck.head_state,
        path: stuck.path.iter().rev().copied().collect(),
    };
    let cause = format_args!("{}:{due}:{tries}", stuck.since);
    let id = command_id(task.0, ACTOR, cause);
    let command = TaskCommand::Escalate(found);
    Some(CommandEnvelope {
        // What was found holds for the task as it was seen.
        expected_version: Some(entry.version),
        causation_position: Some(stuck.cause),
        correlation_id: entry.correlation,
        ..CommandEnvelope::new(entry.tenant.clone(), task.0, command, id, ACTOR)
    })
}
