//! Make, read and change schedules.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use domain::schedule::{CreateSchedule, Reason, ScheduleState, UpdateSchedule};
use domain::{ScheduleId, StreamType};
use projections::schedules::{ScheduleFilter, ScheduleView};
use projections::{Answer, Model};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change, not_here, parse};
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::params;
use crate::query::{Fresh, Id, NoParams, Params, id, limit};
use crate::view::{self, List, Seen};

const SCHEDULE: StreamType = StreamType::Schedule;
/// Slots that are shown when nothing is said.
const DEFAULT_RUNS: u32 = 10;
/// Most slots that are shown.
const MAX_RUNS: u32 = 100;

/// Commands that have a route of their own, or that only the system gives.
pub(crate) const NOT_HERE: &[&str] = &["create", "fire", "skip", "report_failure"];

/// Makes a schedule: a task, and one of `cron`, `interval_ms`, `at`, `on_event`.
#[utoipa::path(post, path = "/schedules", tag = "schedules", request_body = CreateSchedule, responses(
    (status = 201, description = "Made", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn create_schedule(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    change(&app, &call, Target::New, parse(SCHEDULE, "create", &body.0)?).await
}

/// Which schedules to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ScheduleParams {
    /// Kinds with commas between: cron, interval, at, event.
    kind: Option<String>,
    /// States with commas between: active, paused, completed.
    state: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists schedules, newest first.
#[utoipa::path(get, path = "/schedules", tag = "schedules", params(ScheduleParams), responses(
    (status = 200, description = "A page of schedules", body = List<ScheduleView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_schedules(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ScheduleParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let filter = ScheduleFilter {
        kinds: params::words("kind", params.kind.as_deref())?,
        states: params::words::<ScheduleState>("state", params.state.as_deref())?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Schedules]).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.schedules(&caller.tenant, &filter, limit, cursor).await?))
}

/// Shows a schedule.
#[utoipa::path(get, path = "/schedules/{id}", tag = "schedules", params(("id" = ScheduleId, Path)), responses(
    (status = 200, description = "The schedule", body = ScheduleView),
    (status = "4XX", response = Refused),
))]
pub async fn get_schedule(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let Seen { queries, head } = view::seen(&app, fresh, &[Model::Schedules]).await?;
    let id = ScheduleId(id);
    let found = queries.schedule(&caller.tenant, id, fresh.wait).await?;
    let shown = found.map(|row| row.map(|row| ScheduleView::of(id, row)));
    view::one(shown, "schedule", head, |schedule| schedule.version, &headers)
}

/// How many slots to show.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NextParams {
    /// 1 to 100; 10 when absent.
    limit: Option<u32>,
}

/// The next slots of a schedule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NextRuns {
    /// In order; none for a schedule that fires on events or has no more slots. Those of a
    /// paused schedule are what would come if it were resumed now.
    pub items: Vec<DateTime<Utc>>,
    /// Where the schedule stands.
    pub state: ScheduleState,
    /// The log position that the answer reflects.
    pub position: u64,
}

/// Shows a schedule's next slots.
#[utoipa::path(get, path = "/schedules/{id}/next", tag = "schedules", params(
    ("id" = ScheduleId, Path),
    NextParams,
), responses(
    (status = 200, description = "The next slots", body = NextRuns),
    (status = "4XX", response = Refused),
))]
pub async fn next_runs(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<NextParams>,
    fresh: Fresh,
) -> ApiResult {
    let most = params.limit.unwrap_or(DEFAULT_RUNS);
    if !(1..=MAX_RUNS).contains(&most) {
        let message = format!("`limit` must lie between 1 and {MAX_RUNS}");
        return Err(ApiError::parameter("/query/limit", message));
    }
    let Seen { queries, head } = view::seen(&app, fresh, &[Model::Schedules]).await?;
    let found = queries.schedule(&caller.tenant, ScheduleId(id), fresh.wait).await?;
    let Answer { value, position, lag_ms } = view::present(found, "schedule", head)?;
    let items = value.upcoming(app.doors.clock.now(), most as usize);
    let state = value.schedule.state.unwrap_or(ScheduleState::Deleted);
    Ok(view::with_position(Json(NextRuns { items, state, position }), position, lag_ms))
}

/// Changes what a schedule says. New times count from the change.
#[utoipa::path(patch, path = "/schedules/{id}", tag = "schedules", params(("id" = ScheduleId, Path)), request_body = UpdateSchedule, responses(
    (status = 200, description = "Changed", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn update_schedule(
    State(app): State<App>,
    call: Call,
    Id(id): Id,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(SCHEDULE, "update", &body.0)?).await
}

/// Ends a schedule for ever; what it submitted stays.
#[utoipa::path(delete, path = "/schedules/{id}", tag = "schedules", params(("id" = ScheduleId, Path)), responses(
    (status = 200, description = "Deleted", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn delete_schedule(
    State(app): State<App>,
    call: Call,
    Id(id): Id,
    body: JsonBytes,
) -> ApiResult {
    change(&app, &call, Target::Known(id), parse(SCHEDULE, "delete", &body.0)?).await
}

/// Gives a schedule any of its commands: pause, resume, trigger, backfill, update, delete.
#[utoipa::path(post, path = "/schedules/{id}/{command}", tag = "schedules", params(
    ("id" = ScheduleId, Path),
    ("command" = String, Path, description = "The command's name"),
), request_body(content = Reason, description = "The command's fields"), responses(
    (status = 200, description = "Done", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn command_schedule(
    State(app): State<App>,
    call: Call,
    Path((schedule, name)): Path<(String, String)>,
    body: JsonBytes,
) -> ApiResult {
    let id = id(&schedule)?;
    if NOT_HERE.contains(&&*name) {
        return Err(not_here(SCHEDULE, &name, "a new schedule comes by POST /v1/schedules"));
    }
    let command = parse(SCHEDULE, &name, &body.0)?;
    change(&app, &call, Target::Known(id), command).await
}
