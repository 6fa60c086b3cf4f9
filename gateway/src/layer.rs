//! What surrounds every request: its trace, its caller, its log line and its count; for
//! changes a task of its own too, so that neither a caller who hangs up nor a panic
//! leaves work half done (D43).
//!
//! A query has nothing to leave half done: it runs where its connection runs, and ends
//! with it.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use commands::CommandEnvelope;
use domain::{Code, StreamType};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{self, Caller};
use crate::error::{ApiError, render};
use crate::query::refuse_as_of;
use crate::room::Seat;
use crate::trace::Trace;

/// A success that took longer is worth a line.
const SLOW: Duration = Duration::from_secs(1);

/// What is known of a request, for all who deal with it.
#[derive(Debug)]
pub(crate) struct About {
    /// Its trace, stored on its events.
    pub(crate) trace: Trace,
    /// Fires when the caller has hung up; for work that is of no use without it.
    pub(crate) gone: CancellationToken,
    /// Its place among the changes under way.
    pub(crate) seat: Seat,
    caller: OnceLock<Caller>,
    command: OnceLock<Named>,
}

/// The one command of a request, as its log line names it.
#[derive(Debug)]
struct Named {
    stream_type: StreamType,
    stream_id: Uuid,
    command: &'static str,
    command_id: Uuid,
}

impl About {
    fn of(trace: Trace) -> Self {
        let (gone, seat) = (CancellationToken::new(), Seat::default());
        Self { trace, gone, seat, caller: OnceLock::new(), command: OnceLock::new() }
    }

    /// Who asks; none on routes that are open to everybody.
    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// Keeps the ids of the request's command for its log line.
    pub(crate) fn names(&self, envelope: &CommandEnvelope) {
        let _ = self.command.set(Named {
            stream_type: envelope.command.stream_type(),
            stream_id: envelope.stream_id,
            command: envelope.command.name(),
            command_id: envelope.command_id,
        });
    }
}

/// What is known of the request, in a handler.
#[derive(Debug, Clone)]
pub(crate) struct Asked(pub(crate) Arc<About>);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let asked = parts.extensions.get::<Self>().cloned();
        asked.ok_or_else(|| ApiError::internal("a request that nothing surrounds"))
    }
}

/// Answers a request: with its trace, for its caller, counted and logged.
pub async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _counted = app.figures.one_more();
    let fresh = || app.doors.ids.fresh();
    let about = Arc::new(About::of(Trace::of(request.headers(), fresh)));
    let _here = about.gone.clone().drop_guard();
    request.extensions_mut().insert(Asked(about.clone()));
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let told = Told {
        started,
        method: request.method().clone(),
        path: request.uri().path_and_query().cloned(),
        route: request.extensions().get::<MatchedPath>().cloned(),
        about,
        safe,
    };
    if safe {
        return told.answer(&app, request, next).await;
    }
    let tracker = app.tracker.clone();
    let answer = tracker.spawn(async move { told.answer(&app, request, next).await }).await;
    answer.unwrap_or_else(|error| {
        // Only a runtime that is going down cancels the task.
        let trace = Trace::of(&axum::http::HeaderMap::new(), Uuid::nil);
        render(ApiError::internal(&error.to_string()).into_response(), &trace, "").0
    })
}

/// What the log line of a request tells.
struct Told {
    started: Instant,
    method: Method,
    path: Option<axum::http::uri::PathAndQuery>,
    route: Option<MatchedPath>,
    about: Arc<About>,
    /// Nothing is changed by it (RFC 9110, 9.2.1), so nothing can be left half done.
    safe: bool,
}

impl Told {
    fn route(&self) -> &str {
        self.route.as_ref().map_or("-", |route| route.as_str())
    }

    /// Claims wait for tasks and heartbeats for whoever watches: neither is a command.
    fn waits_for_others(&self) -> bool {
        self.route().ends_with("/claim") || self.route().ends_with("/heartbeat")
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("/", |path| path.path())
    }

    async fn answer(self, app: &App, request: Request, next: Next) -> Response {
        let work = async {
            // First, before anything is read or looked up: a refusal must be cheap.
            if !self.safe
                && !self.waits_for_others()
                && let Err(refusal) = self.about.seat.take(&app.room).await
            {
                return refusal.into_response();
            }
            if auth::is_closed(self.route()) {
                match auth::authenticate(app, request.headers()).await {
                    Ok(caller) => self.about.caller.get_or_init(|| caller),
                    Err(refusal) => return refusal.into_response(),
                };
            }
            if let Err(refusal) = refuse_as_of(&self.method, self.route(), request.uri()) {
                return refusal.into_response();
            }
            next.run(request).await
        };
        let response = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            ApiError::internal(said.as_deref().unwrap_or("a panic")).into_response()
        });
        let (mut response, refusal) = render(response, &self.about.trace, self.path());
        // By which the audit finds what the request did.
        if let Ok(id) = HeaderValue::from_str(self.about.trace.trace_id()) {
            response.headers_mut().insert("x-request-id", id);
        }
        if let Some(code) = refusal.as_ref().and_then(|refusal| refusal.problem().code()) {
            app.figures.refused(code);
        }
        let status = response.status().as_u16();
        let elapsed = self.started.elapsed();
        app.figures.by_class[usize::from(status / 100).clamp(1, 5) - 1].add(1);
        app.figures.seconds.record_time(elapsed);
        self.log(status, elapsed, refusal.as_ref());
        response
    }

    /// One line per request: at `info` what was refused or slow, else at `debug`, because a
    /// busy system answers more requests than anybody reads. What is turned away for want
    /// of room comes in floods: it is counted, and told at `debug` alone.
    fn log(&self, status: u16, elapsed: Duration, refusal: Option<&ApiError>) {
        macro_rules! line {
            ($level:ident) => {{
                let (command, caller) = (self.about.command.get(), self.about.caller());
                tracing::$level!(
                    method = %self.method,
                    route = self.route(),
                    trace_id = self.about.trace.trace_id(),
                    tenant = caller.map(|caller| caller.tenant.as_str()),
                    principal = caller.map_or("-", |caller| &*caller.principal),
                    stream_type = command.map(|named| named.stream_type.as_str()),
                    stream_id = command.map(|named| tracing::field::display(named.stream_id)),
                    command = command.map(|named| named.command),
                    command_id = command.map(|named| tracing::field::display(named.command_id)),
                    status,
                    ms = elapsed.as_secs_f64() * 1e3,
                    cause = refusal.and_then(ApiError::cause),
                    "answered"
                )
            }};
        }
        let code = refusal.and_then(|refusal| refusal.problem().code());
        match (status, code) {
            (_, Some(Code::Busy | Code::RateLimited)) => line!(debug),
            (_, Some(Code::Internal)) => line!(error),
            (500.., _) => line!(warn),
            (400.., _) => line!(info),
            _ if elapsed >= SLOW && !self.waits_for_others() => line!(info),
            _ => line!(debug),
        }
    }
}
