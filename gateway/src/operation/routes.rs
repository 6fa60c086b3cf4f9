//! Read, follow and cancel operations.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use domain::operation::Reason;
use domain::{OperationId, StreamType};
use projections::Model;
use projections::operations::{OperationFilter, OperationView};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change, parse};
use crate::error::ApiResult;
use crate::events::{Live, StreamFilter, cursor, sse_answer};
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Id, NoParams, Params, id, limit};
use crate::view::{self, List, Seen};

const OPERATION: StreamType = StreamType::Operation;

/// Which operations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationParams {
    /// The kind, such as `agent.drain`.
    kind: Option<String>,
    /// States with commas between.
    state: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists operations, newest first.
#[utoipa::path(get, path = "/operations", tag = "operations", params(OperationParams), responses(
    (status = 200, description = "A page of operations", body = List<OperationView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_operations(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<OperationParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let filter = OperationFilter {
        kind: params::text("kind", params.kind)?,
        states: params::words("state", params.state.as_deref())?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Operations]).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.operations(&caller.tenant, &filter, limit, cursor).await?))
}

/// Shows an operation.
#[utoipa::path(get, path = "/operations/{id}", tag = "operations", params(("id" = OperationId, Path)), responses(
    (status = 200, description = "The operation", body = OperationView),
    (status = "4XX", response = Refused),
))]
pub async fn get_operation(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let Seen { queries, head } = view::seen(&app, fresh, &[Model::Operations]).await?;
    let found = queries.operation(&caller.tenant, OperationId(id), fresh.wait).await?;
    view::one(found, "operation", head, |operation| operation.version, &headers)
}

/// Cancels an operation that has not ended.
#[utoipa::path(post, path = "/operations/{id}/cancel", tag = "operations", params(("id" = OperationId, Path)), request_body = Reason, responses(
    (status = 200, description = "Cancelled", body = Changed),
    (status = "4XX", response = Refused),
))]
pub async fn cancel_operation(
    State(app): State<App>,
    call: Call,
    Path(operation): Path<String>,
    body: JsonBytes,
) -> ApiResult {
    let command = parse(OPERATION, "cancel", &body.0)?;
    change(&app, &call, Target::Known(id(&operation)?), command).await
}

/// Where to begin.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FollowParams {
    /// Strictly behind this place of the log; absent: from the operation's first event.
    after: Option<String>,
}

/// Streams an operation's events from its first one on.
#[utoipa::path(get, path = "/operations/{id}/events", tag = "operations", params(
    ("id" = OperationId, Path),
    FollowParams,
    ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event"),
), responses(
    (status = 200, description = "CloudEvents as server-sent events", body = String, content_type = "text/event-stream"),
    (status = "4XX", response = Refused),
))]
pub async fn operation_events(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<FollowParams>,
    headers: HeaderMap,
) -> ApiResult {
    let log = &app.doors.reader.log;
    let events = log.read_stream(&caller.tenant, id, 0, 1).await?;
    let first = events.first().filter(|event| event.stream_type == OPERATION);
    let Some(first) = first else {
        return Err(crate::error::ApiError::not_found("operation"));
    };
    let wanted = cursor::of_request(&headers, params.after.as_deref())?;
    let from = cursor::Cursor { position: first.position - 1, epoch: None };
    let slot = Arc::new(app.stream_slot(&caller)?);
    let filter = StreamFilter { stream: Some(id), ..StreamFilter::default() };
    let live = Live::open(&app, &caller, slot, filter, wanted.or(Some(from))).await?;
    Ok(sse_answer(live))
}
