//! The numbers of the read models.

use axum::Json;
use axum::extract::State;
use projections::Model;
use projections::metrics::{MetricsFilter, MetricsView};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiResult;
use crate::openapi::Refused;
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
