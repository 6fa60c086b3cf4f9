//! `GET /v1/audit`: who did what, and what was refused.

use axum::extract::State;
use projections::Model;
use projections::audit::{AuditEntry, AuditFilter, AuditOutcome, Bound};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::query::{Fresh, Params, limit};
use crate::view::{self, List, Seen};
use crate::{params, task};

/// Which lines to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// The principal that asked.
    actor: Option<String>,
    /// The agent that it concerns.
    agent: Option<String>,
    /// The task that it concerns: its id or number.
    task: Option<String>,
    /// The crew that it concerns.
    crew: Option<String>,
    /// `<stream type>.<event>`, or `<stream type>.<command>` for refusals.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// From this position or time (RFC 3339) on.
    from: Option<String>,
    /// Up to this position or time.
    to: Option<String>,
    /// Caused by the event at this position.
    cause: Option<String>,
    /// Of this correlation.
    correlation: Option<String>,
    /// `event` or `refused`; both when absent.
    outcome: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists events and refused commands, newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditParams), responses(
    (status = 200, description = "A page of lines", body = List<AuditEntry>),
    (status = "4XX", response = Refused),
))]
pub async fn list_audit(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<AuditParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let filter = AuditFilter {
        actor: params::text("actor", params.actor)?,
        agent: params::id("agent", params.agent.as_deref())?,
        task: task::parameter(&app, &caller, "task", params.task.as_deref(), fresh).await?,
        crew: params::id("crew", params.crew.as_deref())?,
        kind: params::text("type", params.kind)?,
        from: bound("from", params.from.as_deref())?,
        to: bound("to", params.to.as_deref())?,
        cause: params::position("cause", params.cause.as_deref())?,
        correlation: params::id("correlation", params.correlation.as_deref())?,
        outcome: outcome(params.outcome.as_deref())?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Audit]).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.audit(&caller.tenant, &filter, limit, cursor).await?))
}

fn bound(name: &str, given: Option<&str>) -> Result<Option<Bound>, ApiError> {
    let is_number = given.is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
    if is_number {
        return Ok(params::position(name, given)?.map(Bound::Position));
    }
    Ok(params::time(name, given)?.map(Bound::Time))
}

fn outcome(given: Option<&str>) -> Result<Option<AuditOutcome>, ApiError> {
    match given {
        None => Ok(None),
        Some("event") => Ok(Some(AuditOutcome::Event)),
        Some("refused") => Ok(Some(AuditOutcome::Refused)),
        Some(_) => Err(ApiError::parameter("/query/outcome", "`outcome` is `event` or `refused`")),
    }
}
