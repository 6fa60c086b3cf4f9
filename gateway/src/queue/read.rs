//! What waits where, and claims.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use domain::task::{ClaimTasks, Claimed};
use projections::Model;
use projections::queues::{QueueStanding, QueueView};
use projections::{Answer, Page};
use serde::Deserialize;
use utoipa::IntoParams;

use super::check;
use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::error::{ApiError, ApiResult};
use crate::layer::Asked;
use crate::openapi::Refused;
use crate::query::{Fresh, NoParams, Params};
use crate::view::{self, List, Seen};

/// The models behind a queue.
const MODELS: &[Model] = &[Model::Tasks, Model::Metrics, Model::Queues];

/// Gives an agent up to `max` tasks of a queue; waits up to `wait_ms` for the first.
#[utoipa::path(post, path = "/queues/{queue}/claim", tag = "queues", params(("queue" = String, Path)), request_body = ClaimTasks, responses(
    (status = 200, description = "The tasks, each with its lease; none when the time is up", body = Claimed),
    (status = "4XX", response = Refused),
))]
pub async fn claim(
    State(app): State<App>,
    caller: Caller,
    Path(queue): Path<String>,
    asked: Asked,
    Params(NoParams {}): Params<NoParams>,
    body: JsonBytes,
) -> ApiResult {
    check(&queue)?;
    let request: ClaimTasks = body.read()?;
    let claim = app.doors.claims.claim(caller.tenant, queue, request);
    // An agent that hung up gets nothing: its tasks would lie there until their leases end.
    let claimed = tokio::select! {
        biased;
        claimed = claim => claimed?,
        () = asked.0.gone.cancelled() => Claimed::default(),
    };
    Ok(Json(claimed).into_response())
}

/// How to show queues.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QueueParams {
    /// With what their tasks wait for, as the scheduler has it now.
    #[serde(default)]
    standing: bool,
}

impl QueueParams {
    /// What the scheduler knows is about now.
    fn check(&self, fresh: Fresh) -> Result<(), ApiError> {
        if self.standing && fresh.as_of.is_some() {
            let why = "`standing` is known of the present alone; leave it or `as_of` away";
            return Err(ApiError::parameter("/query/standing", why));
        }
        Ok(())
    }
}

/// Lists the queues that a task names or once named, by name.
#[utoipa::path(get, path = "/queues", tag = "queues", params(QueueParams), responses(
    (status = 200, description = "All queues", body = List<QueueView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_queues(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<QueueParams>,
    fresh: Fresh,
) -> ApiResult {
    params.check(fresh)?;
    let Seen { queries, .. } = view::seen(&app, fresh, MODELS).await?;
    let mut queues = queries.queues(&caller.tenant).await?;
    if params.standing {
        overlay(&app, &caller, &mut queues.value);
    }
    Ok(view::list(queues.map(|items| Page { items, next: None })))
}

/// Shows a queue: depth by priority and state, age of the oldest, rates, policy.
#[utoipa::path(get, path = "/queues/{queue}", tag = "queues", params(("queue" = String, Path), QueueParams), responses(
    (status = 200, description = "The queue", body = QueueView),
    (status = "4XX", response = Refused),
))]
pub async fn get_queue(
    State(app): State<App>,
    caller: Caller,
    Path(queue): Path<String>,
    Params(params): Params<QueueParams>,
    fresh: Fresh,
) -> ApiResult {
    check(&queue)?;
    params.check(fresh)?;
    let Seen { queries, head } = view::seen(&app, fresh, MODELS).await?;
    let found = queries.queue(&caller.tenant, &queue, fresh.wait).await?;
    let Answer { mut value, position, lag_ms } = view::present(found, "queue", head)?;
    if params.standing {
        overlay(&app, &caller, std::slice::from_mut(&mut value));
    }
    Ok(view::with_position(Json(value), position, lag_ms))
}

/// Lays over queues what only the scheduler knows: it tells by the clock, not by the log,
/// which tasks could be given out.
fn overlay(app: &App, caller: &Caller, queues: &mut [QueueView]) {
    let Some(depths) = app.doors.claims.depths(&caller.tenant) else { return };
    for queue in queues {
        let depth = depths.get(&queue.name).copied().unwrap_or_default();
        queue.standing = Some(QueueStanding {
            ready: depth.waiting as u64,
            timed: depth.timed as u64,
            dependent: depth.dependent as u64,
            held: depth.held as u64,
        });
    }
}
