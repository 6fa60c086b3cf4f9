//! A changing request on its way to the processor, and its outcome on the way back.

use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use commands::CommandEnvelope;
use domain::{Code, Command, Outcome, Problem, Status, StreamType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::conditional::{self, IfMatch};
use crate::error::{self, ApiError, ApiResult};
use crate::idempotency;
use crate::layer::{About, Asked};
use crate::prefer::{self, Prefer, Return};
use crate::query::{NoParams, params};

/// Everything about a changing request but its body.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// What else is known of the request; its trace is stored on its events.
    pub(crate) about: Arc<About>,
    /// What the caller prefers.
    pub prefer: Prefer,
    /// Method, path and key, where there is one.
    key: Option<(Method, String, String)>,
    if_match: IfMatch,
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let NoParams {} = params(&parts.uri)?;
        Self::of(parts, state).await
    }
}

/// The same for a route with parameters.
#[derive(Debug, Clone)]
pub struct CallWith<P>(pub Call, pub P);

impl<S: Send + Sync, P: DeserializeOwned + Send> FromRequestParts<S> for CallWith<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let given = params(&parts.uri)?;
        Ok(Self(Call::of(parts, state).await?, given))
    }
}

impl Call {
    async fn of<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let key = idempotency::key(&parts.headers)?.map(|key| {
            let path = parts.uri.path();
            let path = path.strip_prefix("/api").unwrap_or(path).to_owned();
            (parts.method.clone(), path, key)
        });
        Ok(Self {
            caller: Caller::from_request_parts(parts, state).await?,
            about: Asked::from_request_parts(parts, state).await?.0,
            prefer: Prefer::of(&parts.headers)?,
            key,
            if_match: conditional::if_match(&parts.headers)?,
        })
    }
}

/// The stream that a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One that it creates; its id is ours to choose.
    New,
    /// One that the caller named.
    Known(Uuid),
}

/// What a change came to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Changed {
    /// The changed thing.
    pub id: Uuid,
    /// Its version after the change, also its `ETag`.
    pub version: u64,
    /// The log position of the change; `Taffrail-Min-Position` waits for it.
    pub position: u64,
}

impl Call {
    /// The command id: derived from the key where there is one, else fresh.
    pub(crate) fn command_id(&self, app: &App) -> (Uuid, bool) {
        match &self.key {
            Some((method, path, key)) => {
                (idempotency::command_id(&self.caller, method, path, key), false)
            }
            None => (app.doors.ids.fresh(), true),
        }
    }

    /// Whether a repeat of the request would be known as one.
    pub(crate) fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// An id that belongs to the command: the same one again for a repeat.
    pub(crate) fn id_for(&self, app: &App, command_id: Uuid, what: &str) -> Uuid {
        match self.key {
            Some(_) => idempotency::derived(command_id, what),
            None => app.doors.ids.fresh(),
        }
    }

    /// The stream version that the caller demands.
    pub(crate) fn expected_version(&self, target: Target) -> Result<Option<u64>, ApiError> {
        let mismatch = |detail: &str| Err(ApiError::new(Code::VersionMismatch, detail));
        match (&self.if_match, target) {
            (IfMatch::Unsaid, _) | (IfMatch::Any, Target::Known(_)) => Ok(None),
            (IfMatch::Version(version), Target::Known(_)) => Ok(Some(*version)),
            (IfMatch::Never, _) => mismatch("no version of ours has this entity tag"),
            (IfMatch::Any | IfMatch::Version(_), Target::New) => {
                mismatch("nothing exists yet whose version could match")
            }
        }
    }

    /// The command with all that the request says about it.
    pub(crate) fn envelope(
        &self,
        app: &App,
        target: Target,
        command: Command,
    ) -> Result<CommandEnvelope, ApiError> {
        let expected_version = self.expected_version(target)?;
        let (command_id, fresh) = self.command_id(app);
        let (stream_id, named) = match target {
            Target::Known(id) => (id, Some(id)),
            Target::New => (self.id_for(app, command_id, "id"), None),
        };
        let (tenant, actor) = (self.caller.tenant.clone(), &*self.caller.principal);
        let envelope =
            CommandEnvelope::asked_of(tenant, stream_id, named, command, command_id, actor);
        let trace = Some(self.about.trace.as_str().to_owned());
        let credential = Some(self.caller.credential());
        // An id that was made for this very call is on nothing yet: no look-up is needed.
        let new_stream = fresh && named.is_none();
        Ok(CommandEnvelope { fresh, new_stream, trace, credential, expected_version, ..envelope })
    }
}

/// Has a command decided and answers with what it came to; 202 where the caller prefers so.
pub async fn change(app: &App, call: &Call, target: Target, command: Command) -> ApiResult {
    if call.prefer.respond_async {
        return crate::operation::accept_command(app, call, target, command).await;
    }
    decide(app, call, target, command).await
}

/// Has a command decided and answers with what it came to, whatever the caller prefers.
pub(crate) async fn decide(app: &App, call: &Call, target: Target, command: Command) -> ApiResult {
    let kind = command.stream_type();
    let envelope = call.envelope(app, target, command)?;
    let outcome = execute(app, call, envelope).await;
    answer(app, call, kind, target == Target::New, &outcome).await
}

/// Has the request's one command decided; its ids go into the request's log line.
pub(crate) async fn execute(app: &App, call: &Call, envelope: CommandEnvelope) -> Outcome {
    call.about.names(&envelope);
    let outcome = app.doors.executor.execute(envelope).await;
    // What follows may wait for a read model or an operation, not for the processor.
    call.about.seat.leave();
    outcome
}

/// The answer to a decided command; that of the first one for a repeat.
pub(crate) async fn answer(
    app: &App,
    call: &Call,
    kind: StreamType,
    created: bool,
    outcome: &Outcome,
) -> ApiResult {
    let decision = outcome.decision();
    let replayed = outcome.status == Status::Duplicate;
    if decision.problem.is_some() || !is_done(decision.status) {
        let refusal = error::of_outcome(decision);
        return Err(if replayed {
            let name = header::HeaderName::from_static("idempotency-replayed");
            refusal.with_header(name, HeaderValue::from_static("true"))
        } else {
            refusal
        });
    }
    let id = decision.stream_id;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut applied = Vec::new();
    let shown = match call.prefer.answer {
        Some(Return::Representation) => {
            crate::view::shown(app, &call.caller, kind, id, decision.position).await
        }
        Some(Return::Minimal) => {
            applied.push("return=minimal");
            None
        }
        None => None,
    };
    let mut response = match shown {
        Some(shown) => {
            applied.push("return=representation");
            (status, shown).into_response()
        }
        None => {
            let changed = Changed { id, version: decision.version, position: decision.position };
            (status, Json(changed)).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, conditional::etag(decision.version));
    headers.insert("taffrail-log-position", HeaderValue::from(decision.position));
    if created {
        headers.insert(header::LOCATION, location(kind, id));
    }
    if replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    if call.prefer.strict {
        applied.push("handling=strict");
    }
    prefer::applied(&mut response, &applied);
    Ok(response)
}

/// A duplicate without its original was accepted at first: problems travel with it.
fn is_done(status: Status) -> bool {
    match status {
        Status::Accepted | Status::Duplicate => true,
        Status::Refused | Status::Invalid | Status::Busy => false,
    }
}

/// Where a thing is read.
pub(crate) fn location(kind: StreamType, id: Uuid) -> HeaderValue {
    let place = format!("/v1/{}/{id}", collection(kind));
    HeaderValue::from_str(&place).unwrap_or(HeaderValue::from_static("/v1"))
}

/// The collection that holds the things of a kind.
pub(crate) const fn collection(kind: StreamType) -> &'static str {
    match kind {
        StreamType::Task => "tasks",
        StreamType::Agent => "agents",
        StreamType::Operation => "operations",
        StreamType::Crew => "crews",
        StreamType::Schedule => "schedules",
        StreamType::Queue => "queues",
        StreamType::Node => "nodes",
        StreamType::Profile => "profiles",
    }
}

/// Reads a command of a path: its name and its body.
///
/// # Errors
/// 400 with the nearest known command or the faulty fields; also for the commands that
/// are no routes of their own.
pub(crate) fn parse(kind: StreamType, name: &str, body: &[u8]) -> Result<Command, ApiError> {
    Ok(Command::parse(kind, name, body)?)
}

/// Refuses a command that has a route of its own or is given by the system alone.
pub(crate) fn not_here(kind: StreamType, name: &str, instead: &str) -> ApiError {
    let detail = format!("`{name}` is no command of an existing {kind}; {instead}");
    Problem::new(Code::UnknownCommand, detail).into()
}
