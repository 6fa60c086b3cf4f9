//! What comes due for a task if nothing happens before: its lease runs out because the agent
//! was silent, the time by which it should have been done passes, or it has been a dead
//! letter for long enough.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use domain::task::{ExpireLease, Reason, TaskCommand, TaskEvent};
use domain::{Code, Event, Outcome, Recorded, Status, TaskId, TenantId, Timestamp};

use super::{Manager, Moment, command_id, until};
use crate::CommandEnvelope;

/// Commands under way at once: after a long outage every lease is due together.
const MOST_UNDER_WAY: usize = 512;
/// First wait after an answer that was no decision, or that called it too early.
const AGAIN: Duration = Duration::from_millis(100);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    /// The lease of this token has run out.
    Lease(u64),
    /// It should have been done by now.
    Done,
    /// It has been kept as a dead letter for long enough.
    Forgotten,
}

impl What {
    /// Who the commands are from.
    const fn actor(self) -> &'static str {
        match self {
            Self::Lease(_) => "manager:leases",
            Self::Done => "manager:due",
            Self::Forgotten => "manager:retention",
        }
    }

    const fn slot(self) -> Slot {
        match self {
            Self::Lease(_) => Slot::Lease,
            Self::Done => Slot::Done,
            Self::Forgotten => Slot::Forgotten,
        }
    }
}

/// A task has at most one deadline of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Slot {
    Lease,
    Done,
    Forgotten,
}

type Key = (TaskId, Slot);

#[derive(Debug)]
struct Deadline {
    tenant: TenantId,
    what: What,
    at: Timestamp,
    /// When to ask; `None` while the question is under way.
    ask_at: Option<Timestamp>,
    /// How often the answer was that it is too early: two clocks differ a little.
    /// Part of the command's id, because a refusal is remembered under it for ever.
    tries: u32,
    /// The event that set it.
    cause: u64,
    /// The stream's version with that event.
    version: u64,
}

/// Watches every deadline of every task.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// How long dead letters are kept; for ever when absent.
    retention: Option<Duration>,
    open: HashMap<Key, Deadline>,
    due: BTreeSet<(Timestamp, Key)>,
    under_way: usize,
}

impl Deadlines {
    /// Dead letters are archived after this time, if there is one.
    pub fn new(retention: Option<Duration>) -> Self {
        Self { retention, ..Self::default() }
    }

    fn set(&mut self, event: &Recorded, what: What, at: Timestamp) {
        let key = (TaskId(event.stream_id), what.slot());
        self.forget(key);
        self.due.insert((at, key));
        let deadline = Deadline {
            tenant: event.tenant.clone(),
            what,
            at,
            ask_at: Some(at),
            tries: 0,
            cause: event.position,
            version: event.version,
        };
        self.open.insert(key, deadline);
    }

    fn forget(&mut self, key: Key) {
        if let Some(at) = self.open.remove(&key).and_then(|deadline| deadline.ask_at) {
            self.due.remove(&(at, key));
        }
    }

    /// The task that was asked about had ended, and now it has not.
    fn ask_again(&mut self, key: Key) {
        if let Some(deadline) = self.open.get_mut(&key).filter(|open| open.ask_at.is_none()) {
            deadline.tries += 1;
            deadline.ask_at = Some(deadline.at);
            self.due.insert((deadline.at, key));
        }
    }

    /// A dead letter from now on.
    fn died(&mut self, event: &Recorded) {
        let kept = self.retention.and_then(|kept| chrono::TimeDelta::from_std(kept).ok());
        let until = kept.and_then(|kept| event.recorded_at.checked_add_signed(kept));
        if let Some(until) = until {
            self.set(event, What::Forgotten, until);
        }
    }

    fn ask((task, _): Key, deadline: &Deadline) -> CommandEnvelope {
        let Deadline { what, at, tries, .. } = deadline;
        let micros = at.timestamp_micros();
        let (body, id) = match what {
            What::Lease(token) => (
                TaskCommand::ExpireLease(ExpireLease { lease_token: *token }),
                command_id(task.0, "expire", format_args!("{token}:{micros}:{tries}")),
            ),
            What::Done => (
                TaskCommand::MarkOverdue(Reason::default()),
                command_id(task.0, "overdue", format_args!("{micros}:{tries}")),
            ),
            What::Forgotten => (
                TaskCommand::Archive(Reason {
                    reason: Some("kept as a dead letter for long enough".into()),
                }),
                command_id(task.0, "retention", format_args!("{}:{tries}", deadline.version)),
            ),
        };
        CommandEnvelope {
            causation_position: Some(deadline.cause),
            // Not what was revived meanwhile. The others name what they end themselves.
            expected_version: (*what == What::Forgotten).then_some(deadline.version),
            ..CommandEnvelope::new(deadline.tenant.clone(), task.0, body, id, what.actor())
        }
    }
}

impl Manager for Deadlines {
    fn apply(&mut self, event: &Recorded) {
        use TaskEvent as E;
        let Ok(Event::Task(happened)) = event.event() else { return };
        let task = TaskId(event.stream_id);
        match happened {
            E::Assigned(to) => self.set(event, What::Lease(to.lease_token), to.lease_expires_at),
            E::LeaseExtended(to) => {
                self.set(event, What::Lease(to.lease_token), to.lease_expires_at);
            }
            E::Unassigned(_)
            | E::Released(_)
            | E::ReviewRequested(_)
            | E::Rejected(_)
            | E::AttemptFailed(_)
            | E::LeaseExpired(_) => self.forget((task, Slot::Lease)),
            E::Completed(_) | E::Cancelled(_) | E::Archived(_) => {
                [Slot::Lease, Slot::Done, Slot::Forgotten]
                    .into_iter()
                    .for_each(|slot| self.forget((task, slot)));
            }
            E::Failed(_) | E::DeadLettered(_) => {
                self.forget((task, Slot::Lease));
                self.died(event);
            }
            E::Requeued(_) => {
                self.forget((task, Slot::Forgotten));
                self.ask_again((task, Slot::Done));
            }
            E::Submitted(new) => {
                if let Some(due_at) = new.due_at {
                    self.set(event, What::Done, due_at);
                }
            }
            E::Updated(changes) => match changes.due_at {
                Some(Some(due_at)) => self.set(event, What::Done, due_at),
                Some(None) => self.forget((task, Slot::Done)),
                None => {}
            },
            E::Overdue(_) => self.forget((task, Slot::Done)),
            E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::Escalated(_)
            | E::Approved(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        while self.under_way < MOST_UNDER_WAY
            && let Some((at, key)) = self.due.first().copied()
            && at <= now.time
        {
            self.due.remove(&(at, key));
            if let Some(deadline) = self.open.get_mut(&key) {
                deadline.ask_at = None;
                self.under_way += 1;
                commands.push(Self::ask(key, deadline));
            }
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Moment) {
        self.under_way = self.under_way.saturating_sub(1);
        let task = TaskId(command.stream_id);
        // Each kind of deadline has a command of its own.
        let slot = match command.command.name() {
            "expire_lease" => Slot::Lease,
            "mark_overdue" => Slot::Done,
            _ => Slot::Forgotten,
        };
        let key = (task, slot);
        // Another one by now, or none: nothing to ask for.
        let Some(deadline) = self.open.get_mut(&key) else { return };
        if deadline.ask_at.is_some() || Self::ask(key, deadline).command_id != command.command_id {
            return;
        }
        let decision = outcome.decision();
        let code = decision.problem.as_ref().and_then(|problem| problem.code());
        match decision.status {
            // Its event is on the way here.
            Status::Accepted | Status::Duplicate => return,
            Status::Refused if matches!(code, Some(Code::StaleLease | Code::NotPossible)) => {
                deadline.tries += 1;
            }
            // A task that has ended, and may be revived with its time still to come.
            Status::Refused => return,
            Status::Busy | Status::Invalid => {}
        }
        let at = now.time + AGAIN * (1 << deadline.tries.min(6));
        deadline.ask_at = Some(at);
        self.due.insert((at, key));
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        (self.under_way < MOST_UNDER_WAY).then(|| until(now.time, *at))
    }
}
