//! Leases that run out: the agent was silent past its time, the task goes back.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use domain::task::{ExpireLease, TaskCommand, TaskEvent};
use domain::{Code, Event, Outcome, Recorded, Status, TaskId, TenantId, Timestamp};

use super::{Manager, Moment, command_id, until};
use crate::CommandEnvelope;

/// Who the commands are from.
const ACTOR: &str = "manager:leases";
/// Commands under way at once: after a long outage every lease is due together.
const MOST_UNDER_WAY: usize = 512;
/// First wait after an answer that was no decision, or that called the lease alive.
const AGAIN: Duration = Duration::from_millis(100);

/// Watches every lease and ends those that have run out.
#[derive(Debug, Default)]
pub struct Leases {
    held: HashMap<TaskId, Held>,
    due: BTreeSet<(Timestamp, TaskId)>,
    under_way: usize,
}

#[derive(Debug)]
struct Held {
    tenant: TenantId,
    token: u64,
    expires_at: Timestamp,
    /// When to ask; `None` while the question is under way.
    ask_at: Option<Timestamp>,
    /// How often the answer was that the lease runs on: two clocks differ a little.
    /// Part of the command's id, because a refusal is remembered under it for ever.
    tries: u32,
    /// The event that set the expiry.
    cause: u64,
}

impl Leases {
    fn set(&mut self, task: TaskId, held: Held) {
        self.forget(task);
        if let Some(at) = held.ask_at {
            self.due.insert((at, task));
        }
        self.held.insert(task, held);
    }

    fn forget(&mut self, task: TaskId) -> Option<Held> {
        let held = self.held.remove(&task)?;
        if let Some(at) = held.ask_at {
            self.due.remove(&(at, task));
        }
        Some(held)
    }

    fn expire(task: TaskId, held: &Held) -> CommandEnvelope {
        let Held { token, expires_at, tries, .. } = held;
        let micros = expires_at.timestamp_micros();
        let id = command_id(task.0, "expire", format_args!("{token}:{micros}:{tries}"));
        let body = TaskCommand::ExpireLease(ExpireLease { lease_token: *token });
        CommandEnvelope {
            causation_position: Some(held.cause),
            ..CommandEnvelope::new(held.tenant.clone(), task.0, body, id, ACTOR)
        }
    }
}

impl Manager for Leases {
    fn apply(&mut self, event: &Recorded) {
        use TaskEvent as E;
        let Ok(Event::Task(happened)) = event.event() else { return };
        let task = TaskId(event.stream_id);
        let tenant = event.tenant.clone();
        let held = |token, expires_at| Held {
            tenant,
            token,
            expires_at,
            ask_at: Some(expires_at),
            tries: 0,
            cause: event.position,
        };
        match happened {
            E::Assigned(to) => self.set(task, held(to.lease_token, to.lease_expires_at)),
            E::LeaseExtended(to) => self.set(task, held(to.lease_token, to.lease_expires_at)),
            E::Unassigned(_)
            | E::Released(_)
            | E::ReviewRequested(_)
            | E::Rejected(_)
            | E::Completed(_)
            | E::AttemptFailed(_)
            | E::Failed(_)
            | E::DeadLettered(_)
            | E::LeaseExpired(_)
            | E::Cancelled(_)
            | E::Requeued(_)
            | E::Archived(_) => drop(self.forget(task)),
            E::Submitted(_)
            | E::Updated(_)
            | E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::Approved(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        while self.under_way < MOST_UNDER_WAY
            && let Some((at, task)) = self.due.first().copied()
            && at <= now.time
        {
            self.due.remove(&(at, task));
            if let Some(held) = self.held.get_mut(&task) {
                held.ask_at = None;
                self.under_way += 1;
                commands.push(Self::expire(task, held));
            }
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Moment) {
        self.under_way = self.under_way.saturating_sub(1);
        let task = TaskId(command.stream_id);
        // Another lease by now, or none: nothing to ask for.
        let Some(held) = self.held.get_mut(&task) else { return };
        if held.ask_at.is_some() || Self::expire(task, held).command_id != command.command_id {
            return;
        }
        let decision = outcome.decision();
        let runs_on = decision.problem.as_ref().and_then(|p| p.code()) == Some(Code::StaleLease);
        match decision.status {
            // Its event is on the way here.
            Status::Accepted | Status::Duplicate => return,
            Status::Refused if runs_on => held.tries += 1,
            Status::Refused => return,
            Status::Busy | Status::Invalid => {}
        }
        let at = now.time + AGAIN * (1 << held.tries.min(6));
        held.ask_at = Some(at);
        self.due.insert((at, task));
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        (self.under_way < MOST_UNDER_WAY).then(|| until(now.time, *at))
    }
}
