//! `GET /v1/time/diff`

use axum::Json;
use axum::extract::State;
use projections::Model;
use replay::{Diff, DiffAsked};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Params, limit};
use crate::view;

/// Which moments to compare.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DiffParams {
    /// The earlier moment: a position, or a time (RFC 3339); the log's begin when absent.
    from: Option<String>,
    /// The later moment; now when absent.
    to: Option<String>,
    /// One read model alone.
    model: Option<String>,
    /// Rows to tell of each model: 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the model's rows before; takes `model`.
    behind: Option<String>,
}

/// Tells what appeared, vanished and changed between two moments, field by field.
#[utoipa::path(get, path = "/time/diff", tag = "time", params(DiffParams), responses(
    (status = 200, description = "The differences by read model", body = Diff),
    (status = "4XX", response = Refused),
))]
pub async fn diff(
    State(app): State<App>,
    caller: Caller,
    Params(asked): Params<DiffParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(asked.limit)? as usize;
    let model =
        asked.model.as_deref().map(|name| super::model("/query/model", name)).transpose()?;
    let behind = params::position("behind", asked.behind.as_deref())?;
    if behind.is_some() && model.is_none() {
        let why = "`behind` goes on in the rows of one model: name it";
        return Err(ApiError::parameter("/query/behind", why));
    }
    let ends = [("from", asked.from.as_deref()), ("to", asked.to.as_deref())];
    let (from, to) = super::range(&app, fresh, &Model::ALL, ends).await?;
    let asked = DiffAsked { from, to, model, limit, behind };
    let diff = replay::diff(&app.doors.queries, &caller.tenant, &asked).await?;
    Ok(view::with_position(Json(diff), to, 0))
}
