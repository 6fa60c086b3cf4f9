//! Firings whose tasks are not in the log yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::schedule::{Filling, ScheduleCommand, ScheduleFired, ScheduleSubmitFailed, Template};
use domain::task::TaskCommand;
use domain::{Code, Command, Outcome, Problem, Recorded, Status, Timestamp};
use uuid::Uuid;

use super::{ACTOR, AGAIN, Key};
use crate::CommandEnvelope;
use crate::process::command_id;

/// Commands under way at once: a backfill fires a thousand at a time.
const MOST_UNDER_WAY: usize = 256;

/// The task of a firing.
#[derive(Debug)]
pub(super) struct Submit {
    schedule: Uuid,
    template: Arc<Template>,
    filling: Filling,
    /// The firing's event.
    cause: u64,
    correlation: Option<Uuid>,
    trace: Option<Arc<str>>,
    /// Why it cannot be submitted: to be told to the schedule.
    failed: Option<Problem>,
}

impl Submit {
    pub fn of(
        event: &Recorded,
        fired: &ScheduleFired,
        template: Arc<Template>,
        from: Option<serde_json::Value>,
    ) -> Self {
        let filling = Filling { run: fired.run, slot_at: fired.slot_at, event: from };
        Self {
            schedule: event.stream_id,
            template,
            filling,
            cause: event.position,
            correlation: event.correlation_id,
            trace: event.trace.clone(),
            failed: None,
        }
    }

    fn command(&mut self, task: &Key) -> CommandEnvelope {
        if self.failed.is_none() {
            match self.template.fill(&self.filling) {
                Ok(new) => {
                    let id = command_id(task.1, "submit", format_args!("{}", self.filling.run));
                    return self.envelope(task, task.1, TaskCommand::Submit(new).into(), id);
                }
                Err(faults) => self.failed = Some(Problem::invalid(faults)),
            }
        }
        let unknown = || Problem::new(Code::Internal, "the task was refused without a reason");
        let problem = self.failed.clone().unwrap_or_else(unknown);
        let run = self.filling.run;
        let command = ScheduleCommand::ReportFailure(ScheduleSubmitFailed { run, problem });
        let id = command_id(self.schedule, "report", format_args!("{run}"));
        self.envelope(task, self.schedule, command.into(), id)
    }

    fn envelope(&self, task: &Key, stream: Uuid, command: Command, id: Uuid) -> CommandEnvelope {
        CommandEnvelope {
            causation_position: Some(self.cause),
            correlation_id: self.correlation,
            trace: self.trace.as_deref().map(Into::into),
            ..CommandEnvelope::new(task.0.clone(), stream, command, id, ACTOR)
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Submits {
    all: HashMap<Key, Submit>,
    /// What to ask for, in the order of the firings, from a time on.
    ready: BTreeMap<(Timestamp, u64, Key), ()>,
    under_way: HashMap<Uuid, Key>,
}

impl Submits {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn add(&mut self, task: Key, submit: Submit) {
        self.ready.insert((Timestamp::MIN_UTC, submit.cause, task.clone()), ());
        self.all.insert(task, submit);
    }

    /// The task is there, or never will be.
    pub fn done(&mut self, task: &Key) {
        if let Some(submit) = self.all.remove(task) {
            // Mostly it is under way and not ready.
            self.ready.remove(&(Timestamp::MIN_UTC, submit.cause, task.clone()));
        }
    }

    pub fn react(&mut self, now: Timestamp) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        while self.under_way.len() < MOST_UNDER_WAY
            && let Some(((at, cause, task), ())) = self.ready.pop_first()
        {
            if at > now {
                self.ready.insert((at, cause, task), ());
                break;
            }
            if let Some(submit) = self.all.get_mut(&task) {
                let command = submit.command(&task);
                self.under_way.insert(command.command_id, task);
                commands.push(command);
            }
        }
        commands
    }

    pub fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Timestamp) {
        let Some(task) = self.under_way.remove(&command.command_id) else { return };
        let Some(submit) = self.all.get_mut(&task) else { return };
        let decision = outcome.decision();
        match decision.status {
            // Its event is on the way here.
            Status::Accepted | Status::Duplicate => return,
            Status::Refused | Status::Invalid if submit.failed.is_none() => {
                let problem = decision.problem.clone();
                submit.failed = problem.or_else(|| Some(Problem::new(Code::Internal, "refused")));
            }
            // The schedule is deleted: there is nobody to tell.
            Status::Refused | Status::Invalid => {
                self.all.remove(&task);
                return;
            }
            Status::Busy => {}
        }
        self.ready.insert((now + AGAIN, submit.cause, task), ());
    }

    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let ((at, ..), ()) = self.ready.first_key_value()?;
        (self.under_way.len() < MOST_UNDER_WAY).then(|| (*at).max(now))
    }
}
