//! Takes an operation on: its first event is committed before the 202 goes out.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use commands::CommandEnvelope;
use domain::operation::{AcceptOperation, CommandSpec, OperationCommand, OperationEvent, Resource};
use domain::{Aggregate, Code, Command, Event, Facts, Json, Outcome, Problem, Status, StreamType};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::change::{self, Call, Target};
use crate::error::{self, ApiError, ApiResult};
use crate::events::{Live, StreamFilter, cursor::Cursor};
use crate::prefer;

/// What an operation is to do.
struct Work {
    /// Such as `agent.drain`.
    kind: String,
    /// What it works on.
    resource: Resource,
    /// The one command that is the whole work, if it is that.
    command: Option<CommandSpec>,
    /// Further input.
    input: Json,
    /// What a repeat must ask for, too.
    fingerprint: commands::Fingerprint,
}

/// The answer to what goes on behind it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AcceptedBody {
    /// The operation; `GET /v1/operations/{id}` tells how far it is.
    pub operation_id: Uuid,
    /// What it works on.
    pub resource: Resource,
    /// The operation's version.
    pub version: u64,
    /// The log position of its first event.
    pub position: u64,
}

/// Takes on work that is more than one command.
pub(crate) async fn accept_work(
    app: &App,
    call: &Call,
    kind: &str,
    resource: Resource,
    input: Json,
) -> ApiResult {
    let asked = OperationCommand::Accept(AcceptOperation {
        kind: kind.into(),
        resource: resource.clone(),
        command: None,
        input: input.clone(),
    });
    let (command_id, _) = call.command_id(app);
    let fingerprint = CommandEnvelope::fingerprint_of(&asked.into(), None);
    let work = Work { kind: kind.into(), resource, command: None, input, fingerprint };
    accept(app, call, command_id, work).await
}

/// Takes on a command as an operation of its own.
///
/// What the rules refuse is refused at once: a 202 does not fail later for a reason that
/// stood there before (wire.md, section 3).
pub(crate) async fn accept_command(
    app: &App,
    call: &Call,
    target: Target,
    command: Command,
) -> ApiResult {
    if command.stream_type() == StreamType::Agent && crate::agent::LONG.contains(&command.name()) {
        return accept_long(app, call, target, command).await;
    }
    let expected_version = call.expected_version(target)?;
    let (command_id, fresh) = call.command_id(app);
    let (id, named) = match target {
        Target::Known(id) => (id, Some(id)),
        Target::New => (call.id_for(app, command_id, "id"), None),
    };
    let (kind, name) = (command.stream_type(), command.name());
    let tenant = &call.caller.tenant;
    let accepted = (call.id_for(app, command_id, "accept"), tenant.clone());
    let asked = [accepted.clone(), (command_id, tenant.clone())];
    let asked = if fresh { &[][..] } else { &asked };
    let known = app.doors.reader.log.results(asked).await?;
    // A repeat of what was taken on is not judged again: the state has moved on since.
    if known.iter().all(|record| record.command_id != accepted.0) {
        if !known.is_empty() {
            // The first request did not ask for an operation: its answer is there.
            return change::decide(app, call, target, command).await;
        }
        rehearse(app, call, id, &command, expected_version).await?;
    }
    let body = String::from_utf8(command.body()).ok().and_then(|text| Json::parse(&text).ok());
    let work = Work {
        kind: format!("{kind}.{name}"),
        resource: Resource { kind: kind.as_str().into(), id: id.to_string() },
        command: Some(CommandSpec {
            kind,
            id,
            command: name.into(),
            command_id,
            body: body.unwrap_or_default(),
            expected_version,
        }),
        input: Json::null(),
        fingerprint: CommandEnvelope::fingerprint_of(&command, named),
    };
    accept(app, call, command_id, work).await
}

/// Has a command about an agent decided, and takes the operation on that follows it to its
/// end: the agent's stream is the lock, so of two callers one is told that the other's
/// operation is under way.
async fn accept_long(app: &App, call: &Call, target: Target, command: Command) -> ApiResult {
    let (kind, name) = (command.stream_type(), command.name());
    let envelope = call.envelope(app, target, command)?;
    let (command_id, id) = (envelope.command_id, envelope.stream_id);
    let fingerprint = envelope.fingerprint;
    let outcome = change::execute(app, call, envelope).await;
    let decision = outcome.decision();
    if decision.problem.is_some() {
        return Err(error::of_outcome(decision));
    }
    if name == "wake" && decision.events.is_empty() {
        // It is awake already; no event tells its process to look for work.
        let tenant = call.caller.tenant.clone();
        app.doors.wire.control(tenant, domain::AgentId(id), "wake").await;
    }
    // The command is decided: what is left is to wait for what it wishes.
    let work = Work {
        kind: format!("{kind}.{name}"),
        resource: Resource { kind: kind.as_str().into(), id: id.to_string() },
        command: None,
        input: Json::null(),
        fingerprint,
    };
    let began = decision.events.first().map(|event| event.position);
    accept_because(app, call, command_id, work, began).await
}

async fn accept(app: &App, call: &Call, command_id: Uuid, work: Work) -> ApiResult {
    accept_because(app, call, command_id, work, None).await
}

/// Commits an operation's first event and answers 202, or in line where the caller is
/// ready to wait and it is done in time. `began` is the event that it follows to its end,
/// where its command is decided already.
async fn accept_because(
    app: &App,
    call: &Call,
    command_id: Uuid,
    work: Work,
    began: Option<u64>,
) -> ApiResult {
    let kind = work.command.as_ref().map(|spec| spec.kind);
    let created = work.command.as_ref().is_some_and(|spec| {
        Command::parse(spec.kind, &spec.command, spec.body.as_str().as_bytes())
            .is_ok_and(|command| command.creates())
    });
    let (resource, work_kind) = (work.resource.clone(), work.kind.clone());
    let accept = OperationCommand::Accept(AcceptOperation {
        kind: work.kind,
        resource: work.resource,
        command: work.command,
        input: work.input,
    });
    // The one that the agent's event names, where there is one.
    let operation = domain::operation_id(command_id).0;
    let (tenant, actor) = (call.caller.tenant.clone(), &*call.caller.principal);
    let own_id = call.id_for(app, command_id, "accept");
    let fresh = !call.is_keyed();
    let envelope = CommandEnvelope {
        fresh,
        new_stream: fresh,
        fingerprint: work.fingerprint,
        trace: Some(call.about.trace.as_str().to_owned()),
        credential: Some(call.caller.credential()),
        causation_position: began,
        correlation_id: began.map(|_| command_id),
        ..CommandEnvelope::new(tenant, operation, accept, own_id, actor)
    };
    let outcome = change::execute(app, call, envelope).await;
    let decision = outcome.decision();
    // The managers may have been quicker: what an agent's event began is accepted by them
    // when its sender is late.
    let theirs = decision.problem.as_ref().and_then(Problem::code) == Some(Code::AlreadyExists)
        && work_kind.starts_with("agent.");
    if decision.problem.is_some() && !theirs {
        return Err(error::of_outcome(decision));
    }
    let replayed = outcome.status == Status::Duplicate;
    let ended = match call.prefer.wait {
        Some(wait) => finished(app, call, decision, wait).await,
        None => None,
    };
    let mut wanted = Vec::new();
    if call.prefer.respond_async {
        wanted.push("respond-async");
    } else if ended.is_some() {
        wanted.push("wait");
    }
    let mut response = match ended {
        Some(ended) => inline(app, call, kind, created, operation, ended).await?,
        None => accepted(operation, resource, decision),
    };
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    prefer::applied(&mut response, &wanted);
    Ok(response)
}

fn accepted(operation_id: Uuid, resource: Resource, first: &Outcome) -> Response {
    let (version, position) = (first.version, first.position);
    let body = AcceptedBody { operation_id, resource, version, position };
    let mut response = (StatusCode::ACCEPTED, Answer(body)).into_response();
    let headers = response.headers_mut();
    let place = change::location(StreamType::Operation, operation_id);
    headers.insert(header::LOCATION, place);
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert("taffrail-log-position", HeaderValue::from(position));
    response
}

/// How an operation ended, if it does within the time given.
async fn finished(
    app: &App,
    call: &Call,
    first: &Outcome,
    wait: Duration,
) -> Option<Result<Json, Problem>> {
    let slot = Arc::new(app.stream_slot(&call.caller).ok()?);
    let filter = StreamFilter { stream: Some(first.stream_id), ..StreamFilter::default() };
    let from = Some(Cursor { position: first.position, epoch: None });
    let mut live = Live::open(app, &call.caller, slot, filter, from).await.ok()?;
    let end = async {
        loop {
            let crate::events::Next::Events(page) = live.next().await else { return None };
            let ends = page.frames.iter().filter_map(|frame| match frame.event.event() {
                Ok(Event::Operation(OperationEvent::Succeeded(done))) => {
                    Some(Ok(done.result.clone()))
                }
                Ok(Event::Operation(OperationEvent::Failed(why))) => Some(Err(why.problem.clone())),
                Ok(Event::Operation(OperationEvent::Cancelled(_))) => {
                    let detail = "the operation was cancelled";
                    Some(Err(Problem::new(Code::NotPossible, detail)))
                }
                Ok(
                    Event::Operation(
                        OperationEvent::Accepted(_)
                        | OperationEvent::Started(_)
                        | OperationEvent::Progressed(_),
                    )
                    | Event::Task(_)
                    | Event::Agent(_)
                    | Event::Crew(_)
                    | Event::Schedule(_)
                    | Event::Queue(_)
                    | Event::Node(_)
                    | Event::Profile(_),
                )
                | Err(_) => None,
            });
            if let Some(end) = ends.into_iter().next() {
                return Some(end);
            }
        }
    };
    tokio::time::timeout(wait, end).await.ok().flatten()
}

/// The answer that the work would have had without an operation.
async fn inline(
    app: &App,
    call: &Call,
    kind: Option<StreamType>,
    created: bool,
    operation: Uuid,
    ended: Result<Json, Problem>,
) -> ApiResult {
    let result = ended?;
    let outcome = kind.and_then(|kind| Some((kind, result.read::<Outcome>().ok()?)));
    match outcome {
        Some((kind, outcome)) => change::answer(app, call, kind, created, &outcome).await,
        None => {
            let body = serde_json::json!({ "operation_id": operation, "result": result });
            Ok(Answer(body).into_response())
        }
    }
}

/// Decides a command on the present state without keeping anything.
async fn rehearse(
    app: &App,
    call: &Call,
    id: Uuid,
    command: &Command,
    expected_version: Option<u64>,
) -> Result<(), ApiError> {
    let key = (call.caller.tenant.clone(), id);
    let log = &app.doors.reader.log;
    let folded = log.rehydrate(std::slice::from_ref(&key)).await?;
    let (version, state) = match folded.streams.get(&key) {
        Some(snapshot) => (snapshot.version, snapshot.state.clone()),
        None => (0, Aggregate::new(command.stream_type())),
    };
    let facts = Facts::new(app.doors.clock.now(), call.caller.principal.to_string());
    state.decide(command, &facts).map_err(|refusal| Problem::from(&refusal))?;
    if expected_version.is_some_and(|expected| expected != version) {
        let detail = format!("the current version is {version}");
        return Err(ApiError::new(Code::VersionMismatch, detail));
    }
    if let Some(claim) = command.claim() {
        let owners = log.owners(&[(key.0.clone(), claim)]).await?;
        if let Some(owner) = owners.into_values().find(|owner| *owner != id) {
            let problem = Problem::new(Code::NameTaken, "the name belongs to another");
            return Err(Problem { conflicting_id: Some(owner), ..problem }.into());
        }
    }
    Ok(())
}
