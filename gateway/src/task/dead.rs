//! Dead letters: one by its task, or all that a filter takes.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use domain::operation::Resource;
use domain::task::{Reason, RequeueTask, TaskRef};
use domain::{Command, FieldError, Json, Problem, StreamType};
use projections::tasks::{DeadAction, DeadLetterWork, TaskText, TaskView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::TaskAt;
use crate::app::App;
use crate::body::JsonBytes;
use crate::change::{Call, CallWith, Changed, Target, change, parse};
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::view;

const TASK: StreamType = StreamType::Task;
/// Tasks that a dry run shows.
const SAMPLE: usize = 10;

/// Revives a failed or dead task: back into its queue with all its attempts, changed on the way
/// if `changes` says so.
#[utoipa::path(post, path = "/dead-letters/{task_id}/requeue", tag = "dead letters", params(("task_id" = TaskRef, Path)), request_body = RequeueTask, responses(
    (status = 200, description = "Queued again", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn requeue_dead_letter(
    State(app): State<App>,
    call: Call,
    TaskAt(id): TaskAt,
    body: JsonBytes,
) -> ApiResult {
    let command: Command = parse(TASK, "requeue", &body.0)?;
    change(&app, &call, Target::Known(id), command).await
}

/// Drops a failed or dead task from the dead letters; its history stays.
#[utoipa::path(delete, path = "/dead-letters/{task_id}", tag = "dead letters", params(("task_id" = TaskRef, Path)), request_body = Reason, responses(
    (status = 200, description = "Dropped", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn discard_dead_letter(
    State(app): State<App>,
    call: Call,
    TaskAt(id): TaskAt,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(TASK, "discard", &body.0)?).await
}

/// Whether it is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryRun {
    /// Only tells which dead letters the filter takes; `false` does it.
    #[serde(default = "yes")]
    #[param(default = true)]
    dry_run: bool,
}

fn yes() -> bool {
    true
}

/// What the filter takes now.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterPreview {
    /// How many dead letters that are.
    pub matching: u64,
    /// The newest of them, at most ten.
    #[schema(value_type = Vec<TaskView>)]
    pub sample: Vec<TaskText>,
    /// The log position that the answer reflects.
    pub position: u64,
}

/// Revives every failed or dead task that a filter takes. Without `dry_run=false` it only
/// tells how many there are, with a sample; with it: 202.
///
/// Meant are those that have ended when the operation is accepted. What was revived or
/// archived before its turn came is left as it is. Cancelling the operation leaves alone
/// what has not had its turn.
#[utoipa::path(post, path = "/dead-letters/requeue", tag = "dead letters", params(DryRun), request_body = DeadLetterWork, responses(
    (status = 200, description = "What it would do", body = DeadLetterPreview),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn requeue_dead_letters(
    State(app): State<App>,
    CallWith(call, run): CallWith<DryRun>,
    body: JsonBytes,
) -> ApiResult {
    by_filter(&app, &call, DeadAction::Requeue, run.dry_run, &body).await
}

/// Drops every failed or dead task that a filter takes from the dead letters. Without
/// `dry_run=false` it only tells how many there are, with a sample; with it: 202.
#[utoipa::path(post, path = "/dead-letters/discard", tag = "dead letters", params(DryRun), request_body = DeadLetterWork, responses(
    (status = 200, description = "What it would do", body = DeadLetterPreview),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn discard_dead_letters(
    State(app): State<App>,
    CallWith(call, run): CallWith<DryRun>,
    body: JsonBytes,
) -> ApiResult {
    by_filter(&app, &call, DeadAction::Discard, run.dry_run, &body).await
}

async fn by_filter(
    app: &App,
    call: &Call,
    action: DeadAction,
    dry_run: bool,
    body: &JsonBytes,
) -> ApiResult {
    let work: DeadLetterWork = body.parse()?;
    let mut faults = work.filter.faults();
    if action == DeadAction::Discard && !work.changes.is_null() {
        let message = "what is dropped can't be changed on the way";
        faults.push(FieldError::new("/changes", "not_possible", message));
    }
    if !faults.is_empty() {
        return Err(Problem::invalid(faults).into());
    }
    // What every single task would refuse is refused at once.
    parse(TASK, action.command(), work.body().as_bytes())?;
    if dry_run {
        return preview(app, call, &work).await;
    }
    let id = work.filter.queue.clone().unwrap_or_else(|| "*".into());
    let resource = Resource { kind: "dead_letters".into(), id };
    accept_work(app, call, action.operation(), resource, Json::of(&work)).await
}

async fn preview(app: &App, call: &Call, work: &DeadLetterWork) -> ApiResult {
    let (queries, tenant) = (&app.doors.queries, &call.caller.tenant);
    let found = queries.dead_letters_of(tenant, &work.filter, u64::MAX, SAMPLE).await?;
    let (position, lag_ms) = (found.position, found.lag_ms);
    let (matching, sample) = (found.value.tasks.len() as u64, found.value.sample);
    let preview = DeadLetterPreview { matching, sample, position };
    Ok(view::with_position((StatusCode::OK, Answer(preview)).into_response(), position, lag_ms))
}
