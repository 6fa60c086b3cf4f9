//! Pages of the log, oldest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::{Json as Value, Recorded};
use projections::events::EventFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use super::StreamFilter;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Params, limit};
use crate::view::{self, List, Seen};

/// A page of CloudEvents.
pub type EventList = List<Value>;

/// Which events to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Strictly behind this position.
    after: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// One event type, such as `task.submitted`, or a stream type, such as `task`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// One stream's id.
    stream: Option<String>,
    /// The principal that asked.
    actor: Option<String>,
    /// The correlation.
    correlation: Option<String>,
}

/// Lists committed events, oldest first.
///
/// `next` is the `after` of the next page; a page may be short and still have one.
#[utoipa::path(get, path = "/events", tag = "events", params(EventParams), responses(
    (status = 200, description = "A page of CloudEvents", body = EventList),
    (status = "4XX", response = Refused),
))]
pub async fn list_events(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<EventParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let after = params::position("after", params.after.as_deref())?.unwrap_or_default();
    // The log itself is read: what stands in it is visible at once.
    at_least(&app, fresh).await?;
    let Seen { queries, .. } = view::seen(&app, fresh, &[]).await?;
    let stream = crate::task::stream(&app, &caller, params.stream, fresh).await?;
    let mut filter = EventFilter {
        stream: params::id("stream", stream.as_deref())?,
        actor: params::text("actor", params.actor)?,
        correlation: params::id("correlation", params.correlation.as_deref())?,
        ..EventFilter::default()
    };
    if let Some(kind) = &params.kind {
        // Checks the name, with a suggestion; one name per page.
        StreamFilter::read(Some(kind), None)?;
        if kind.contains(',') || !filter.of_type(kind.trim_end_matches(".*")) {
            let message = "a page takes one `type`; streams take several";
            return Err(ApiError::parameter("/query/type", message));
        }
    }
    let page = queries.events(&caller.tenant, &filter, after, limit).await?;
    let epoch = app.hub.epoch();
    let items = cloud_events(&page.value.events, epoch);
    let next = page.value.next.map(|next| next.to_string());
    let position = page.position;
    Ok(view::with_position(Json(List { items, next, position }), position, page.lag_ms))
}

/// Waits until the log has come to the position that the caller demands.
pub(crate) async fn at_least(app: &App, fresh: Fresh) -> ApiResult<()> {
    let Some(wanted) = fresh.min_position else { return Ok(()) };
    let mut head = app.doors.reader.feed.watch();
    let reached = tokio::time::timeout(fresh.wait, head.wait_for(|head| *head >= wanted)).await;
    if reached.is_ok() {
        return Ok(());
    }
    Err(projections::QueryError::NotYet { current: app.doors.reader.feed.head() }.into())
}

/// Events as CloudEvents.
pub(crate) fn cloud_events(events: &[Arc<Recorded>], epoch: u64) -> Vec<Value> {
    events.iter().map(|event| Value::of(&broker::CloudEvent::of(event, epoch))).collect()
}
