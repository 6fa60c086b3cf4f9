//! `GET /v1/time/why`: because of what something happened, and what came of it.

use axum::Json;
use axum::extract::State;
use domain::AgentId;
use projections::Model;
use projections::causes::{CauseNode, Causes, DEPTH, MAX_DEPTH, MAX_NODES, NODES, Reach, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::query::{self, Fresh, Params};
use crate::{params, task, view};

/// What to explain: exactly one of `event`, `task` and `agent`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhyParams {
    /// An event: its position or its id.
    event: Option<String>,
    /// All that happened to a task: its id or number.
    task: Option<String>,
    /// The newest that happened to an agent: its id or name.
    agent: Option<String>,
    /// Levels up and down, 1 to 64; 16 when absent.
    depth: Option<u32>,
    /// Entries in all, 1 to 1,000; 200 when absent.
    limit: Option<u32>,
    /// Only effects of `event` behind this position: an entry's `more_after`.
    after: Option<String>,
}

/// The log as a graph around what was asked about.
#[derive(Debug, Serialize, ToSchema)]
pub struct CausesView {
    /// Every entry once, in the order of positions; `from` is what each hangs on.
    pub nodes: Vec<CauseNode>,
    /// What the streams and agents in it are called now, by their ids.
    pub names: BTreeMap<Uuid, String>,
    /// The stream that was asked about has older events than are shown, up to this position:
    /// `?event=<it>` explains them.
    pub earlier: Option<u64>,
    /// The log position that the effects reflect.
    pub position: u64,
}

/// Says because of what something happened, up to the command and its actor, and what came
/// of it.
///
/// An entry with `more_after` has more below it than is shown; one whose `link` is `beyond`
/// has its cause outside of the answer: ask about that entry to go on.
#[utoipa::path(get, path = "/time/why", tag = "time", params(WhyParams), responses(
    (status = 200, description = "The graph", body = CausesView),
    (status = "4XX", response = Refused),
))]
pub async fn why(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<WhyParams>,
    fresh: Fresh,
) -> ApiResult {
    let reach = Reach {
        depth: within("depth", params.depth, DEPTH, MAX_DEPTH)?,
        nodes: within("limit", params.limit, NODES, MAX_NODES)?,
        after: params::position("after", params.after.as_deref())?.unwrap_or_default(),
    };
    let (subject, what) = match (&params.event, &params.task, &params.agent) {
        (Some(event), None, None) => (event_of(&app, event)?, "event"),
        (None, Some(_), None) => {
            let task =
                task::parameter(&app, &caller, "task", params.task.as_deref(), fresh).await?;
            let subject = task.map(Subject::Task).ok_or_else(|| ApiError::not_found("task"))?;
            (subject, "task")
        }
        (None, None, Some(agent)) => {
            (Subject::Agent(agent_of(&app, &caller, agent, fresh).await?), "agent")
        }
        (None, None, None) => {
            let message = "one of `event`, `task` and `agent` is required";
            return Err(ApiError::parameter("/query/event", message));
        }
        (event, task, _) => {
            let one = if event.is_some() && task.is_some() { "task" } else { "agent" };
            let message = "only one of `event`, `task` and `agent` may stand there";
            return Err(ApiError::parameter(format!("/query/{one}"), message));
        }
    };
    if reach.after > 0 && what != "event" {
        let message = "`after` goes with `event`: an entry's effects go on";
        return Err(ApiError::parameter("/query/after", message));
    }
    let view::Seen { queries, head } = view::seen(&app, fresh, &[Model::Audit]).await?;
    let answer = queries.causes(&caller.tenant, subject, reach).await?;
    let answer = view::present(answer, what, head)?;
    let Causes { nodes, names, earlier } = answer.value;
    let position = answer.position;
    let body = Json(CausesView { nodes, names, earlier, position });
    Ok(view::with_position(body, position, answer.lag_ms))
}

fn within(name: &str, given: Option<u32>, usual: u32, most: u32) -> ApiResult<u32> {
    match given.unwrap_or(usual) {
        value if (1..=most).contains(&value) => Ok(value),
        _ => {
            let message = format!("`{name}` must lie between 1 and {most}");
            Err(ApiError::parameter(format!("/query/{name}"), message))
        }
    }
}

/// An event by its position within the log, or by its id.
fn event_of(app: &App, given: &str) -> ApiResult<Subject> {
    let refused = |message: String| Err(ApiError::parameter("/query/event", message));
    if let Ok(id) = query::id(given) {
        return Ok(Subject::Event(id));
    }
    let Some(position) = given.parse::<u64>().ok().filter(|p| i64::try_from(*p).is_ok()) else {
        return refused("`event` must be a position, such as 42, or an event's id".into());
    };
    let head = app.doors.reader.feed.head();
    match position {
        0 => refused("`event`: positions begin at 1".into()),
        later if later > head => refused(format!("`event`: the log ends at position {head}")),
        position => Ok(Subject::Position(position)),
    }
}

async fn agent_of(app: &App, caller: &Caller, given: &str, fresh: Fresh) -> ApiResult<AgentId> {
    if let Ok(id) = query::id(given) {
        return Ok(AgentId(id));
    }
    let name = params::text("agent", Some(given.to_owned()))?.unwrap_or_default();
    let view::Seen { queries, head } = view::seen(app, fresh, &[Model::Agents]).await?;
    let found = queries.agent_named(&caller.tenant, &name).await?;
    Ok(view::present(found, "agent", head)?.value)
}
