//! Answers of the read models: how fresh they are, and the one shape of every list.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{AgentId, Code, OperationId, Problem, ScheduleId, StreamType, TaskId};
use projections::agents::AgentView;
use projections::schedules::ScheduleView;
use projections::{Answer, Model, Page, Queries, QueryError};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::conditional;
use crate::error::{ApiError, ApiResult, chain};
use crate::query::{AsOf, Fresh};

/// How long an answer to a change waits for the read model, where the caller asked for
/// the whole resource.
const SHOWN_PATIENCE: Duration = Duration::from_secs(2);

/// A page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct List<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Hand it back as `cursor` for the next page; null on the last one.
    pub next: Option<String>,
    /// The log position that the answer reflects.
    pub position: u64,
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        (&error).into()
    }
}

impl From<&QueryError> for ApiError {
    fn from(error: &QueryError) -> Self {
        match error {
            QueryError::Cursor => {
                Self::parameter("/query/cursor", "the cursor is not one of this list")
            }
            QueryError::NotYet { current } => not_yet(*current),
            QueryError::Database(_) | QueryError::Pool(_) => Self::unavailable(error),
            QueryError::Spoilt { .. } => {
                let problem = Problem::new(Code::Unavailable, error.to_string());
                Problem { retry_after_ms: Some(5_000), ..problem }.into()
            }
            QueryError::Row(_) => Self::internal(&chain(error)),
            QueryError::Full => {
                let problem = Problem::new(Code::Busy, "too many queries wait for an answer");
                Problem { retry_after_ms: Some(1_000), ..problem }.into()
            }
            QueryError::Gathered(of_all) => of_all.as_ref().into(),
        }
    }
}

pub(crate) fn not_yet(current: u64) -> ApiError {
    let detail = format!("the read model is at position {current}; try again shortly");
    let problem = Problem::new(Code::NotYetVisible, detail);
    Problem { log_position: Some(current), retry_after_ms: Some(1_000), ..problem }.into()
}

/// The read models as a caller wants to see them.
pub(crate) struct Seen {
    /// What to ask: the present rows, or those of a moment.
    pub(crate) queries: Queries,
    /// What must have been seen before there can be said to be nothing: the log's head when
    /// the request came, or the moment.
    pub(crate) head: u64,
}

/// Waits until the models behind an answer reflect what the caller demands.
pub(crate) async fn seen(app: &App, fresh: Fresh, models: &[Model]) -> ApiResult<Seen> {
    let queries = &app.doors.queries;
    let head = app.doors.reader.feed.head();
    if let Some(position) = fresh.min_position {
        queries.wait_for_all(models, position, fresh.wait).await.map_err(not_yet)?;
    }
    let Some(moment) = fresh.as_of else { return Ok(Seen { queries: queries.clone(), head }) };
    let moment = resolve(queries, "as_of", moment).await?;
    queries.wait_for_all(models, moment, fresh.wait).await.map_err(not_yet)?;
    Ok(Seen { queries: queries.at(moment), head: moment })
}

/// The position that a moment stands for.
///
/// # Errors
/// When it lies in the future or before the first event; names the parameter.
pub(crate) async fn resolve(queries: &Queries, name: &str, moment: AsOf) -> ApiResult<u64> {
    let refuse = |why: String| Err(ApiError::parameter(format!("/query/{name}"), why));
    match moment {
        AsOf::Position(position) => {
            let head = queries.log_head().await?;
            if position > head {
                return refuse(format!("the log ends at {head}; {position} is in the future"));
            }
            Ok(position)
        }
        AsOf::Time(time) => match queries.position_at(time).await? {
            None => refuse("this time is in the future".into()),
            Some(0) => refuse("this time is before the first event".into()),
            Some(position) => Ok(position),
        },
    }
}

/// A page as it is answered.
pub(crate) fn list<T: Serialize>(answer: Answer<Page<T>>) -> Response {
    let Answer { value: Page { items, next }, position, lag_ms } = answer;
    with_position(Json(List { items, next, position }), position, lag_ms)
}

/// Any answer with the position it reflects.
pub(crate) fn with_position(answer: impl IntoResponse, position: u64, lag_ms: u64) -> Response {
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    headers.insert("taffrail-log-position", HeaderValue::from(position));
    headers.insert("taffrail-projection-lag-ms", HeaderValue::from(lag_ms));
    response
}

/// A thing that was asked for by id, with its entity tag; 304 where the caller has it.
///
/// `head` is the log's head when the request came: a model that has not come that far
/// cannot know that there is nothing.
pub(crate) fn one<T: Serialize>(
    answer: Answer<Option<T>>,
    what: &str,
    head: u64,
    version: impl Fn(&T) -> u64,
    headers: &HeaderMap,
) -> ApiResult {
    let Answer { value, position, lag_ms } = present(answer, what, head)?;
    let version = version(&value);
    let mut response = if conditional::unchanged(headers, version) {
        with_position(StatusCode::NOT_MODIFIED, position, lag_ms)
    } else {
        with_position(Json(value), position, lag_ms)
    };
    response.headers_mut().insert(header::ETAG, conditional::etag(version));
    Ok(response)
}

/// What was asked for, or why there is none.
pub(crate) fn present<T>(answer: Answer<Option<T>>, what: &str, head: u64) -> ApiResult<Answer<T>> {
    let Answer { value, position, lag_ms } = answer;
    match value {
        Some(value) => Ok(Answer { value, position, lag_ms }),
        None if position < head => Err(not_yet(position)),
        None => Err(ApiError::not_found_at(what, position, lag_ms)),
    }
}

/// The changed thing in full, where the read model shows it in time.
pub(crate) async fn shown(
    app: &App,
    caller: &Caller,
    kind: StreamType,
    id: Uuid,
    position: u64,
) -> Option<Response> {
    let queries = &app.doors.queries;
    let (tenant, patience) = (&caller.tenant, SHOWN_PATIENCE);
    let models: &[Model] = match kind {
        StreamType::Task => &[Model::Tasks],
        StreamType::Agent => &[Model::Agents, Model::Tasks],
        StreamType::Operation => &[Model::Operations],
        StreamType::Schedule => &[Model::Schedules],
        StreamType::Crew | StreamType::Queue | StreamType::Node | StreamType::Profile => {
            return None;
        }
    };
    queries.wait_for_all(models, position, patience).await.ok()?;
    Some(match kind {
        StreamType::Task => {
            Json(queries.task_text(tenant, TaskId(id), patience).await.ok()?.value?).into_response()
        }
        StreamType::Agent => {
            let mut agent = queries.agent(tenant, AgentId(id), patience).await.ok()?.value?;
            overlay(app, caller, &mut agent);
            Json(agent).into_response()
        }
        StreamType::Operation => {
            let operation = queries.operation(tenant, OperationId(id), patience).await.ok()?;
            Json(operation.value?).into_response()
        }
        StreamType::Schedule => {
            let id = ScheduleId(id);
            let row = queries.schedule(tenant, id, patience).await.ok()?.value?;
            Json(ScheduleView::of(id, row)).into_response()
        }
        StreamType::Crew | StreamType::Queue | StreamType::Node | StreamType::Profile => {
            return None;
        }
    })
}

/// Lays over an agent what only its heartbeats know (invariant 12), which is about now.
pub(crate) fn overlay(app: &App, caller: &Caller, agent: &mut AgentView) {
    if let Some(seen) = app.doors.wire.observed(&caller.tenant, agent.id) {
        agent.last_heartbeat = Some(seen.at);
        agent.load = seen.load;
        agent.slots_free = seen.slots_free;
    }
}
