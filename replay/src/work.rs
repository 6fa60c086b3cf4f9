//! Rebuilds as operations: `projection.rebuild`, `projection.rollback`, `projection.forget`.

use std::sync::Arc;
use std::time::Duration;

use commands::{Boxed, CommandEnvelope, Errand, Executor, Work, command_id};
use domain::operation::{
    AcceptOperation, OperationAccepted, OperationCommand, OperationProgress, Resource,
};
use domain::{Code, Json, Problem, Status, TenantId};
use projections::{Model, ProjectionError};
use store::Log;
use tokio::time::sleep;
use uuid::Uuid;

use crate::rebuild::{Rebuild, Standing, outdated, sweep};

/// Makes a model anew. Its input is `{ "model": name, "dry_run": false }`, and without a name
/// its resource names the model.
pub const REBUILD: &str = "projection.rebuild";
/// Puts the version before in place again.
pub const ROLLBACK: &str = "projection.rollback";
/// Frees the space of the version before.
pub const FORGET: &str = "projection.forget";

/// Who asks for the rebuilds that a release brings with it.
const ACTOR: &str = "manager:projections";

/// Between two attempts to take on what a release brings with it.
const AGAIN: Duration = Duration::from_millis(500);

/// Carries out the operations on read models.
#[derive(Debug, Clone)]
pub struct RebuildWork {
    log: Log,
}

/// What the operation is given.
#[derive(Default, serde::Deserialize)]
struct Input {
    model: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl RebuildWork {
    /// Rebuilds from a log, through its pool.
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

impl Work for RebuildWork {
    fn takes(&self, kind: &str) -> bool {
        [REBUILD, ROLLBACK, FORGET].contains(&kind)
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let Errand { id: operation, accepted, progress, .. } = errand;
        let log = self.log.clone();
        Box::pin(async move {
            let (model, dry_run) = asked(&accepted)?;
            let rebuild = Rebuild::of(&log).dry_run(dry_run).operation(operation);
            let tell = move |standing: &Standing| {
                let (done, total) = (standing.done, Some(standing.total));
                let message = standing.to_string();
                // Whoever is too slow to listen misses a word; the next one comes.
                let _ = progress.try_send(OperationProgress { done, total, message });
            };
            let ended = match accepted.kind.as_str() {
                ROLLBACK => rebuild.roll_back(model, tell).await.map(|report| Json::of(&report)),
                FORGET => {
                    let forgotten = rebuild.forget(model).await;
                    forgotten.map(|known| Json::of(&serde_json::json!({ "forgotten": known })))
                }
                _ => rebuild.run(model, tell).await.map(|report| Json::of(&report)),
            };
            ended.map_err(|error| {
                tracing::warn!(%operation, %model, %error, kind = accepted.kind, "it failed");
                problem(&error)
            })
        })
    }
}

/// What a release brings with it: removes what rebuilds left behind that were cut short, and
/// takes on a rebuild of each model whose rows another version of the fold made. `term` tells
/// one attempt from the next. Waits for a database or a processor that is not there yet.
pub async fn refresh(log: &Log, executor: &Arc<dyn Executor>, term: i64) {
    let found = loop {
        let found = async {
            sweep(log).await?;
            outdated(log).await
        };
        match found.await {
            Ok(found) => break found,
            Err(error) => {
                tracing::warn!(%error, "it is not known whether read models are of another release");
                sleep(AGAIN).await;
            }
        }
    };
    for old in found {
        let (model, fold, ours) = (old.model, old.fold, old.ours);
        tracing::info!(%model, fold, ours, "the read model is of another release: made anew");
        let generation = old.generation;
        let attempt = format_args!("{model}:{ours}:{generation}:{term}").to_string();
        let command = command_id(Uuid::nil(), ACTOR, format_args!("{attempt}"));
        let accept = OperationCommand::Accept(AcceptOperation {
            kind: REBUILD.into(),
            resource: Resource { kind: "projection".into(), id: model.as_str().into() },
            command: None,
            input: Json::null(),
        });
        let operation = domain::operation_id(command).0;
        let tenant = TenantId::default_tenant();
        let envelope = CommandEnvelope::new(tenant, operation, accept, command, ACTOR);
        let outcome = loop {
            let outcome = executor.execute(envelope.clone()).await;
            if outcome.status != Status::Busy {
                break outcome;
            }
            sleep(AGAIN).await;
        };
        if let Some(problem) = &outcome.decision().problem {
            tracing::warn!(%model, problem = problem.detail, "the rebuild was not taken on");
        }
    }
}

/// The model that the operation names, and whether only to look.
fn asked(accepted: &OperationAccepted) -> Result<(Model, bool), Problem> {
    let input: Option<Input> = accepted
        .input
        .read()
        .map_err(|error| Problem::new(Code::InvalidBody, format!("input: {error}")))?;
    let input = input.unwrap_or_default();
    let model = input.model.unwrap_or_else(|| accepted.resource.id.clone());
    let model = model.parse().map_err(|error: ProjectionError| Problem {
        allowed: Model::ALL.iter().map(|model| model.as_str().to_owned()).collect(),
        ..Problem::new(Code::NotFound, error.to_string())
    })?;
    Ok((model, input.dry_run))
}

fn problem(error: &ProjectionError) -> Problem {
    let (code, conflicting_id) = match error {
        ProjectionError::Busy { operation, .. } => (Code::InProgress, *operation),
        ProjectionError::NothingKept { .. } => (Code::NotPossible, None),
        ProjectionError::UnknownModel(_) => (Code::NotFound, None),
        ProjectionError::Log(_)
        | ProjectionError::Database(_)
        | ProjectionError::Pool(_)
        | ProjectionError::InUse { .. } => (Code::Unavailable, None),
        ProjectionError::Row { .. } => (Code::Internal, None),
    };
    Problem { conflicting_id, ..Problem::new(code, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(input: &str) -> OperationAccepted {
        OperationAccepted {
            kind: REBUILD.into(),
            resource: domain::operation::Resource { kind: "projection".into(), id: "x".into() },
            command: None,
            input: Json::parse(input).unwrap(),
        }
    }

    #[test]
    fn the_operation_names_a_model_or_is_told_which_there_are() {
        assert_eq!(asked(&accepted(r#"{"model":"tasks"}"#)).unwrap(), (Model::Tasks, false));
        let unknown = asked(&accepted(r#"{"model":"tusks"}"#)).unwrap_err();
        assert_eq!(unknown.code(), Some(Code::NotFound));
        assert!(unknown.allowed.contains(&"tasks".to_owned()));
        let malformed = asked(&accepted(r#"{"model":7}"#)).unwrap_err();
        assert_eq!(malformed.code(), Some(Code::InvalidBody));
        // The gateway's route names the model as the operation's resource.
        let mut bare = accepted("null");
        bare.resource.id = "audit".into();
        assert_eq!(asked(&bare).unwrap(), (Model::Audit, false));
        let mut dry = accepted(r#"{"dry_run":true}"#);
        dry.resource.id = "audit".into();
        assert_eq!(asked(&dry).unwrap(), (Model::Audit, true));
    }

    #[test]
    fn a_rebuild_that_is_under_way_is_named() {
        let operation = Some(Uuid::from_u128(7));
        let problem = problem(&ProjectionError::Busy { model: "tasks", operation });
        assert_eq!((problem.status, problem.conflicting_id), (409, operation));
    }
}
