//! `GET /v1/audit`: who did what, and what was refused; as pages, or whole as CSV or JSON lines.

use axum::extract::State;
use axum::http::HeaderMap;
use projections::Model;
use projections::audit::{AuditEntry, AuditFilter, AuditOrder, AuditOutcome, Bound};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::export::{Form, export};
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
    /// Of this stream, whatever its kind.
    stream: Option<String>,
    /// Came with this credential: `token:` and the first 16 hexadecimal digits of the token's
    /// SHA-256.
    credential: Option<String>,
    /// Came with this request: its trace id (32 hexadecimal digits), also as a UUID.
    request: Option<String>,
    /// Came of the command of this id.
    command: Option<String>,
    /// `event` or `refused`; both when absent.
    outcome: Option<String>,
    /// `newest` or `oldest` first; `newest` when absent.
    order: Option<String>,
    /// `json` for a page, `csv` or `jsonl` for all lines there are; `Accept` says the same.
    format: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists events and refused commands.
///
/// As CSV or JSON lines it is every line up to the position in `Taffrail-Log-Position`, each
/// once, also while events arrive; a transfer that breaks off was not all.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditParams), responses(
    (status = 200, description = "A page of lines, or all of them", content(
        (List<AuditEntry> = "application/json"),
        (String = "text/csv"),
        (String = "application/x-ndjson"),
    )),
    (status = "4XX", response = Refused),
))]
pub async fn list_audit(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<AuditParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let form = Form::of(params.format.as_deref(), &headers)?;
    let whole = [("limit", params.limit.is_some()), ("cursor", params.cursor.is_some())];
    if let (Some(_), Some((name, _))) = (form, whole.iter().find(|(_, given)| *given)) {
        let message = format!("`{name}` is for pages; as CSV or JSON lines it is all there is");
        return Err(ApiError::parameter(format!("/query/{name}"), message));
    }
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
        stream: params::id("stream", params.stream.as_deref())?,
        credential: params::text("credential", params.credential)?,
        request: request(params.request.as_deref())?,
        command: params::id("command", params.command.as_deref())?,
        through: None,
        order: order(params.order.as_deref())?,
        outcome: outcome(params.outcome.as_deref())?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, &[Model::Audit]).await?;
    if let Some(form) = form {
        return export(&app, queries, &caller, filter, form).await;
    }
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

/// A trace id is 16 bytes, as a UUID is; proxies write either.
fn request(given: Option<&str>) -> Result<Option<Uuid>, ApiError> {
    let Some(text) = given else { return Ok(None) };
    let usual = matches!(text.len(), 32 | 36);
    let id = Uuid::try_parse(text).ok().filter(|_| usual);
    id.map(Some).ok_or_else(|| {
        let message = "`request` must be a trace id of 32 hexadecimal digits, or a UUID";
        ApiError::parameter("/query/request", message)
    })
}

fn order(given: Option<&str>) -> Result<AuditOrder, ApiError> {
    match given {
        None | Some("newest") => Ok(AuditOrder::Newest),
        Some("oldest") => Ok(AuditOrder::Oldest),
        Some(_) => Err(ApiError::parameter("/query/order", "`order` is `newest` or `oldest`")),
    }
}

fn outcome(given: Option<&str>) -> Result<Option<AuditOutcome>, ApiError> {
    match given {
        None => Ok(None),
        Some("event") => Ok(Some(AuditOutcome::Event)),
        Some("refused") => Ok(Some(AuditOutcome::Refused)),
        Some(_) => Err(ApiError::parameter("/query/outcome", "`outcome` is `event` or `refused`")),
    }
}
