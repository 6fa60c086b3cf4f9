//! What tasks decided, decided once more: the commands behind recorded events are given to the
//! tasks' own rules, and the same events must come out.

use domain::task::{
    AssignTask, BlockTask, CancelTask, CompleteTask, ExpireLease, ExtendTask, FailTask,
    ProgressTask, Reason, ReleaseTask, RequeueTask, StartTask, SubmitForReview, Task, TaskCommand,
    TaskEvent,
};
use domain::{Event, Facts, Recorded, Timestamp};
use uuid::Uuid;

use super::report::Redone;

/// Follows the commands of a record.
#[derive(Debug, Default)]
pub(super) struct Redo {
    group: Option<Group>,
    pub counts: Redone,
}

/// The events of one command, with the task as it was before.
#[derive(Debug)]
struct Group {
    command: Uuid,
    stream: Uuid,
    before: Task,
    now: Timestamp,
    actor: String,
    events: Vec<TaskEvent>,
}

impl Redo {
    /// Takes an event, and the task as it is before it.
    pub fn take(&mut self, event: &Recorded, before: Option<&Task>) {
        let Ok(Event::Task(happened)) = event.event() else { return };
        if let Some(group) = &mut self.group
            && (group.command, group.stream) == (event.command_id, event.stream_id)
        {
            group.events.push(happened.clone());
            return;
        }
        self.end();
        // A submission is what came from outside, not a decision.
        let Some(before) = before else { return };
        self.group = Some(Group {
            command: event.command_id,
            stream: event.stream_id,
            before: before.clone(),
            now: event.occurred_at,
            actor: event.actor.as_ref().into(),
            events: vec![happened.clone()],
        });
    }

    /// Decides the last command.
    pub fn end(&mut self) {
        let Some(group) = self.group.take() else { return };
        let commands = group.commands();
        if commands.is_empty() {
            self.counts.unknown += 1;
            return;
        }
        let facts = Facts::new(group.now, group.actor.as_str());
        let same = |command: &TaskCommand| {
            group.before.decide(command, &facts).is_ok_and(|events| events == group.events)
        };
        if commands.iter().any(same) {
            self.counts.identical += 1;
        } else {
            self.counts.different += 1;
        }
    }
}

impl Group {
    /// The commands that can have led to the events: more than one where the log does not say
    /// whether the agent or the policy chose a wait.
    fn commands(&self) -> Vec<TaskCommand> {
        use TaskCommand as C;
        use TaskEvent as E;
        let token = self.before.lease.map_or(0, |lease| lease.token);
        let why = |reason: &Option<String>| Reason { reason: reason.clone() };
        let until = |at: Timestamp| u64::try_from((at - self.now).num_milliseconds()).ok();
        let assign = |to: &domain::task::TaskAssigned, start| AssignTask {
            agent_id: to.agent_id,
            lease_ms: until(to.lease_expires_at),
            reason: to.reason.clone(),
            start,
            decision: to.decision.clone(),
        };
        // An answer may imply the start.
        let events = match &self.events[..] {
            [E::Started(_), rest @ ..] if !rest.is_empty() => rest,
            all => all,
        };
        let one = match events {
            [E::Assigned(to)] => C::Assign(assign(to, false)),
            [E::Assigned(to), E::Started(_)] => C::Assign(assign(to, true)),
            [E::Unassigned(from), E::Assigned(to), rest @ ..] => {
                let reason = from.reason.clone();
                C::Reassign(AssignTask { reason, ..assign(to, !rest.is_empty()) })
            }
            [E::Unassigned(from)] => C::Unassign(why(&from.reason)),
            [E::Started(_)] => C::Start(StartTask { lease_token: token }),
            [E::Progressed(said)] => C::Progress(ProgressTask {
                lease_token: token,
                percent: said.percent,
                message: said.message.clone(),
                data: said.data.clone(),
            }),
            [E::Completed(done)] => {
                C::Complete(CompleteTask { lease_token: token, result: done.result.clone() })
            }
            [E::AttemptFailed(failed), rest @ ..] => {
                let fail = |retry_after_ms| {
                    C::Fail(FailTask {
                        lease_token: token,
                        error: failed.error.clone(),
                        retryable: !matches!(rest, [E::Failed(_)]),
                        class: failed.class.clone(),
                        retry_after_ms,
                    })
                };
                return vec![fail(None), fail(failed.retry_at.and_then(until))];
            }
            [E::LeaseExtended(to)] => {
                C::Extend(ExtendTask { lease_token: token, lease_ms: until(to.lease_expires_at) })
            }
            [E::Released(from)] => {
                C::Release(ReleaseTask { lease_token: token, reason: from.reason.clone() })
            }
            [E::LeaseExpired(_), ..] => C::ExpireLease(ExpireLease { lease_token: token }),
            [E::Blocked(by)] => C::Block(BlockTask {
                reason: by.reason.clone(),
                lifted_by: by.lifted_by.clone(),
                lease_token: None,
            }),
            [E::Unblocked(noted)] => C::Unblock(why(&noted.reason)),
            [E::ReviewRequested(asked)] => {
                let result = asked.result.clone();
                C::SubmitForReview(SubmitForReview { lease_token: None, result })
            }
            [E::Approved(noted), E::Completed(_)] => C::Approve(why(&noted.reason)),
            [E::Rejected(noted), ..] => C::Reject(why(&noted.reason)),
            [E::Cancelled(by)] => {
                let (reason, cascade) = (by.reason.clone(), by.cascade);
                C::Cancel(CancelTask { reason, cascade })
            }
            [E::Requeued(ended)] => {
                let reason = ended.reason.clone();
                C::Requeue(RequeueTask { reason, changes: None })
            }
            [E::Archived(noted)] => C::Archive(why(&noted.reason)),
            [E::Overdue(_)] => C::MarkOverdue(Reason::default()),
            // What an update was asked with is more than its event says.
            _ => return vec![],
        };
        vec![one]
    }
}
