//! Cancels the open subtasks of a task that nobody is to do any more.
//!
//! What is asked for follows from what is open: a subtask whose parent was cancelled, or
//! archived before it had ended, and which has not come to an end itself. Its own
//! cancellation then reaches its subtasks in the same way, so a tree goes level by level,
//! whatever dies in between. A parent that is done, failed or dead leaves its parts alone.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use domain::task::{CancelTask, TaskCommand, TaskEvent};
use domain::{Event, Outcome, Recorded, Status, TaskId, TenantId, Timestamp};
use uuid::Uuid;

use super::{Manager, Moment, command_id, until};
use crate::CommandEnvelope;

/// Who the commands are from.
const ACTOR: &str = "manager:subtasks";
/// Commands under way at once.
const MOST_UNDER_WAY: usize = 256;
/// Wait after an answer that was no decision.
const AGAIN: Duration = Duration::from_millis(200);

/// The open parts of a task.
#[derive(Debug, Default)]
struct Family {
    open: BTreeSet<TaskId>,
    /// The parent has failed or is dead: if it is archived now, its parts stay.
    ended: bool,
}

/// A subtask that is to be cancelled.
#[derive(Debug)]
struct Doomed {
    tenant: TenantId,
    parent: TaskId,
    /// The event that ended the parent, with its version and what was said.
    cause: u64,
    version: u64,
    correlation: Option<Uuid>,
    reason: String,
    /// When to ask; `None` while the command is under way.
    ask_at: Option<Timestamp>,
}

/// Watches every task that has parts.
#[derive(Debug, Default)]
pub struct Subtasks {
    families: HashMap<TaskId, Family>,
    /// The parent of every part that is not off for good.
    parents: HashMap<TaskId, TaskId>,
    doomed: HashMap<TaskId, Doomed>,
    due: BTreeSet<(Timestamp, TaskId)>,
    under_way: usize,
}

impl Subtasks {
    fn opened(&mut self, task: TaskId) {
        if let Some(parent) = self.parents.get(&task) {
            self.families.entry(*parent).or_default().open.insert(task);
        }
    }

    /// A part has come to an end; `for_good` when nothing revives it.
    fn ended(&mut self, task: TaskId, for_good: bool) {
        let parent = self.parents.get(&task).copied();
        if for_good {
            self.parents.remove(&task);
        }
        if let Some(family) = parent.and_then(|parent| self.families.get_mut(&parent)) {
            family.open.remove(&task);
        }
        if let Some(at) = self.doomed.remove(&task).and_then(|doomed| doomed.ask_at) {
            self.due.remove(&(at, task));
        }
    }

    /// Nobody is to do a task any more: nor its parts.
    fn orphan(&mut self, event: &Recorded, parent: TaskId, what: &str, said: Option<&str>) {
        let Some(family) = self.families.remove(&parent) else { return };
        let reason = match said {
            Some(said) => format!("its parent {parent} was {what}: {said}"),
            None => format!("its parent {parent} was {what}"),
        };
        // A reason has at most 2,000 characters, and this one has some more in front.
        let reason: String = reason.chars().take(2_000).collect();
        for task in family.open {
            let at = event.recorded_at;
            let doomed = Doomed {
                tenant: event.tenant.clone(),
                parent,
                cause: event.position,
                version: event.version,
                correlation: event.correlation_id,
                reason: reason.clone(),
                ask_at: Some(at),
            };
            self.doomed.insert(task, doomed);
            self.due.insert((at, task));
        }
    }
}

impl Manager for Subtasks {
    fn apply(&mut self, event: &Recorded) {
        use TaskEvent as E;
        let Ok(Event::Task(happened)) = event.event() else { return };
        let task = TaskId(event.stream_id);
        match happened {
            E::Submitted(new) => {
                if let Some(parent) = new.parent_id {
                    self.parents.insert(task, parent);
                    self.opened(task);
                }
            }
            E::Completed(_) => {
                self.ended(task, true);
                self.families.remove(&task);
            }
            E::Cancelled(why) => {
                self.ended(task, true);
                if why.cascade {
                    self.orphan(event, task, "cancelled", why.reason.as_deref());
                } else {
                    self.families.remove(&task);
                }
            }
            E::Archived(why) => {
                self.ended(task, true);
                if self.families.get(&task).is_some_and(|family| family.ended) {
                    self.families.remove(&task);
                } else {
                    self.orphan(event, task, "archived", why.reason.as_deref());
                }
            }
            E::Failed(_) | E::DeadLettered(_) => {
                self.ended(task, false);
                if let Some(family) = self.families.get_mut(&task) {
                    family.ended = true;
                }
            }
            E::Requeued(_) => {
                self.opened(task);
                if let Some(family) = self.families.get_mut(&task) {
                    family.ended = false;
                }
            }
            E::Updated(_)
            | E::Assigned(_)
            | E::Unassigned(_)
            | E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::ReviewRequested(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::AttemptFailed(_)
            | E::LeaseExtended(_)
            | E::Released(_)
            | E::LeaseExpired(_)
            | E::Overdue(_)
            | E::Escalated(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        while self.under_way < MOST_UNDER_WAY
            && let Some((at, task)) = self.due.first().copied()
            && at <= now.time
        {
            self.due.remove(&(at, task));
            let Some(doomed) = self.doomed.get_mut(&task) else { continue };
            doomed.ask_at = None;
            self.under_way += 1;
            let id =
                command_id(task.0, ACTOR, format_args!("{}:{}", doomed.parent, doomed.version));
            let body = CancelTask { reason: Some(doomed.reason.clone()), cascade: true };
            let command = TaskCommand::Cancel(body);
            commands.push(CommandEnvelope {
                causation_position: Some(doomed.cause),
                correlation_id: doomed.correlation,
                ..CommandEnvelope::new(doomed.tenant.clone(), task.0, command, id, ACTOR)
            });
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Moment) {
        self.under_way = self.under_way.saturating_sub(1);
        let task = TaskId(command.stream_id);
        match outcome.decision().status {
            // Its event is on the way here.
            Status::Accepted | Status::Duplicate => {}
            // It has come to an end by itself.
            Status::Refused => drop(self.doomed.remove(&task)),
            Status::Busy | Status::Invalid => {
                if let Some(doomed) = self.doomed.get_mut(&task) {
                    let at = now.time + AGAIN;
                    doomed.ask_at = Some(at);
                    self.due.insert((at, task));
                }
            }
        }
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        (self.under_way < MOST_UNDER_WAY).then(|| until(now.time, *at))
    }
}
