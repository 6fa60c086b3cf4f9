//! Read models as a whole: how they stand, making one anew, and going back.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use domain::operation::{OperationState, Resource};
use domain::{Code, Problem};
use projections::operations::OperationFilter;
use projections::{Model, ModelView};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::view;

/// What an operation on a read model can be; the kinds that `replay` carries out.
const KINDS: [&str; 3] = [replay::REBUILD, replay::ROLLBACK, replay::FORGET];
/// How long the list of operations is waited for, to find one under way. Without an answer in
/// time the operation is taken on, and refuses itself where another has the lock.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every read model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// The models, by name.
    items: Vec<ModelView>,
}

/// Shows how far each read model is, its version and the one that can be gone back to.
#[utoipa::path(get, path = "/projections", tag = "metrics", responses(
    (status = 200, description = "The read models", body = Models),
    (status = "4XX", response = Refused),
))]
pub async fn list_models(State(app): State<App>, _: Caller) -> ApiResult {
    let items = app.doors.queries.models().await?;
    let lowest = items.iter().map(|model| model.position).min().unwrap_or_default();
    Ok(view::with_position(Json(Models { items }), lowest, 0))
}

/// What a rebuild may be told.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RebuildBody {
    /// Only make the rows and compare them with those that are read.
    dry_run: bool,
}

/// Folds a read model anew from the log, beside the live one, and puts it in its place: 202.
/// Another one under way for the model: 409, which names it.
#[utoipa::path(post, path = "/projections/{model}/rebuild", tag = "metrics", params(
    ("model" = String, Path, description = "tasks, agents, operations, audit, metrics, schedules, queues, nodes or profiles"),
), request_body = RebuildBody, responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn rebuild(
    State(app): State<App>,
    call: Call,
    Path(name): Path<String>,
    body: JsonBytes,
) -> ApiResult {
    let asked: RebuildBody = body.parse()?;
    take_on(&app, &call, KINDS[0], &name, domain::Json::of(&asked)).await
}

/// What the way back may be told; nothing yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Puts the version that was read before the last rebuild in place again, once it has seen
/// all events: 202.
#[utoipa::path(post, path = "/projections/{model}/rollback", tag = "metrics", params(
    ("model" = String, Path, description = "The read model"),
), responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn roll_back(
    State(app): State<App>,
    call: Call,
    Path(name): Path<String>,
    body: JsonBytes,
) -> ApiResult {
    let Nothing {} = body.parse()?;
    take_on(&app, &call, KINDS[1], &name, domain::Json::null()).await
}

/// Frees the space of the version that was read before the last rebuild: 202.
#[utoipa::path(delete, path = "/projections/{model}/previous", tag = "metrics", params(
    ("model" = String, Path, description = "The read model"),
), responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn forget(State(app): State<App>, call: Call, Path(name): Path<String>) -> ApiResult {
    take_on(&app, &call, KINDS[2], &name, domain::Json::null()).await
}

async fn take_on(app: &App, call: &Call, kind: &str, name: &str, input: domain::Json) -> ApiResult {
    let Ok(model) = name.parse::<Model>() else {
        let known = Model::ALL.map(Model::as_str).join(", ");
        return Err(ApiError::not_found(&format!("read model (known: {known})")));
    };
    let _alone = alone(app, call, model).await?;
    let resource = Resource { kind: "projection".into(), id: model.as_str().into() };
    accept_work(app, call, kind, resource, input).await
}

/// Held until the operation is taken on: of two callers one finds the other's. Between
/// processes the model's lock decides, and the later operation fails with the same problem.
async fn alone(app: &App, call: &Call, model: Model) -> Result<MutexGuard<'static, ()>, ApiError> {
    static ONE: Mutex<()> = Mutex::const_new(());
    let alone = ONE.lock().await;
    let queries = &app.doors.queries;
    if let Ok(head) = app.doors.reader.log.head().await {
        let _ = queries.wait_for(Model::Operations, head.position, PATIENCE).await;
    }
    let (command, fresh) = call.command_id(app);
    let own = (!fresh).then(|| domain::operation_id(command));
    for kind in KINDS {
        let states = vec![OperationState::Accepted, OperationState::Running];
        let filter = OperationFilter { kind: Some(kind.into()), states };
        let open = queries.operations(&call.caller.tenant, &filter, 200, None).await?;
        let other =
            open.value.items.into_iter().find(|operation| {
                operation.resource.id == model.as_str() && Some(operation.id) != own
            });
        if let Some(other) = other {
            let detail = format!("operation {} ({kind}) is under way for `{model}`", other.id);
            let conflicting_id = Some(other.id.0);
            return Err(Problem { conflicting_id, ..Problem::new(Code::InProgress, detail) }.into());
        }
    }
    Ok(alone)
}
