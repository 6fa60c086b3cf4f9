//! Dead letters by filter, as the operations `dead_letters.requeue` and `dead_letters.discard`.
//!
//! Invariant: which tasks are meant stands fixed when the operation is accepted: those that
//! the filter takes and that had ended before. Each gets one command, whose id follows from
//! the operation and the version that the task ended with, and which expects that version;
//! so a second run after a crash changes nothing twice, and a task that was revived and
//! died again meanwhile is left alone.

use std::time::Duration;

use commands::{Boxed, CommandEnvelope, Errand, Work, command_id};
use domain::operation::OperationProgress;
use domain::{Code, Command, Json, Problem, Status, StreamType, TaskId};
use futures::{StreamExt, stream};
use projections::tasks::{DeadAction, DeadLetterWork};
use projections::{Model, Queries, QueryError};
use serde::{Deserialize, Serialize};
use store::Log;

/// Who the commands are from.
const ACTOR: &str = "manager:dead-letters";
/// Commands under way at once.
const AT_ONCE: usize = 64;
/// How long a read model is waited for at a time, before the log's end is looked up anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// Carries such operations out.
#[derive(Debug, Clone)]
pub struct DeadLettersWork {
    log: Log,
    queries: Queries,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLettersReport {
    /// Tasks requeued or discarded, those of a run that was cut short included.
    pub done: u64,
    /// Tasks that had changed by the time their turn came.
    pub changed: u64,
    /// Tasks for which the command was refused.
    pub refused: u64,
    /// Why, for the first of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl DeadLettersWork {
    /// Finds the tasks by queries, and what stands in the log.
    pub fn new(log: Log, queries: Queries) -> Self {
        Self { log, queries }
    }

    /// Waits until the read models show all that stands in the log now.
    async fn caught_up(&self) -> Result<(), Problem> {
        let models = [Model::Tasks, Model::Audit];
        loop {
            // A database that can't be reached now is waited for: cancelling ends it.
            if let Ok(head) = self.log.head().await
                && self.queries.wait_for_all(&models, head.position, PATIENCE).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn carry_out(self, action: DeadAction, errand: Errand) -> Result<Json, Problem> {
        let Errand { id: operation, tenant, position, accepted, progress, executor, .. } = errand;
        let asked: DeadLetterWork = accepted.input.read().map_err(unread)?;
        let body = asked.body();
        let command = Command::parse(StreamType::Task, action.command(), body.as_bytes())?;
        // What a run before this one has done is seen, and not counted twice.
        self.caught_up().await?;
        let queries = &self.queries;
        let before = queries.count_of(&tenant, operation, action.event()).await.map_err(away)?;
        let found =
            queries.dead_letters_of(&tenant, &asked.filter, position, 0).await.map_err(away)?;
        let total = Some(before.value + found.value.tasks.len() as u64);
        let send = |(task, version): (TaskId, u64)| {
            let id = command_id(task.0, ACTOR, format_args!("{operation}:{version}"));
            let command = CommandEnvelope {
                expected_version: Some(version),
                correlation_id: Some(operation),
                causation_position: Some(position),
                ..CommandEnvelope::new(tenant.clone(), task.0, command.clone(), id, ACTOR)
            };
            executor.execute(command)
        };
        let mut report =
            DeadLettersReport { done: before.value, changed: 0, refused: 0, problem: None };
        let mut under_way = stream::iter(found.value.tasks).map(send).buffer_unordered(AT_ONCE);
        while let Some(outcome) = under_way.next().await {
            let decision = outcome.decision();
            let code = decision.problem.as_ref().and_then(|problem| problem.code());
            match decision.status {
                Status::Accepted | Status::Duplicate => report.done += 1,
                Status::Refused if code == Some(Code::VersionMismatch) => report.changed += 1,
                Status::Refused | Status::Invalid | Status::Busy => {
                    report.refused += 1;
                    report.problem = report.problem.or_else(|| decision.problem.clone());
                }
            }
            let message = format!("{} of dead letters", action.command());
            let done = report.done + report.changed + report.refused;
            // Whoever is too slow to listen misses a word; the next one comes.
            let _ = progress.try_send(OperationProgress { done, total, message });
        }
        Ok(Json::of(&report))
    }
}

impl Work for DeadLettersWork {
    fn takes(&self, kind: &str) -> bool {
        action(kind).is_some()
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let work = self.clone();
        Box::pin(async move {
            let unknown = || Problem::new(Code::NotPossible, "not an operation on dead letters");
            let action = action(&errand.accepted.kind).ok_or_else(unknown)?;
            work.carry_out(action, errand).await
        })
    }
}

fn action(kind: &str) -> Option<DeadAction> {
    DeadAction::ALL.into_iter().find(|action| action.operation() == kind)
}

fn unread(error: serde_json::Error) -> Problem {
    Problem::new(Code::InvalidBody, format!("input: {error}"))
}

fn away(error: QueryError) -> Problem {
    Problem::new(Code::Unavailable, format!("the dead letters cannot be read: {error}"))
}
