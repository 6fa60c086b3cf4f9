//! What surrounds every request: its trace, its log line, its count, and a task of its
//! own, so that neither a caller who hangs up nor a panic leaves work half done (D43).

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, OriginalUri, Request, State};
use axum::http::Uri;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, render};
use crate::trace::Trace;

/// Fires when the caller has hung up; for work that is of no use without it.
#[derive(Debug, Clone)]
pub(crate) struct Gone(pub(crate) CancellationToken);

/// Routes that machines ask all the time.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];

/// Runs a request in a task of its own and finishes its answer.
pub async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace = Trace::of(request.headers(), app.doors.ids.fresh());
    let gone = CancellationToken::new();
    let _here = gone.clone().drop_guard();
    request.extensions_mut().insert(trace.clone());
    request.extensions_mut().insert(Gone(gone));
    let method = request.method().clone();
    let target = original(&request).path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!(
        "request",
        %method,
        route = route.as_ref().map_or("-", |route| route.as_str()),
        trace_id = trace.trace_id(),
        // Filled in by whoever learns them.
        tenant = tracing::field::Empty,
        stream_type = tracing::field::Empty,
        stream_id = tracing::field::Empty,
        command = tracing::field::Empty,
        command_id = tracing::field::Empty,
    );
    // Probes and scrapes come every few seconds and say nothing of the system's use.
    let probe = route.as_ref().is_some_and(|r| PROBES.contains(&r.as_str()));
    let tracker = app.tracker.clone();
    let work = async move {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            ApiError::internal(said.as_deref().unwrap_or("a panic")).into_response()
        });
        let principal = response.extensions_mut().remove::<Caller>().map(|c| c.principal);
        let response = render(response, &trace, &target);
        let status = response.status().as_u16();
        let elapsed = started.elapsed();
        app.figures.by_class[usize::from(status / 100).clamp(1, 5) - 1].add(1);
        app.figures.seconds.record_time(elapsed);
        let principal = principal.as_deref().unwrap_or("-");
        let ms = elapsed.as_secs_f64() * 1e3;
        if status >= 500 {
            tracing::warn!(status, ms, principal, "answered");
        } else if !probe || status >= 400 {
            tracing::info!(status, ms, principal, "answered");
        } else {
            tracing::debug!(status, ms, principal, "answered");
        }
        response
    };
    let answer = tracker.spawn(work.instrument(span)).await;
    answer.unwrap_or_else(|error| {
        // Only a runtime that is going down cancels the task.
        let trace = Trace::of(&axum::http::HeaderMap::new(), uuid::Uuid::nil());
        render(ApiError::internal(&error.to_string()).into_response(), &trace, "")
    })
}

/// The whole address, also inside a nested router.
pub(crate) fn original(request: &Request) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or(request.uri(), |uri| &uri.0)
}
