//! One task: submit, read, change.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use domain::task::{Reason, SubmitTask, TaskRef, UpdateTask};
use domain::{StreamType, TaskId};
use projections::Model;
use projections::tasks::TaskView;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change, not_here, parse};
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::query::{Fresh, NoParams, Params};
use crate::view::{self, Seen};

use super::TaskAt;

const TASK: StreamType = StreamType::Task;
/// Commands that have a route of their own, or that only the system gives.
pub(crate) const NOT_HERE: &[&str] = &["submit", "expire_lease", "escalate"];

/// Submits a task; 201 once its first event is durable.
///
/// `position` lets a later read wait for this write (`Taffrail-Min-Position`).
#[utoipa::path(post, path = "/tasks", tag = "tasks", request_body = SubmitTask, responses(
    (status = 201, description = "Submitted", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn submit_task(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    change(&app, &call, Target::New, parse(TASK, "submit", &body.0)?).await
}

/// Shows a task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks", params(("id" = TaskRef, Path)), responses(
    (status = 200, description = "The task", body = TaskView),
    (status = "4XX", response = Refused),
))]
pub async fn get_task(
    State(app): State<App>,
    caller: Caller,
    TaskAt(id): TaskAt,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let Seen { queries, head } = view::seen(&app, fresh, &[Model::Tasks]).await?;
    let found = queries.task_text(&caller.tenant, TaskId(id), fresh.wait).await?;
    view::one(found, "task", head, |task| task.version, &headers)
}

/// Changes what a task says; its state stays.
#[utoipa::path(patch, path = "/tasks/{id}", tag = "tasks", params(("id" = TaskRef, Path)), request_body = UpdateTask, responses(
    (status = 200, description = "Changed", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn update_task(
    State(app): State<App>,
    call: Call,
    TaskAt(id): TaskAt,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(TASK, "update", &body.0)?).await
}

/// Takes a task off every list; its history stays.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks", params(("id" = TaskRef, Path)), responses(
    (status = 200, description = "Archived", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn archive_task(
    State(app): State<App>,
    call: Call,
    TaskAt(id): TaskAt,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(TASK, "archive", &body.0)?).await
}

/// Gives a task any of its commands: assign, start, progress, block, unblock,
/// submit_for_review, approve, reject, complete, fail, extend, release, cancel, requeue,
/// reassign, unassign, discard, archive, update.
///
/// What an agent says of its work carries the `lease_token` of its assignment.
#[utoipa::path(post, path = "/tasks/{id}/{command}", tag = "tasks", params(
    ("id" = TaskRef, Path),
    ("command" = String, Path, description = "The command's name"),
), request_body(content = Reason, description = "The command's fields"), responses(
    (status = 200, description = "Done", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn command_task(
    State(app): State<App>,
    call: Call,
    TaskAt(id): TaskAt,
    Path(path): Path<(String, String)>,
    body: JsonBytes,
) -> ApiResult {
    let (_, name) = path;
    if NOT_HERE.contains(&&*name) {
        return Err(not_here(TASK, &name, "a new task comes by POST /v1/tasks"));
    }
    let command = parse(TASK, &name, &body.0)?;
    change(&app, &call, Target::Known(id), command).await
}
