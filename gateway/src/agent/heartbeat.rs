//! Heartbeats over HTTP, for agents without a connection to NATS.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::IntoResponse;
use broker::subject::{self, AgentWord};
use commands::Boxed;
use domain::{AgentId, Code, FieldError, Json, Problem, TaskId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, Heartbeats};
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::query::{Id, NoParams, Params};

/// How long the answer to a heartbeat is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most tasks that a heartbeat names.
const MAX_TASKS: usize = 256;

/// What an agent says of itself; the fields of the NATS heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// How it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_state: Option<String>,
    /// Tasks it could take now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_free: Option<u32>,
    /// 0 to 1, or what the agent means by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Grows while the running tasks get on: with words of progress, lines of output, tasks
    /// begun and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_seq: Option<u64>,
    /// Which start of the agent says it, as whoever started it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What it works on, at most 256 tasks: their leases are extended to their whole length
    /// again, once less than half of one is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<HeldTask>,
}

/// A task that an agent works on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldTask {
    /// The task.
    pub task_id: TaskId,
    /// The token of its lease; another one extends nothing.
    pub lease_token: u64,
}

/// What the answer says.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAnswer {
    /// It was taken.
    pub ok: bool,
    /// What the agent is wanted to be.
    pub desired_state: Option<String>,
}

/// Takes a sign of life; it is an observation, not an event.
#[utoipa::path(post, path = "/agents/{id}/heartbeat", tag = "agents", params(("id" = AgentId, Path)), request_body = HeartbeatBody, responses(
    (status = 200, description = "Taken", body = HeartbeatAnswer),
    (status = "4XX", response = Refused),
))]
pub async fn beat(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    body: JsonBytes,
) -> ApiResult {
    let said: HeartbeatBody = body.parse()?;
    if said.load.is_some_and(|load| load < 0.0) {
        let fault = FieldError::new("/load", "out_of_range", "`load` must not be negative");
        return Err(Problem::invalid(vec![fault]).into());
    }
    if said.tasks.len() > MAX_TASKS {
        let message = format!("at most {MAX_TASKS} entries");
        return Err(Problem::invalid(vec![FieldError::new("/tasks", "too_many", message)]).into());
    }
    let (tenant, agent) = (caller.tenant, AgentId(id));
    let answer = app.doors.heartbeats.beat(tenant.clone(), agent, Json::of(&said)).await?;
    // Whoever watches the agents wants nothing of one that it doesn't know: it may be new
    // there, or be nowhere.
    let knows = answer.read::<HeartbeatAnswer>().is_ok_and(|a| a.desired_state.is_some());
    if !knows && app.doors.queries.agent(&tenant, agent, PATIENCE).await?.value.is_none() {
        return Err(ApiError::not_found("agent"));
    }
    Ok(Answer(answer).into_response())
}

/// Hands heartbeats to whoever listens to them on NATS.
pub struct NatsHeartbeats(pub async_nats::Client);

impl Heartbeats for NatsHeartbeats {
    fn beat(&self, tenant: TenantId, agent: AgentId, body: Json) -> Boxed<Result<Json, Problem>> {
        let client = self.0.clone();
        Box::pin(async move {
            let subject = subject::agent(&tenant, agent, AgentWord::Heartbeat);
            let request = client.request(subject, body.as_str().to_owned().into());
            let unavailable = |what: &str| Problem {
                retry_after_ms: Some(1_000),
                ..Problem::new(Code::Unavailable, what)
            };
            let reply = tokio::time::timeout(PATIENCE, request).await;
            let reply = reply.ok().and_then(Result::ok).ok_or_else(|| {
                unavailable("nobody who watches the agents can be reached; try again shortly")
            })?;
            let text = std::str::from_utf8(&reply.payload).ok();
            text.and_then(|text| Json::parse(text).ok())
                .ok_or_else(|| unavailable("the answer to the heartbeat can't be read"))
        })
    }
}
