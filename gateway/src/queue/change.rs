//! What is decided about a queue: its policy, whether it gives tasks out, a purge.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::{Json as Answer, http::StatusCode};
use domain::operation::Resource;
use domain::queue::{ChangeQueue, ConfigureQueue, QueueCommand, QueuePolicy, QueueState, queue_id};
use domain::task::Reason;
use domain::{Code, Json, Problem};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check;
use crate::app::App;
use crate::body::JsonBytes;
use crate::change::{Call, CallWith, Changed, Target, change};
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::view;

/// Sets a queue's policy as a whole; what is left out is the default.
#[utoipa::path(put, path = "/queues/{queue}", tag = "queues", params(("queue" = String, Path)), request_body = QueuePolicy, responses(
    (status = 200, description = "Set", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn configure_queue(
    State(app): State<App>,
    Path(queue): Path<String>,
    call: Call,
    body: JsonBytes,
) -> ApiResult {
    check(&queue)?;
    let policy: QueuePolicy = body.read()?;
    let target = Target::Known(queue_id(&call.caller.tenant, &queue));
    let command = QueueCommand::Configure(ConfigureQueue { queue, policy });
    change(&app, &call, target, command.into()).await
}

/// Changes whether a queue gives tasks out: pause, resume or drain.
///
/// A draining queue gives out what waited before; what is submitted later waits until it
/// is resumed. What runs goes on in any case.
#[utoipa::path(post, path = "/queues/{queue}/{command}", tag = "queues", params(
    ("queue" = String, Path),
    ("command" = String, Path, description = "pause, resume or drain"),
), request_body = Reason, responses(
    (status = 200, description = "Changed", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn change_queue(
    State(app): State<App>,
    Path((queue, name)): Path<(String, String)>,
    call: Call,
    body: JsonBytes,
) -> ApiResult {
    check(&queue)?;
    let target = Target::Known(queue_id(&call.caller.tenant, &queue));
    let reason = body.read::<Reason>()?.reason;
    let by = ChangeQueue { queue, reason };
    let command = match &*name {
        "pause" => QueueCommand::Pause(by),
        "resume" => QueueCommand::Resume(by),
        "drain" => QueueCommand::Drain(by),
        _ => {
            let known = ["claim", "pause", "resume", "drain", "purge"];
            let hint = domain::json::nearest(&name, known.into_iter())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            let shown: String = name.chars().take(64).collect();
            let detail = format!("queue has no command `{shown}`{hint}");
            let allowed = known.map(String::from).to_vec();
            let problem = Problem::new(Code::UnknownCommand, detail);
            return Err(Problem { allowed, ..problem }.into());
        }
    };
    change(&app, &call, target, command.into()).await
}

/// How to purge.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PurgeParams {
    /// Only tells how many tasks it would cancel.
    #[serde(default)]
    dry_run: bool,
}

/// What a purge would do.
#[derive(Debug, Serialize, ToSchema)]
pub struct PurgePreview {
    /// The queue.
    pub queue: String,
    /// Whether it gives tasks out now.
    pub state: QueueState,
    /// Tasks that wait in it and would be cancelled.
    pub waiting: u64,
    /// The log position that the answer reflects.
    pub position: u64,
}

/// Cancels every task that waits in a queue: 202. What an agent has stays with it, and so
/// does what is submitted later.
#[utoipa::path(post, path = "/queues/{queue}/purge", tag = "queues", params(
    ("queue" = String, Path),
    PurgeParams,
), request_body = Reason, responses(
    (status = 200, description = "With `dry_run`: what it would do", body = PurgePreview),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn purge_queue(
    State(app): State<App>,
    Path(queue): Path<String>,
    CallWith(call, params): CallWith<PurgeParams>,
    body: JsonBytes,
) -> ApiResult {
    check(&queue)?;
    let reason = body.read::<Reason>()?;
    if params.dry_run {
        return preview(&app, &call, &queue).await;
    }
    let resource = Resource { kind: "queue".into(), id: queue };
    accept_work(&app, &call, commands::PURGE, resource, Json::of(&reason)).await
}

async fn preview(app: &App, call: &Call, queue: &str) -> ApiResult {
    let (queries, tenant) = (&app.doors.queries, &call.caller.tenant);
    let found = queries.queue(tenant, queue, std::time::Duration::ZERO).await?;
    let (position, lag_ms) = (found.position, found.lag_ms);
    let (waiting, state) =
        found.value.map_or((0, QueueState::Active), |queue| (queue.depth, queue.state));
    let preview = PurgePreview { queue: queue.to_owned(), state, waiting, position };
    Ok(view::with_position((StatusCode::OK, Answer(preview)).into_response(), position, lag_ms))
}
