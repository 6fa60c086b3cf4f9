//! A world beside the log: the real scheduler, deadlines and tasks, in virtual time.
//!
//! It first follows the record, event by event, and leaves it where something comes out
//! differently; from there on its own decisions count, and of the record only what came from
//! outside: submissions, operators' commands, agents that come and go, and how long each task
//! took whoever had it.
//!
//! Invariant: nothing here can reach a log, a broker or a process: a world has no executor, no
//! writer and no wire, and everything it does is a method of its own fields.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use domain::task::{
    AssignTask, CancelTask, Reason, RequeueTask, Task, TaskCommand, TaskEvent, TaskState,
};
use domain::{AgentId, Command, Event, Facts, Recorded, StreamType, TaskId, TenantId, Timestamp};
use uuid::Uuid;

use super::super::core::{ACTOR, Scheduler};
use super::super::needs::Standing;
use super::agents::{Act, Worker};
use super::changes::{Changed, Told, Twin};
use super::dice::Dice;
use super::observed::{Made, Observed};
use super::tally::Tally;
use crate::process::{Deadlines, Manager, Moment};

/// What a world had to assume, counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Assumed {
    pub other_agent: u64,
    pub drawn: u64,
    pub cut: u64,
    pub nothing_to_draw: u64,
    pub refused: u64,
    pub unknown_ways: u64,
}

/// An event of the record comes out differently.
#[derive(Debug)]
pub(super) struct Otherwise;

pub(super) struct World {
    pub tenant: TenantId,
    pub changed: Changed,
    pub observed: Arc<Observed>,
    pub scheduler: Scheduler,
    pub(super) deadlines: Deadlines,
    /// Tasks that may still change, each with the version of its stream.
    pub tasks: HashMap<TaskId, (Task, u64)>,
    /// What became of the others.
    ended: HashMap<TaskId, (TaskState, bool)>,
    /// Retry policies as they were, of tasks that have another one here.
    retries: HashMap<TaskId, domain::task::RetryPolicy>,
    pub tally: Tally,
    pub now: i64,
    position: u64,
    /// The record is left.
    pub free: bool,
    pub agenda: BTreeMap<(i64, u64), Act>,
    serial: u64,
    pub workers: BTreeMap<AgentId, Worker>,
    /// How many runs of a task began behind the fork's start.
    pub begun: HashMap<TaskId, usize>,
    pub dice: Dice,
    pub assumed: Assumed,
    /// The monotonic clock's part of virtual time.
    base: Instant,
    pub twins: Vec<Twin>,
}

impl World {
    pub fn new(tenant: TenantId, changed: Changed, observed: Arc<Observed>, seed: u64) -> Self {
        Self {
            tenant,
            changed,
            observed,
            scheduler: Scheduler::under(0, None),
            deadlines: Deadlines::new(None),
            tasks: HashMap::new(),
            ended: HashMap::new(),
            retries: HashMap::new(),
            tally: Tally::new(),
            now: 0,
            position: 0,
            free: false,
            agenda: BTreeMap::new(),
            serial: 0,
            workers: BTreeMap::new(),
            begun: HashMap::new(),
            dice: Dice::of(seed),
            assumed: Assumed::default(),
            base: Instant::now(),
            twins: Vec::new(),
        }
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_timestamp_micros(self.now).unwrap_or_default()
    }

    pub fn moment(&self) -> Moment {
        let since = std::time::Duration::from_micros(self.now.unsigned_abs());
        Moment { time: self.time(), instant: self.base.checked_add(since).unwrap_or(self.base) }
    }

    /// Puts an act on the agenda.
    pub fn at(&mut self, us: i64, act: Act) {
        self.serial += 1;
        self.agenda.insert((us, self.serial), act);
    }

    /// Takes an event as it stands in the log, before the fork begins.
    pub fn before(&mut self, event: &Recorded) {
        self.now = self.now.max(event.recorded_at.timestamp_micros());
        if event.tenant == self.tenant {
            if let Ok(Event::Agent(happened)) = event.event() {
                self.changed.learn(AgentId(event.stream_id), happened);
            }
            self.take(event);
        }
    }

    /// The fork begins: its changes hold from here on.
    ///
    /// # Errors
    /// When they name what is not there.
    pub fn begin(
        &mut self,
        now_us: i64,
        known: impl Fn(&str) -> bool,
    ) -> Result<(), domain::Problem> {
        self.now = self.now.max(now_us);
        self.scheduler.advance(self.time());
        let (added, twins) = self.changed.begin(known)?;
        for more in added {
            self.publish(more.kind, more.stream, 1, more.event, "fork");
        }
        self.twins = twins;
        self.tally.begin(self.now);
        self.begun = self.held().map(|task| (task, 1)).collect();
        Ok(())
    }

    /// The task of an event, as it is before it.
    pub fn task_before(&self, event: &Recorded) -> Option<&Task> {
        self.tasks.get(&TaskId(event.stream_id)).map(|(task, _)| task)
    }

    /// Ready agents of whom no sign of asking is known.
    pub fn idle(&self) -> u64 {
        let roster = self.scheduler.board.roster.iter();
        let idle = |(id, facts): &(AgentId, &crate::process::AgentFacts)| {
            facts.state.takes_work() && !self.workers.contains_key(id)
        };
        roster.filter(idle).count() as u64
    }

    fn held(&self) -> impl Iterator<Item = TaskId> {
        self.tasks.iter().filter(|(_, (task, _))| task.lease.is_some()).map(|(id, _)| *id)
    }

    /// Follows an event of the record, and says what it became where that is something else.
    ///
    /// # Errors
    /// Where it comes out differently here, and is not taken.
    pub fn follow(&mut self, event: &Recorded) -> Result<Option<Recorded>, Otherwise> {
        if event.tenant != self.tenant {
            return Ok(None);
        }
        self.now = self.now.max(event.recorded_at.timestamp_micros());
        let Ok(happened) = event.event() else { return Ok(None) };
        if self.fails_otherwise(event, happened) {
            return Err(Otherwise);
        }
        Ok(self.take_as_told(event, happened))
    }

    /// Takes an event from outside, as it comes out here.
    fn take_as_told(&mut self, event: &Recorded, happened: &Event) -> Option<Recorded> {
        match self.changed.told(event.stream_id, happened) {
            Told::Never => None,
            Told::Same => {
                self.take(event);
                None
            }
            Told::Other(other) => {
                let task = |event: &Event| match event {
                    Event::Task(TaskEvent::Submitted(new)) => Some(new.retry.clone()),
                    Event::Task(_)
                    | Event::Agent(_)
                    | Event::Operation(_)
                    | Event::Crew(_)
                    | Event::Schedule(_)
                    | Event::Queue(_)
                    | Event::Node(_)
                    | Event::Profile(_) => None,
                };
                if let (Some(here), Some(was)) = (task(&other), task(happened))
                    && here != was
                {
                    self.retries.insert(TaskId(event.stream_id), was);
                }
                let other = with(event, event.position, OnceLock::from(Ok(*other)));
                self.take(&other);
                Some(other)
            }
        }
    }

    /// Whether an attempt that failed has another end under this world's retry policy.
    fn fails_otherwise(&self, event: &Recorded, happened: &Event) -> bool {
        let task = TaskId(event.stream_id);
        let (Some(was), Some((here, _))) = (self.retries.get(&task), self.tasks.get(&task)) else {
            return false;
        };
        let Some(lease) = here.lease else { return false };
        let command = match happened {
            Event::Task(TaskEvent::AttemptFailed(failed)) => {
                let last = self.begun.get(&task).and_then(|begun| begun.checked_sub(1));
                let runs = self.observed.runs.get(&task);
                let run = last.and_then(|nth| runs?.get(nth));
                let retryable = run.is_none_or(|run| run.is_retryable());
                let (error, class) = (failed.error.clone(), failed.class.clone());
                let (lease_token, retry_after_ms) = (lease.token, None);
                TaskCommand::Fail(domain::task::FailTask {
                    lease_token,
                    error,
                    retryable,
                    class,
                    retry_after_ms,
                })
            }
            Event::Task(TaskEvent::LeaseExpired(_)) => {
                TaskCommand::ExpireLease(domain::task::ExpireLease { lease_token: lease.token })
            }
            Event::Task(TaskEvent::Rejected(_)) => TaskCommand::Reject(Reason::default()),
            Event::Task(_)
            | Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => return false,
        };
        let facts = Facts::new(event.occurred_at, &*event.actor);
        let before = Task { retry: was.clone(), ..here.clone() };
        before.decide(&command, &facts) != here.decide(&command, &facts)
    }

    /// Leaves the record: what was decided by then comes about, and from here on this world
    /// goes its own way.
    pub fn leave(&mut self, position: u64, decided: &[Made]) {
        self.free = true;
        self.position = self.position.max(position);
        self.scheduler.advance(self.time());
        for made in decided {
            let command = AssignTask {
                lease_ms: self.lease_of(made.agent),
                start: self.observed.ways.get(&made.agent).is_some_and(|ways| ways.start),
                ..AssignTask::to(made.agent)
            };
            self.decide(made.task, &TaskCommand::Assign(command), ACTOR, None);
        }
        let mut held: Vec<TaskId> = self.held().collect();
        // Chance is to fall the same way each time.
        held.sort_unstable();
        for task in held {
            self.goes_on(task, position);
        }
        self.hire();
        self.serve();
    }

    /// The length of leases that an agent gets.
    pub fn lease_of(&self, agent: AgentId) -> Option<u64> {
        let own = || self.observed.ways.get(&agent)?.lease_ms;
        self.changed.lease_ms().or_else(own)
    }

    /// Takes an event of the record in a world that has left it: what came from outside
    /// happens here too.
    pub fn feed(&mut self, event: &Recorded) {
        if event.tenant != self.tenant {
            return;
        }
        self.advance_to(event.recorded_at.timestamp_micros());
        let Ok(happened) = event.event() else { return };
        match happened {
            Event::Task(TaskEvent::Submitted(_)) => drop(self.take_as_told(event, happened)),
            Event::Task(done) => {
                let Some(command) = from_outside(done, event) else { return };
                let task = TaskId(event.stream_id);
                if self.tasks.contains_key(&task)
                    && !self.decide(task, &command, &event.actor, None)
                {
                    self.assumed.refused += 1;
                }
            }
            Event::Agent(_) => {
                let _ = self.take_as_told(event, happened);
                self.came_or_went(AgentId(event.stream_id));
            }
            Event::Queue(_) => drop(self.take_as_told(event, happened)),
            Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Node(_)
            | Event::Profile(_) => return,
        }
        self.serve();
    }

    /// Lets time pass up to an instant, and all happen that comes due.
    pub fn advance_to(&mut self, until: i64) {
        let mut still = 0;
        loop {
            let moment = self.moment();
            let act = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let task = self.scheduler.next_due().map(|at| at.timestamp_micros());
            let deadline =
                self.deadlines.due(moment).map(|wait| self.now + wait.as_micros() as i64);
            let Some(next) = act.into_iter().chain(task).chain(deadline).min() else { break };
            if next > until {
                break;
            }
            // What is due already and stays so is looked at again a little later.
            still = if next <= self.now { still + 1 } else { 0 };
            self.now = self.now.max(next) + if still > 1_000 { 1_000 } else { 0 };
            if self.now > until {
                break;
            }
            self.scheduler.advance(self.time());
            while let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= self.now
            {
                let act = entry.remove();
                self.act(act);
            }
            let moment = self.moment();
            for command in self.deadlines.react(moment) {
                let Command::Task(asked) = &command.command else { continue };
                let (task, version) = (TaskId(command.stream_id), command.expected_version);
                let outcome = self.outcome(task, asked, &command.actor, version, &command);
                self.deadlines.settle(&command, &outcome, moment);
            }
            self.serve();
        }
        self.now = self.now.max(until);
    }

    /// Has a task's own rules decide a command; false where they refuse it.
    pub fn decide(
        &mut self,
        id: TaskId,
        command: &TaskCommand,
        actor: &str,
        expected: Option<u64>,
    ) -> bool {
        self.try_decide(id, command, actor, expected).is_ok()
    }

    /// The same; with what speaks against it.
    pub fn try_decide(
        &mut self,
        id: TaskId,
        command: &TaskCommand,
        actor: &str,
        expected: Option<u64>,
    ) -> Result<(), domain::Problem> {
        use domain::{Code, Problem};
        let Some((task, version)) = self.tasks.get(&id) else {
            return Err(Problem::new(Code::NotFound, "it has ended"));
        };
        if expected.is_some_and(|expected| expected != *version) {
            return Err(Problem::new(Code::VersionMismatch, "it has changed"));
        }
        let facts = Facts::new(self.time(), actor);
        let events = task.decide(command, &facts).map_err(|refusal| Problem::from(&refusal))?;
        for event in events {
            let version = self.tasks.get(&id).map_or(1, |(_, version)| version + 1);
            self.publish(StreamType::Task, id.0, version, Event::Task(event), actor);
        }
        Ok(())
    }

    /// Something happens here and nowhere else.
    fn publish(&mut self, kind: StreamType, stream: Uuid, version: u64, event: Event, actor: &str) {
        let now = self.time();
        self.take(&Recorded {
            position: self.position + 1,
            epoch: 0,
            tenant: self.tenant.clone(),
            stream_type: kind,
            stream_id: stream,
            version,
            event_type: event.name().into(),
            schema_version: event.schema_version(),
            event_id: Uuid::nil(),
            command_id: Uuid::nil(),
            actor: actor.into(),
            correlation_id: None,
            causation_position: None,
            trace: None,
            occurred_at: now,
            recorded_at: now,
            payload: bytes::Bytes::new(),
            hash: [0; 32],
            decoded: OnceLock::from(Ok(event)),
        });
    }

    /// Folds an event everywhere.
    fn take(&mut self, event: &Recorded) {
        let own;
        // Positions go on from where the record was left.
        let event = if self.free && event.position <= self.position {
            own = with(event, self.position + 1, event.decoded.clone());
            &own
        } else {
            event
        };
        self.position = event.position;
        let before = self.scheduler_takes(event);
        self.deadlines.apply(event);
        self.tally.apply(event);
        let Ok(Event::Task(happened)) = event.event() else { return };
        self.task(event, happened, before);
    }

    fn scheduler_takes(&mut self, event: &Recorded) -> Option<AgentId> {
        self.scheduler.apply(event);
        let task = self.tasks.get(&TaskId(event.stream_id));
        task.and_then(|(task, _)| task.lease).map(|lease| lease.agent_id)
    }

    /// The task's own part of an event. `before`: who had it.
    fn task(&mut self, event: &Recorded, happened: &TaskEvent, before: Option<AgentId>) {
        let id = TaskId(event.stream_id);
        if let TaskEvent::Submitted(_) = happened {
            self.tasks.insert(id, (Task::default(), 0));
        }
        let Some((task, version)) = self.tasks.get_mut(&id) else { return };
        task.apply(happened);
        *version = event.version;
        let (state, archived) = (task.state, task.archived);
        let lease = task.lease;
        if let (Some(state @ (TaskState::Done | TaskState::Cancelled)), _) | (Some(state), true) =
            (state, archived)
        {
            self.tasks.remove(&id);
            self.retries.remove(&id);
            self.ended.insert(id, (state, archived));
        }
        if let TaskEvent::Assigned(to) = happened {
            if self.free {
                self.runs(id, to.lease_token);
            } else {
                *self.begun.entry(id).or_default() += 1;
            }
        }
        if self.free
            && let Some(agent) = before
            && lease.is_none()
        {
            self.freed(agent);
        }
    }

    /// Tells the scheduler what became of tasks that others wait for.
    pub fn look_up(&mut self) {
        loop {
            let lookups = self.scheduler.board.take_lookups(100);
            if lookups.is_empty() {
                return;
            }
            for (tenant, task) in lookups {
                let known = self.ended.get(&task).copied();
                let found =
                    known.map(|(state, archived)| Standing { state, archived, cause: 0, at: 0 });
                self.scheduler.board.looked_up(&tenant, task, found);
            }
        }
    }
}

/// The event with another place and content.
fn with(
    event: &Recorded,
    position: u64,
    decoded: OnceLock<Result<Event, domain::recorded::DecodeError>>,
) -> Recorded {
    Recorded {
        position,
        epoch: event.epoch,
        tenant: event.tenant.clone(),
        stream_type: event.stream_type,
        stream_id: event.stream_id,
        version: event.version,
        event_type: event.event_type.clone(),
        schema_version: event.schema_version,
        event_id: event.event_id,
        command_id: event.command_id,
        actor: event.actor.clone(),
        correlation_id: event.correlation_id,
        causation_position: event.causation_position,
        trace: event.trace.clone(),
        occurred_at: event.occurred_at,
        recorded_at: event.recorded_at,
        payload: event.payload.clone(),
        hash: event.hash,
        decoded,
    }
}

/// The command behind an event that neither a task's holder nor a manager of this world
/// asked for.
fn from_outside(happened: &TaskEvent, event: &Recorded) -> Option<TaskCommand> {
    use TaskEvent as E;
    let actor = &*event.actor;
    if matches!(actor, ACTOR | "manager:leases" | "manager:due" | "manager:retention") {
        return None;
    }
    let why = |reason: &Option<String>| Reason { reason: reason.clone() };
    Some(match happened {
        E::Updated(changes) => TaskCommand::Update(changes.clone()),
        E::Assigned(to) => {
            let lease = (to.lease_expires_at - event.occurred_at).num_milliseconds();
            let lease_ms = u64::try_from(lease).ok();
            TaskCommand::Assign(AssignTask { lease_ms, ..AssignTask::to(to.agent_id) })
        }
        E::Unassigned(from) => TaskCommand::Unassign(why(&from.reason)),
        E::Unblocked(noted) if !actor.starts_with("agent:") => {
            TaskCommand::Unblock(why(&noted.reason))
        }
        E::Approved(noted) => TaskCommand::Approve(why(&noted.reason)),
        E::Rejected(noted) => TaskCommand::Reject(why(&noted.reason)),
        E::Cancelled(by) => {
            let (reason, cascade) = (by.reason.clone(), by.cascade);
            TaskCommand::Cancel(CancelTask { reason, cascade })
        }
        E::Requeued(ended) => {
            let reason = ended.reason.clone();
            TaskCommand::Requeue(RequeueTask { reason, changes: None })
        }
        E::Archived(noted) => TaskCommand::Archive(why(&noted.reason)),
        E::Submitted(_)
        | E::Unblocked(_)
        | E::Started(_)
        | E::Progressed(_)
        | E::Blocked(_)
        | E::ReviewRequested(_)
        | E::Completed(_)
        | E::AttemptFailed(_)
        | E::Failed(_)
        | E::DeadLettered(_)
        | E::LeaseExtended(_)
        | E::Released(_)
        | E::LeaseExpired(_)
        | E::Overdue(_)
        | E::Escalated(_) => return None,
    })
}
