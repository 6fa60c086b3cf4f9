//! What would have happened, had something been different.

use axum::extract::State;
use domain::Json;
use domain::fork::ForkRequest;
use domain::operation::Resource;

use crate::app::App;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;

/// Tells a stretch of the log once more with something different in it, and compares: 202.
/// The operation's result has `happened` and `what_if` side by side, and `fork_id`, the
/// operation's own id. Nothing that happens in a fork reaches the log or a subject; a fork
/// cannot begin from a fork.
#[utoipa::path(post, path = "/time/fork", tag = "operations", request_body = ForkRequest, responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn fork(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let asked: ForkRequest = body.read()?;
    // Of the log itself: what this process has heard of may lag.
    asked.end(app.doors.reader.log.head().await?.position)?;
    let resource = Resource { kind: "log".into(), id: "fork".into() };
    accept_work(&app, &call, "time.fork", resource, Json::of(&asked)).await
}
