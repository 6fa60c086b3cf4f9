//! The read models themselves: their numbers, and making one anew.

use axum::Json;
use axum::extract::{Path, State};
use domain::operation::Resource;
use projections::Model;
use projections::metrics::{MetricsFilter, MetricsView};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::params;
use crate::query::{Fresh, Params};
use crate::view::{self, Seen};

/// Which numbers to show.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsParams {
    /// Of this queue alone.
    queue: Option<String>,
}

/// Shows counters, latencies and rates of the tenant's tasks and agents.
#[utoipa::path(get, path = "/metrics", tag = "metrics", operation_id = "tenant_metrics", params(MetricsParams), responses(
    (status = 200, description = "The numbers", body = MetricsView),
    (status = "4XX", response = Refused),
))]
pub async fn tenant_metrics(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<MetricsParams>,
    fresh: Fresh,
) -> ApiResult {
    let filter = MetricsFilter { queue: params::text("queue", params.queue)? };
    let models = &[Model::Metrics, Model::Tasks, Model::Agents];
    let Seen { queries, .. } = view::seen(&app, fresh, models).await?;
    let answer = queries.metrics(&caller.tenant, &filter).await?;
    Ok(view::with_position(Json(&*answer.value), answer.position, answer.lag_ms))
}

/// What a rebuild may be told; nothing yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebuild {}

/// Folds a read model anew from the log, beside the live one: 202.
#[utoipa::path(post, path = "/projections/{model}/rebuild", tag = "metrics", params(
    ("model" = String, Path, description = "tasks, agents, operations, audit, metrics, schedules, queues, nodes or profiles"),
), responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn rebuild(
    State(app): State<App>,
    call: Call,
    Path(name): Path<String>,
    body: JsonBytes,
) -> ApiResult {
    let Rebuild {} = body.parse()?;
    let Ok(model) = name.parse::<Model>() else {
        let known = Model::ALL.map(Model::as_str).join(", ");
        return Err(ApiError::not_found(&format!("read model (known: {known})")));
    };
    let resource = Resource { kind: "projection".into(), id: model.as_str().into() };
    accept_work(&app, &call, "projection.rebuild", resource, domain::Json::null()).await
}
