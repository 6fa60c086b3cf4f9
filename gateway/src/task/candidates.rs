//! Who could have a task.

use axum::Json;
use axum::extract::State;
use commands::{Fit, Fits};
use domain::task::{Rejected, TaskRef};
use domain::{AgentId, Code, TaskId};
use serde::Serialize;
use utoipa::ToSchema;

use super::TaskAt;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::query::{Fresh, NoParams, Params};
use crate::view;

/// The agents that could have a task, by the scheduler's own rules.
#[derive(Debug, Serialize, ToSchema)]
pub struct Candidates {
    /// The task.
    pub task_id: TaskId,
    /// At most a hundred, the best first; those without room last.
    pub agents: Vec<FittingAgent>,
    /// How many there are.
    pub of: usize,
    /// How many others there are that take work, by what speaks against them.
    pub rejected: Rejected,
}

/// An agent that could have a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct FittingAgent {
    /// Which.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its score: the most points are best.
    pub score: i64,
    /// How many more tasks it has room for.
    pub free_slots: usize,
    /// A claim of it waits on the task's queue, or it listens for pushed tasks.
    pub asks: bool,
}

/// Names the agents that could have a task that has not ended, the best first.
#[utoipa::path(get, path = "/tasks/{id}/candidates", tag = "tasks", params(("id" = TaskRef, Path)), responses(
    (status = 200, description = "The agents", body = Candidates),
    (status = "4XX", response = Refused),
))]
pub async fn candidates(
    State(app): State<App>,
    caller: Caller,
    TaskAt(id): TaskAt,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
) -> ApiResult {
    let id = TaskId(id);
    let found = super::list::exists(&app, &caller, id, fresh).await?;
    let fits = app.doors.claims.fits(caller.tenant.clone(), id).await;
    let Some(Fits { agents, of, rejected }) = fits else {
        // A task that has ended is nobody's to do; and only a scheduler can tell.
        return Err(if found.value.state.is_final() {
            let detail = "a task that has ended is given to nobody";
            ApiError::new(Code::NotPossible, detail)
        } else {
            ApiError::new(Code::Unavailable, "no scheduler is at hand here")
        });
    };
    let agent = |Fit { agent, name, points, free_slots, asks }| FittingAgent {
        id: agent,
        name,
        score: points,
        free_slots,
        asks,
    };
    let agents = agents.into_iter().map(agent).collect();
    let answer = Candidates { task_id: id, agents, of, rejected };
    Ok(view::with_position(Json(&answer), found.position, found.lag_ms))
}
