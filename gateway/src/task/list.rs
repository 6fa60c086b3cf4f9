//! Lists of tasks.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use domain::TaskId;
use domain::task::{TaskRef, TaskState};
use projections::Model;
use projections::tasks::{TaskFilter, TaskView};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::events::{EventList, at_least, cloud_events};
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Params, limit};
use crate::view::{self, List, Seen};

use super::TaskAt;

/// Which tasks to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskParams {
    /// States with commas between.
    state: Option<String>,
    /// The queue.
    queue: Option<String>,
    /// Priorities with commas between.
    priority: Option<String>,
    /// The agent that has it, or had it last.
    agent: Option<String>,
    /// A label: a word, a name, or `name=value`.
    label: Option<String>,
    /// A capability that it needs.
    capability: Option<String>,
    /// The task that it is a part of: its id or number.
    parent: Option<String>,
    /// A text in its title or the beginning of its description.
    q: Option<String>,
    /// Due before this time (RFC 3339).
    due_before: Option<String>,
    /// Only those that stand still for too long.
    escalated: Option<bool>,
    /// Those that are archived instead of those that are not.
    archived: Option<bool>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

impl TaskParams {
    async fn filter(self, app: &App, caller: &Caller, fresh: Fresh) -> ApiResult<TaskFilter> {
        let parent = super::parameter(app, caller, "parent", self.parent.as_deref(), fresh).await?;
        Ok(TaskFilter {
            states: params::words("state", self.state.as_deref())?,
            queue: params::text("queue", self.queue)?,
            priorities: params::words("priority", self.priority.as_deref())?,
            agent: params::id("agent", self.agent.as_deref())?,
            label: params::text("label", self.label)?,
            capability: params::text("capability", self.capability)?,
            parent,
            q: params::text("q", self.q)?,
            due_before: params::time("due_before", self.due_before.as_deref())?,
            escalated: self.escalated.unwrap_or_default(),
            archived: self.archived.unwrap_or_default(),
        })
    }
}

/// How long a page is and where it begins.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists tasks, newest first.
#[utoipa::path(get, path = "/tasks", tag = "tasks", params(TaskParams), responses(
    (status = 200, description = "A page of tasks", body = List<TaskView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_tasks(
    State(app): State<App>,
    caller: Caller,
    Params(mut params): Params<TaskParams>,
    fresh: Fresh,
) -> ApiResult {
    let (limit, cursor) = (limit(params.limit)?, params.cursor.take());
    let filter = params.filter(&app, &caller, fresh).await?;
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Tasks]).await?;
    let page = queries.tasks(&caller.tenant, &filter, limit as usize, cursor.as_deref()).await?;
    Ok(view::list(page))
}

/// Lists the parts of a task, newest first.
#[utoipa::path(get, path = "/tasks/{id}/children", tag = "tasks", params(("id" = TaskRef, Path), PageParams), responses(
    (status = 200, description = "A page of tasks", body = List<TaskView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_children(
    State(app): State<App>,
    caller: Caller,
    TaskAt(id): TaskAt,
    Params(params): Params<PageParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    exists(&app, &caller, id.into(), fresh).await?;
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Tasks]).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.task_children(&caller.tenant, id.into(), limit, cursor).await?))
}

/// Lists failed and dead tasks, newest first.
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", params(TaskParams), responses(
    (status = 200, description = "A page of tasks", body = List<TaskView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_dead_letters(
    State(app): State<App>,
    caller: Caller,
    Params(mut params): Params<TaskParams>,
    fresh: Fresh,
) -> ApiResult {
    let (limit, cursor) = (limit(params.limit)? as usize, params.cursor.take());
    let filter = params.filter(&app, &caller, fresh).await?;
    if filter.states.iter().any(|state| !matches!(state, TaskState::Failed | TaskState::Dead)) {
        let message = "dead letters are `failed` or `dead`";
        return Err(ApiError::parameter("/query/state", message));
    }
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Tasks]).await?;
    let page = queries.dead_letters(&caller.tenant, &filter, limit, cursor.as_deref()).await?;
    Ok(view::list(page))
}

/// Which events of a task to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskEventParams {
    /// Strictly behind this version of the task.
    after: Option<u64>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
}

/// Lists a task's events, oldest first.
#[utoipa::path(get, path = "/tasks/{id}/events", tag = "tasks", params(("id" = TaskRef, Path), TaskEventParams), responses(
    (status = 200, description = "A page of CloudEvents; `next` is the `after` of the next one", body = EventList),
    (status = "4XX", response = Refused),
))]
pub async fn list_task_events(
    State(app): State<App>,
    caller: Caller,
    TaskAt(id): TaskAt,
    Params(params): Params<TaskEventParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let after = params.after.unwrap_or_default();
    if i64::try_from(after).is_err() {
        return Err(ApiError::parameter("/query/after", "`after` must be a version"));
    }
    at_least(&app, fresh).await?;
    let Seen { queries, .. } = view::seen(&app, fresh, &[]).await?;
    let log = &app.doors.reader.log;
    let mut events = log.read_stream(&caller.tenant, id, after, limit + 1).await?;
    if let Some(moment) = queries.moment() {
        events.truncate(events.partition_point(|event| event.position <= moment));
    }
    let foreign = events.first().is_some_and(|event| event.stream_type != crate::TASK);
    if foreign || (after == 0 && events.is_empty()) {
        return Err(ApiError::not_found("task"));
    }
    let head = log.head().await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().filter(|_| more).map(|last| last.version.to_string());
    let items = cloud_events(&events, head.epoch);
    let position = queries.moment().unwrap_or(head.position);
    let answer: Response = view::with_position(Json(List { items, next, position }), position, 0);
    Ok(answer)
}

/// Refuses what is asked about a task that is not there.
pub(super) async fn exists(
    app: &App,
    caller: &Caller,
    id: TaskId,
    fresh: Fresh,
) -> ApiResult<projections::Answer<TaskView>> {
    let Seen { queries, head } = view::seen(app, fresh, &[Model::Tasks]).await?;
    let found = queries.task(&caller.tenant, id, fresh.wait).await?;
    view::present(found, "task", head)
}
