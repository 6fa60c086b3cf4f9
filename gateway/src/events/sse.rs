//! Server-sent events (WHATWG HTML, 9.2), resumable at every position.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::cursor;
use super::filter::StreamFilter;
use super::stream::{Live, Next};
use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiResult;
use crate::query::{Fresh, Params};

/// What a client waits before it connects again: a second and up to one more, so that a
/// restart is not followed by everybody at once (reliability 3.4).
const RETRY_MS: u64 = 1_000;

/// Which events to stream.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamParams {
    /// Strictly behind this place (`<position>` or `<position>.<epoch>`); absent: from now on.
    after: Option<String>,
    /// Event types with commas between, such as `task.submitted,agent`.
    #[serde(rename = "type")]
    types: Option<String>,
    /// One stream's id.
    stream: Option<String>,
}

/// Streams committed events as they happen, after those since `Last-Event-ID` or `after`.
///
/// An id beyond the head, or of an epoch before a restore, is answered with one event
/// `reset` that names the position to go on from.
#[utoipa::path(get, path = "/events/stream", tag = "events", params(
    StreamParams,
    ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event"),
), responses(
    (status = 200, description = "CloudEvents as server-sent events", body = String, content_type = "text/event-stream"),
    (status = "4XX", response = crate::openapi::Refused),
))]
pub async fn stream_events(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<StreamParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let wanted = cursor::of_request(&headers, params.after.as_deref())?;
    let stream = crate::task::stream(&app, &caller, params.stream, fresh).await?;
    let filter = StreamFilter::read(params.types.as_deref(), stream.as_deref())?;
    let slot = Arc::new(app.stream_slot(&caller)?);
    Ok(answer(Live::open(&app, &caller, slot, filter, wanted).await?))
}

/// The answer that hands a stream's events to a client at the pace of its reading.
///
/// The body asks for the next events only when the connection takes more, so a client
/// that does not read holds one page; the connection gives up on it after 25 s.
pub(crate) fn answer(live: Live) -> Response {
    let hello = hello(&live);
    let events = stream::unfold(live, |mut live| async move {
        let bytes = match live.next().await {
            Next::Events(page) => page.sse(),
            Next::KeepAlive => Bytes::from_static(b":\n\n"),
            Next::Closing | Next::Revoked | Next::Broken => return None,
        };
        Some((bytes, live))
    });
    let first = stream::once(std::future::ready(hello));
    let all = futures::StreamExt::chain(first, events);
    let body = futures::StreamExt::map(all, Ok::<_, std::convert::Infallible>);
    event_stream(Body::from_stream(body))
}

/// An answer of server-sent events, which nothing on the way may keep or hold back.
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// `retry:`, a comment so that the head of the answer goes out at once, and `reset` where
/// the client's place is not one of this log.
fn hello(live: &Live) -> Bytes {
    let jitter = u64::from(live.app.doors.ids.fresh().as_bytes()[15]) * 4;
    let mut text = format!("retry: {}\n:\n\n", RETRY_MS + jitter);
    if live.start.reset {
        let (after, epoch) = (live.start.after, live.start.epoch);
        let id = cursor::write(after, epoch);
        text.push_str(&format!(
            "id: {id}\nevent: reset\ndata: {{\"position\":{after},\"epoch\":{epoch}}}\n\n"
        ));
    }
    text.into()
}
