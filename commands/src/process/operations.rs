//! Operations: picks up what was accepted and brings it to its end.
//!
//! What is open follows from the log alone, so operations that a dead process left
//! behind are taken up again after a restart; each step has an id of its own that a
//! second run repeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::agent::AgentEvent;
use domain::operation::{
    CommandSpec, FailOperation, OperationAccepted, OperationCommand, OperationEvent,
    OperationProgress, Reason, SucceedOperation,
};
use domain::{Code, Command, Event, Json, Outcome, Problem, Recorded, Status, TenantId};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::command_id;
use super::perform::Session;
use crate::{Boxed, CommandEnvelope, Errand, Executor, Ids, Work};

/// Who the commands are from.
const ACTOR: &str = "manager:operations";
/// Operations under way at once.
const MOST_UNDER_WAY: usize = 8;
/// Shortest time between two progress events of an operation.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Progress reports that may wait; only the last one counts.
const PROGRESS_QUEUE: usize = 64;

/// Everything that was accepted and has not ended.
#[derive(Debug, Default)]
pub(in crate::process) struct Operations {
    open: BTreeMap<Uuid, Open>,
    /// Accepted and not taken up, in the order of acceptance.
    pending: BTreeMap<u64, Uuid>,
    under_way: usize,
}

#[derive(Debug)]
struct Open {
    job: Arc<Job>,
    cancel: CancellationToken,
}

/// What there is to do for one operation.
#[derive(Debug)]
pub(in crate::process) struct Job {
    id: Uuid,
    tenant: TenantId,
    accepted: OperationAccepted,
    position: u64,
    actor: Arc<str>,
    correlation: Option<Uuid>,
    trace: Option<Arc<str>>,
}

impl Operations {
    pub fn apply(&mut self, event: &Recorded) {
        use OperationEvent as E;
        let Ok(Event::Operation(happened)) = event.event() else { return };
        match happened {
            E::Accepted(accepted) => {
                let job = Arc::new(Job {
                    id: event.stream_id,
                    tenant: event.tenant.clone(),
                    accepted: accepted.clone(),
                    position: event.position,
                    actor: event.actor.clone(),
                    correlation: event.correlation_id,
                    trace: event.trace.clone(),
                });
                self.pending.insert(event.position, event.stream_id);
                self.open.insert(event.stream_id, Open { job, cancel: CancellationToken::new() });
            }
            E::Started(_) | E::Progressed(_) => {}
            E::Succeeded(_) | E::Failed(_) | E::Cancelled(_) => {
                if let Some(open) = self.open.remove(&event.stream_id) {
                    self.pending.remove(&open.job.position);
                    open.cancel.cancel();
                }
            }
        }
    }

    /// What to take up now, each once.
    pub fn take(&mut self) -> Vec<(Arc<Job>, CancellationToken)> {
        let mut taken = Vec::new();
        let mut later = BTreeMap::new();
        while let Some((position, id)) = self.pending.pop_first() {
            let Some(open) = self.open.get(&id) else { continue };
            if open.job.is_work() {
                if self.under_way >= MOST_UNDER_WAY {
                    later.insert(position, id);
                    continue;
                }
                self.under_way += 1;
            }
            taken.push((open.job.clone(), open.cancel.clone()));
        }
        self.pending = later;
        taken
    }

    /// A place is free again.
    pub fn ended(&mut self, job: &Job) {
        if job.is_work() {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }
}

/// Starts what is open and not under way.
pub(in crate::process) fn start(
    session: &Arc<Session>,
    operations: &Arc<Mutex<Operations>>,
    works: &Arc<[Arc<dyn Work>]>,
) {
    let taken = operations.lock().take();
    for (job, cancelled) in taken {
        let (session, operations, works) = (session.clone(), operations.clone(), works.clone());
        session.tasks.clone().spawn(async move {
            // A bug in one work must not take a place for ever.
            let run = std::panic::AssertUnwindSafe(job.run(&session, &works, &cancelled));
            if run.catch_unwind().await.is_err() {
                let problem = Problem::new(Code::Internal, "the work broke down");
                job.end(&session, Err(problem)).await;
            }
            operations.lock().ended(&job);
            session.wake.notify_one();
        });
    }
}

impl Job {
    /// Whether it takes a place: those about one agent only wait for it.
    fn is_work(&self) -> bool {
        !super::lifecycle::is_about_one(&self.accepted.kind)
    }

    async fn run(
        &self,
        session: &Arc<Session>,
        works: &[Arc<dyn Work>],
        cancelled: &CancellationToken,
    ) {
        let begun = self.step(OperationCommand::Start(Reason::default()), "start");
        session.execute(&begun, u32::MAX).await;
        if session.cancel.is_cancelled() || cancelled.is_cancelled() {
            return;
        }
        let work = works.iter().find(|work| work.takes(&self.accepted.kind));
        let result = match (work, &self.accepted.command) {
            (Some(work), _) => match self.work(session, work.as_ref(), cancelled).await {
                Some(result) => result,
                None => return,
            },
            (None, Some(spec)) => match self.command(session, spec).await {
                Some(result) => result,
                None => return,
            },
            (None, None) => Err(Problem::new(
                Code::NotPossible,
                format!("no part of this installation carries out `{}`", self.accepted.kind),
            )),
        };
        self.end(session, result).await;
    }

    /// Has the carried command decided; `None` when the lease was lost meanwhile.
    async fn command(
        &self,
        session: &Session,
        spec: &CommandSpec,
    ) -> Option<Result<Json, Problem>> {
        let command = match Command::parse(spec.kind, &spec.command, spec.body.as_str().as_bytes())
        {
            Ok(command) => command,
            Err(problem) => return Some(Err(problem)),
        };
        let tenant = self.tenant.clone();
        // The caller named no id for what is to be made: it may repeat its request without
        // asking for an operation, and that is the same command.
        let named = (!command.creates()).then_some(spec.id);
        let command = CommandEnvelope {
            fingerprint: CommandEnvelope::fingerprint_of(&command, named),
            correlation_id: Some(self.correlation.unwrap_or(self.id)),
            causation_position: Some(self.position),
            trace: self.trace.as_deref().map(Into::into),
            expected_version: spec.expected_version,
            ..CommandEnvelope::new(tenant, spec.id, command, spec.command_id, &*self.actor)
        };
        let outcome = session.execute(&command, u32::MAX).await;
        if outcome.status == Status::Busy {
            return None;
        }
        Some(result_of(outcome.decision()))
    }

    /// Lets a work run; `None` when it was cancelled, or the lease lost.
    async fn work(
        &self,
        session: &Arc<Session>,
        work: &dyn Work,
        cancelled: &CancellationToken,
    ) -> Option<Result<Json, Problem>> {
        let (progress, reports) = mpsc::channel(PROGRESS_QUEUE);
        let running = work.run(Errand {
            id: self.id,
            tenant: self.tenant.clone(),
            position: self.position,
            actor: self.actor.clone(),
            accepted: self.accepted.clone(),
            progress,
            executor: Arc::new(Insistent(session.clone())),
        });
        let told = self.tell(session, reports);
        tokio::select! {
            // Dropping the work is how it is told to stop.
            () = cancelled.cancelled() => None,
            () = session.cancel.cancelled() => None,
            (result, ()) = async { tokio::join!(running, told) } => Some(result),
        }
    }

    /// Turns reports into progress events, not too many of them.
    async fn tell(&self, session: &Session, mut reports: mpsc::Receiver<OperationProgress>) {
        let mut last: Option<Instant> = None;
        while let Some(mut report) = reports.recv().await {
            if let Some(last) = last {
                tokio::time::sleep_until(last + PROGRESS_EVERY).await;
            }
            while let Ok(newer) = reports.try_recv() {
                report = newer;
            }
            last = Some(Instant::now());
            // A measurement, not a reaction: a second run measures anew.
            let command = CommandEnvelope {
                fresh: true,
                ..self.envelope(OperationCommand::Progress(report), Ids.fresh())
            };
            session.execute(&command, 1).await;
        }
    }

    async fn end(&self, session: &Session, result: Result<Json, Problem>) {
        let command = match result {
            Ok(result) => {
                self.step(OperationCommand::Succeed(SucceedOperation { result }), "succeed")
            }
            Err(problem) => self.step(OperationCommand::Fail(FailOperation { problem }), "fail"),
        };
        let outcome = session.execute(&command, u32::MAX).await;
        if let Some(problem) = &outcome.decision().problem {
            tracing::info!(operation = %self.id, problem = %problem.detail, "an operation had ended");
        }
    }

    fn step(&self, command: OperationCommand, step: &str) -> CommandEnvelope {
        self.envelope(command, command_id(self.id, ACTOR, format_args!("{step}")))
    }

    fn envelope(&self, command: OperationCommand, command_id: Uuid) -> CommandEnvelope {
        CommandEnvelope {
            correlation_id: Some(self.correlation.unwrap_or(self.id)),
            causation_position: Some(self.position),
            trace: self.trace.as_deref().map(Into::into),
            ..CommandEnvelope::new(self.tenant.clone(), self.id, command, command_id, ACTOR)
        }
    }
}

/// The executor of a work: fenced by the managers' lease, and not put off by a full queue.
struct Insistent(Arc<Session>);

impl Executor for Insistent {
    fn execute(&self, command: CommandEnvelope) -> Boxed<Outcome> {
        let session = self.0.clone();
        Box::pin(async move { session.execute(&command, u32::MAX).await })
    }
}

fn result_of(decision: &Outcome) -> Result<Json, Problem> {
    match decision.status {
        Status::Accepted | Status::Duplicate => Ok(Json::of(decision)),
        Status::Refused | Status::Invalid | Status::Busy => {
            let none = || Problem::new(Code::Internal, "the command was refused without a reason");
            Err(decision.problem.clone().unwrap_or_else(none))
        }
    }
}

/// The word that an agent is sent when an event about it is committed.
pub(in crate::process) fn control_word(happened: &AgentEvent) -> Option<&'static str> {
    match happened {
        AgentEvent::Draining(_) | AgentEvent::Hibernated(_) => Some("drain"),
        AgentEvent::ForceStopped(_) | AgentEvent::Retired(_) | AgentEvent::Restarted(_) => {
            Some("stop")
        }
        AgentEvent::Woken(_) | AgentEvent::RoundBegun(_) => Some("wake"),
        AgentEvent::Registered(_)
        | AgentEvent::Reconnected(_)
        | AgentEvent::Updated(_)
        | AgentEvent::DeployRequested(_)
        | AgentEvent::Ready(_)
        | AgentEvent::Reported(_)
        | AgentEvent::Validated(_)
        | AgentEvent::Placed(_)
        | AgentEvent::Observed(_)
        | AgentEvent::Assessed(_)
        | AgentEvent::RestartScheduled(_)
        | AgentEvent::Quarantined(_)
        | AgentEvent::HandedBack(_)
        | AgentEvent::Drifted(_)
        | AgentEvent::RoundEnded(_)
        | AgentEvent::Ignored(_) => None,
    }
}
