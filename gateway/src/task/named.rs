//! Which task is meant: a path or a parameter names it by its id, or by its number.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use domain::TaskId;
use domain::task::TaskRef;
use projections::Model;
use serde::Deserialize;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::query::Fresh;
use crate::view::{self, Seen};

/// The task of a path. A number is looked up first, at the position that the caller demands;
/// an id is taken as it is.
#[derive(Debug, Clone, Copy)]
pub struct TaskAt(pub Uuid);

/// The part of a path that names the task.
#[derive(Deserialize)]
struct Named {
    #[serde(alias = "task_id")]
    id: String,
}

impl FromRequestParts<App> for TaskAt {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let path = Path::<Named>::from_request_parts(parts, app).await;
        let Path(Named { id }) = path.map_err(|_| ApiError::parameter("/path/id", "not an id"))?;
        let named: TaskRef =
            id.parse().map_err(|error| ApiError::parameter("/path/id", format!("{error}")))?;
        if let TaskRef::Id(id) = named {
            return Ok(Self(id.0));
        }
        let caller = Caller::from_request_parts(parts, app).await?;
        let fresh = Fresh::of(&parts.headers, &parts.uri)?;
        Ok(Self(found(app, &caller, named, fresh).await?.0))
    }
}

/// The id of a task that somebody named.
///
/// # Errors
/// 404 when the tenant has no task of that number.
pub(crate) async fn found(
    app: &App,
    caller: &Caller,
    named: TaskRef,
    fresh: Fresh,
) -> ApiResult<TaskId> {
    let number = match named {
        TaskRef::Id(id) => return Ok(id),
        TaskRef::Number(number) => number,
    };
    let Seen { queries, head } = view::seen(app, fresh, &[Model::Tasks]).await?;
    let task = queries.task_numbered(&caller.tenant, number, fresh.wait).await?;
    Ok(view::present(task, "task", head)?.value)
}

/// The same for a query parameter.
///
/// # Errors
/// 400 when it is neither an id nor a number; 404 when there is no task of that number.
pub(crate) async fn parameter(
    app: &App,
    caller: &Caller,
    name: &str,
    given: Option<&str>,
    fresh: Fresh,
) -> ApiResult<Option<TaskId>> {
    let Some(given) = given else { return Ok(None) };
    let named = given.parse().map_err(|_| {
        let message = format!("`{name}` must be a task's UUID or number, such as TASK-7");
        ApiError::parameter(format!("/query/{name}"), message)
    })?;
    found(app, caller, named, fresh).await.map(Some)
}

/// A stream's id, where a task's number may stand for it; anything else is left as it is.
///
/// # Errors
/// 404 when there is no task of that number.
pub(crate) async fn stream(
    app: &App,
    caller: &Caller,
    given: Option<String>,
    fresh: Fresh,
) -> ApiResult<Option<String>> {
    match given.as_deref().map(str::parse) {
        Some(Ok(number @ TaskRef::Number(_))) => {
            Ok(Some(found(app, caller, number, fresh).await?.to_string()))
        }
        Some(_) | None => Ok(given),
    }
}
