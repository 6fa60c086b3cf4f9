//! What is done with the whole log.

use axum::extract::State;
use domain::Json;
use domain::operation::Resource;
use serde::Deserialize;

use crate::app::App;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;

/// What a check may be told; nothing yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {}

/// Makes every decision of the scheduler once more from the log, and compares: 202. The
/// operation's result counts `decisions`, `identical`, `unknown` and `different`, and
/// names the `faults` by position.
#[utoipa::path(post, path = "/replay/verify-decisions", tag = "operations", responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn verify_decisions(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let Check {} = body.parse()?;
    let resource = Resource { kind: "log".into(), id: "decisions".into() };
    accept_work(&app, &call, "decisions.verify", resource, Json::null()).await
}
