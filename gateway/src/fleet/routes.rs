//! Reads and operations over all agents.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use domain::operation::Resource;
use domain::{AgentId, Json, NodeId, Problem};
use projections::Model;
use projections::agents::{CapabilityView, FleetView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::query::{Fresh, Id, NoParams, Params};
use crate::view::{self, List, Seen};

/// Sums up the health of the fleet: in all, by node, by crew.
#[utoipa::path(get, path = "/fleet", tag = "agents", responses(
    (status = 200, description = "The sum", body = FleetView),
    (status = "4XX", response = Refused),
))]
pub async fn fleet(
    State(app): State<App>,
    caller: Caller,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
) -> ApiResult {
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Agents]).await?;
    let found = queries.fleet(&caller.tenant).await?;
    Ok(view::with_position(Answer(found.value), found.position, found.lag_ms))
}

/// Lists what the agents can do, and who can do it.
#[utoipa::path(get, path = "/capabilities", tag = "agents", responses(
    (status = 200, description = "Every capability", body = List<CapabilityView>),
    (status = "4XX", response = Refused),
))]
pub async fn capabilities(
    State(app): State<App>,
    caller: Caller,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
) -> ApiResult {
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Agents]).await?;
    Ok(view::list(queries.capabilities(&caller.tenant).await?))
}

/// Which agents to restart, and how many at a time.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartFleet {
    /// With this label: a name, or `name=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Started with this profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Of this role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// On this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Agents that may be on their way at once, 1 to 1,000; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Restarts the agents that run on nodes, a few at a time: 202. One that does not come back
/// ends the round.
#[utoipa::path(post, path = "/fleet/restart", tag = "agents", request_body = RestartFleet, responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn restart_fleet(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let asked: RestartFleet = body.parse()?;
    check(asked.reason.as_ref(), asked.max_unavailable)?;
    let resource = Resource { kind: "fleet".into(), id: "all".into() };
    accept_work(&app, &call, commands::ROLLING_RESTART, resource, Json::of(&asked)).await
}

/// Has an agent send a heartbeat at once.
#[utoipa::path(post, path = "/agents/{id}/beat", tag = "agents", params(("id" = AgentId, Path)), responses(
    (status = 202, description = "Asked for; `last_heartbeat` tells when it came"),
    (status = "4XX", response = Refused),
))]
pub async fn send_beat(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    body: JsonBytes,
) -> ApiResult {
    let Nothing {} = body.parse()?;
    let known = app.doors.queries.agent(&caller.tenant, AgentId(id), PATIENCE).await?;
    if known.value.is_none() {
        return Err(ApiError::not_found("agent"));
    }
    app.doors.wire.control(caller.tenant.clone(), AgentId(id), "beat").await;
    Ok(axum::response::IntoResponse::into_response(StatusCode::ACCEPTED))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// An agent that was registered a moment ago is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Checks what the operations over several agents have in common.
pub(crate) fn check(reason: Option<&String>, at_once: Option<u32>) -> Result<(), ApiError> {
    let checked = domain::values::Check::default()
        .maybe("reason", reason, 2_000)
        .range("max_unavailable", at_once.unwrap_or(1).into(), 1, 1_000)
        .done();
    checked.map_err(|faults| Problem::invalid(faults).into())
}
