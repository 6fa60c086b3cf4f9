//! Up to 1,000 commands in one request, each with an outcome of its own.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use commands::CommandEnvelope;
use domain::{Code, Command, FieldError, Json, Outcome, Problem, Status, StreamType};
use futures::future::{Either, join_all, ready};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::ApiResult;
use crate::idempotency;
use crate::trace::Trace;

/// Most commands in one batch (the contract).
const MAX_BATCH: usize = 1_000;

/// One command of a batch, also as a WebSocket sends it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchCommand {
    /// The kind of stream; `task` when absent.
    #[serde(rename = "type", default = "task")]
    kind: StreamType,
    /// The stream; may be left out for a command that creates it.
    #[serde(default)]
    id: Option<Uuid>,
    /// The command's name; `submit` when absent.
    #[serde(default = "submit")]
    command: String,
    /// The command's id, so that a repeat is known as such.
    #[serde(default)]
    command_id: Option<Uuid>,
    /// The command's fields.
    #[serde(default)]
    body: Json,
    /// W3C trace context of what it belongs to; else it is the request's.
    #[serde(default)]
    traceparent: Option<String>,
}

/// A batch: commands in full, or `items` that are new tasks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Any commands.
    #[serde(default)]
    commands: Vec<BatchCommand>,
    /// New tasks, as `POST /v1/tasks` takes them; they follow the commands.
    #[serde(default)]
    #[schema(value_type = Vec<domain::task::SubmitTask>)]
    items: Vec<Json>,
}

/// What became of each command, in the order of the batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchOutcome {
    /// One per command.
    pub outcomes: Vec<Outcome>,
    /// The highest position among them; `Taffrail-Min-Position` waits for it.
    pub position: u64,
}

fn task() -> StreamType {
    StreamType::Task
}

fn submit() -> String {
    "submit".into()
}

/// Has up to 1,000 commands decided; 200 whatever became of each.
#[utoipa::path(post, path = "/tasks/batch", tag = "tasks", request_body = Batch, responses(
    (status = 200, description = "One outcome per command, in order", body = BatchOutcome),
    (status = "4XX", response = crate::openapi::Refused),
))]
pub async fn batch(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let batch: Batch = body.parse()?;
    let new = |body| BatchCommand {
        kind: task(),
        id: None,
        command: submit(),
        command_id: None,
        body,
        traceparent: None,
    };
    let commands: Vec<_> =
        batch.commands.into_iter().chain(batch.items.into_iter().map(new)).collect();
    if commands.is_empty() || commands.len() > MAX_BATCH {
        let message = format!("a batch has 1 to {MAX_BATCH} commands, not {}", commands.len());
        let code = if commands.is_empty() { "required" } else { "too_many" };
        return Err(Problem::invalid(vec![FieldError::new("/commands", code, message)]).into());
    }
    let (batch_id, fresh) = call.command_id(&app);
    let outcomes = commands.into_iter().enumerate().map(|(index, command)| {
        let derived = (!fresh).then(|| idempotency::derived(batch_id, &index.to_string()));
        decide(&app, &call.caller, &call.about.trace, command, derived)
    });
    // The futures are made, and so handed in, in the order of the batch.
    let outcomes: Vec<_> = outcomes.collect();
    let outcomes = join_all(outcomes).await;
    let position = outcomes.iter().map(|outcome| outcome.position).max().unwrap_or_default();
    let mut response: Response = Answer(BatchOutcome { outcomes, position }).into_response();
    response.headers_mut().insert("taffrail-log-position", HeaderValue::from(position));
    Ok(response)
}

/// Has one command decided; always answers with an outcome.
pub(crate) fn execute(
    app: &App,
    caller: &Caller,
    trace: &Trace,
    command: BatchCommand,
) -> impl Future<Output = Outcome> + Send + 'static {
    decide(app, caller, trace, command, None)
}

fn decide(
    app: &App,
    caller: &Caller,
    trace: &Trace,
    given: BatchCommand,
    derived: Option<Uuid>,
) -> impl Future<Output = Outcome> + Send + 'static {
    let keyed = given.command_id.or(derived);
    let trace = given.traceparent.as_deref().and_then(Trace::read).unwrap_or(*trace);
    let command_id = keyed.unwrap_or_else(|| app.doors.ids.fresh());
    match envelope(app, caller, given, command_id, keyed.is_none()) {
        Ok(mut envelope) => {
            envelope.trace = Some(trace.as_str().to_owned());
            envelope.credential = Some(caller.credential());
            Either::Left(app.doors.executor.execute(envelope))
        }
        Err((stream_id, problem)) => {
            let position = app.doors.reader.feed.head();
            let outcome = Outcome::undecided(Status::Invalid, command_id, stream_id, problem);
            let outcome = Outcome { position, ..outcome };
            Either::Right(ready(outcome))
        }
    }
}

fn envelope(
    app: &App,
    caller: &Caller,
    given: BatchCommand,
    command_id: Uuid,
    fresh: bool,
) -> Result<CommandEnvelope, (Uuid, Problem)> {
    let unnamed = given.id.unwrap_or_default();
    let refused = |problem| (unnamed, problem);
    let body = if given.body.is_null() { "{}" } else { given.body.as_str() };
    let command = Command::parse(given.kind, &given.command, body.as_bytes()).map_err(refused)?;
    if is_of_the_system(&command) {
        let detail = format!("`{}` is given by the system alone", given.command);
        return Err(refused(Problem::new(Code::UnknownCommand, detail)));
    }
    let stream_id = match given.id {
        Some(id) => id,
        None if command.creates() && fresh => app.doors.ids.fresh(),
        None if command.creates() => idempotency::derived(command_id, "id"),
        None => {
            let message = "`id` is required: the command is for something that exists";
            return Err(refused(Problem::invalid(vec![FieldError::new(
                "/id", "required", message,
            )])));
        }
    };
    let (tenant, actor) = (caller.tenant.clone(), &*caller.principal);
    let envelope =
        CommandEnvelope::asked_of(tenant, stream_id, given.id, command, command_id, actor);
    Ok(CommandEnvelope { fresh, new_stream: fresh && given.id.is_none(), ..envelope })
}

/// Whether a command is none of a caller's: what only managers and runners may say.
pub(crate) fn is_of_the_system(command: &Command) -> bool {
    use domain::operation::OperationCommand;
    use domain::schedule::ScheduleCommand;
    use domain::task::TaskCommand;
    match command {
        Command::Task(command) => {
            matches!(command, TaskCommand::ExpireLease(_) | TaskCommand::Escalate(_))
        }
        Command::Operation(command) => !matches!(command, OperationCommand::Cancel(_)),
        Command::Schedule(command) => matches!(
            command,
            ScheduleCommand::Fire(_) | ScheduleCommand::Skip(_) | ScheduleCommand::ReportFailure(_)
        ),
        Command::Agent(command) => crate::agent::OF_THE_SYSTEM.contains(&command.name()),
        Command::Node(command) => !crate::node::COMMANDS.contains(&command.name()),
        Command::Crew(_) | Command::Queue(_) | Command::Profile(_) => false,
    }
}
