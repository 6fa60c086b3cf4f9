//! Register, read and change agents.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use domain::agent::{Reason, RegisterAgent, UpdateAgent};
use domain::{AgentId, StreamType};
use projections::Model;
use projections::agents::{AgentFilter, AgentView};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change, not_here, parse};
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_command;
use crate::params;
use crate::query::{Fresh, Id, NoParams, Params, id, limit};
use crate::view::{self, List, Seen};

const AGENT: StreamType = StreamType::Agent;
/// The models behind an agent: the tasks it holds are read from the tasks.
pub(super) const MODELS: &[Model] = &[Model::Agents, Model::Tasks];

/// Commands that have a route of their own, or that only the system gives.
pub(crate) const NOT_HERE: &[&str] = &[
    "register",
    "validate",
    "place",
    "observe",
    "assess",
    "schedule_restart",
    "quarantine",
    "hand_back",
    "drift",
];

/// What managers and nodes alone say of an agent.
pub(crate) const OF_THE_SYSTEM: &[&str] = &[
    "validate",
    "place",
    "observe",
    "assess",
    "schedule_restart",
    "quarantine",
    "hand_back",
    "drift",
];

/// The commands that a node or the agent itself carries out: answered 202 at once.
pub(crate) const LONG: &[&str] = commands::LONG_COMMANDS;

/// Registers an agent; its name is unique among the agents that are not retired.
#[utoipa::path(post, path = "/agents", tag = "agents", request_body = RegisterAgent, responses(
    (status = 201, description = "Registered", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn register_agent(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    change(&app, &call, Target::New, parse(AGENT, "register", &body.0)?).await
}

/// Which agents to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AgentParams {
    /// States with commas between.
    state: Option<String>,
    /// The role.
    role: Option<String>,
    /// A capability that it has.
    capability: Option<String>,
    /// A label: a word, a name, or `name=value`.
    label: Option<String>,
    /// The crew it belongs to.
    crew: Option<String>,
    /// The node it runs on.
    node: Option<String>,
    /// A text in its name or role.
    q: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists agents, newest first.
#[utoipa::path(get, path = "/agents", tag = "agents", params(AgentParams), responses(
    (status = 200, description = "A page of agents", body = List<AgentView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_agents(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<AgentParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let filter = AgentFilter {
        states: params::words("state", params.state.as_deref())?,
        role: params::text("role", params.role)?,
        capability: params::text("capability", params.capability)?,
        label: params::text("label", params.label)?,
        crew: params::id("crew", params.crew.as_deref())?,
        node: params::text("node", params.node)?,
        q: params::text("q", params.q)?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, MODELS).await?;
    let cursor = params.cursor.as_deref();
    let mut page = queries.agents(&caller.tenant, &filter, limit, cursor).await?;
    if queries.moment().is_none() {
        page.value.items.iter_mut().for_each(|agent| view::overlay(&app, &caller, agent));
    }
    Ok(view::list(page))
}

/// Shows an agent, with what its heartbeats told last.
#[utoipa::path(get, path = "/agents/{id}", tag = "agents", params(("id" = AgentId, Path)), responses(
    (status = 200, description = "The agent", body = AgentView),
    (status = "4XX", response = Refused),
))]
pub async fn get_agent(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let Seen { queries, head } = view::seen(&app, fresh, MODELS).await?;
    let mut found = queries.agent(&caller.tenant, AgentId(id), fresh.wait).await?;
    if queries.moment().is_none()
        && let Some(agent) = &mut found.value
    {
        view::overlay(&app, &caller, agent);
    }
    // Heartbeats and tasks change an agent's picture without a new version of its stream,
    // so the version guards changes and does not save reads.
    let mut conditions = headers;
    conditions.remove(axum::http::header::IF_NONE_MATCH);
    view::one(found, "agent", head, |agent| agent.stream_version, &conditions)
}

/// Changes an agent's description.
#[utoipa::path(patch, path = "/agents/{id}", tag = "agents", params(("id" = AgentId, Path)), request_body = UpdateAgent, responses(
    (status = 200, description = "Changed", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn update_agent(
    State(app): State<App>,
    call: Call,
    Id(id): Id,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(AGENT, "update", &body.0)?).await
}

/// Gives an agent any of its commands: 202 for deploy, drain, hibernate, wake, restart,
/// retire and force_stop; 200 for mark_ready, report and update.
#[utoipa::path(post, path = "/agents/{id}/{command}", tag = "agents", params(
    ("id" = AgentId, Path),
    ("command" = String, Path, description = "The command's name"),
), request_body(content = Reason, description = "The command's fields"), responses(
    (status = 200, description = "Done", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn command_agent(
    State(app): State<App>,
    call: Call,
    Path((agent, name)): Path<(String, String)>,
    body: JsonBytes,
) -> ApiResult {
    let target = Target::Known(id(&agent)?);
    if NOT_HERE.contains(&&*name) {
        let instead = match &*name {
            "register" => "agents register by POST /v1/agents",
            _ => "nodes and managers alone say so",
        };
        return Err(not_here(AGENT, &name, instead));
    }
    let command = parse(AGENT, &name, &body.0)?;
    if LONG.contains(&command.name()) {
        return accept_command(&app, &call, target, command).await;
    }
    change(&app, &call, target, command).await
}
