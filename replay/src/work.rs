//! Rebuilds as operations: `projection.rebuild`.

use commands::{Boxed, Errand, Work};
use domain::operation::{OperationAccepted, OperationProgress};
use domain::{Code, Json, Problem};
use projections::{Model, ProjectionError};
use store::Log;

/// The kind of operation that this carries out; its input is `{ "model": name }`, and without
/// an input its resource names the model.
pub const KIND: &str = "projection.rebuild";

/// Events between two words of progress.
const STEP: u64 = 20_000;

/// Carries out `projection.rebuild`.
#[derive(Debug, Clone)]
pub struct RebuildWork {
    log: Log,
}

/// What the operation is given.
#[derive(serde::Deserialize)]
struct Input {
    model: String,
}

impl RebuildWork {
    /// Rebuilds from a log, through its pool.
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

impl Work for RebuildWork {
    fn takes(&self, kind: &str) -> bool {
        kind == KIND
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let Errand { id: operation, accepted, progress, .. } = errand;
        let log = self.log.clone();
        Box::pin(async move {
            let model = model_of(&accepted)?;
            let mut told = 0;
            let tell = move |done: u64, total: u64| {
                if done >= told + STEP {
                    told = done;
                    let message = format!("folding {model}");
                    // Whoever is too slow to listen misses a word; the next one comes.
                    let total = Some(total.max(done));
                    let _ = progress.try_send(OperationProgress { done, total, message });
                }
            };
            match crate::rebuild(model, &log, tell).await {
                Ok(report) => Ok(Json::of(&report)),
                Err(error) => {
                    tracing::warn!(%operation, %model, %error, "a rebuild failed");
                    Err(problem(&error))
                }
            }
        })
    }
}

/// The model that the operation names.
fn model_of(accepted: &OperationAccepted) -> Result<Model, Problem> {
    let input: Option<Input> = accepted
        .input
        .read()
        .map_err(|error| Problem::new(Code::InvalidBody, format!("input: {error}")))?;
    let model = input.map_or_else(|| accepted.resource.id.clone(), |input| input.model);
    model.parse().map_err(|error: ProjectionError| Problem {
        allowed: Model::ALL.iter().map(|model| model.as_str().to_owned()).collect(),
        ..Problem::new(Code::NotFound, error.to_string())
    })
}

fn problem(error: &ProjectionError) -> Problem {
    let code = match error {
        ProjectionError::Busy { .. } => Code::NotPossible,
        ProjectionError::UnknownModel(_) => Code::NotFound,
        ProjectionError::Log(_) | ProjectionError::Database(_) | ProjectionError::Pool(_) => {
            Code::Unavailable
        }
        ProjectionError::Row { .. } => Code::Internal,
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(input: &str) -> OperationAccepted {
        OperationAccepted {
            kind: KIND.into(),
            resource: domain::operation::Resource { kind: "projection".into(), id: "x".into() },
            command: None,
            input: Json::parse(input).unwrap(),
        }
    }

    #[test]
    fn the_operation_names_a_model_or_is_told_which_there_are() {
        assert_eq!(model_of(&accepted(r#"{"model":"tasks"}"#)).unwrap(), Model::Tasks);
        let unknown = model_of(&accepted(r#"{"model":"tusks"}"#)).unwrap_err();
        assert_eq!(unknown.code(), Some(Code::NotFound));
        assert!(unknown.allowed.contains(&"tasks".to_owned()));
        let malformed = model_of(&accepted("{}")).unwrap_err();
        assert_eq!(malformed.code(), Some(Code::InvalidBody));
        // The gateway's route has no input: the model is the operation's resource.
        let mut asked = accepted("null");
        asked.resource.id = "audit".into();
        assert_eq!(model_of(&asked).unwrap(), Model::Audit);
    }
}
