//! The whole log out as lines, and in again.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use domain::{Code, FieldError, Problem};
use futures::{StreamExt, TryStreamExt, stream};
use replay::seal::export::{Export, ExportError, Range};
use replay::seal::import::{ImportError, Imported, import};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Params};

/// How long the pieces of an import may be apart.
const PIECE: Duration = Duration::from_secs(30);
/// What an export's lines are.
const LINES: &str = "application/x-ndjson";

/// Which stretch of the log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportParams {
    /// The first position; 1 when absent.
    from: Option<String>,
    /// The last position; the end of the log when absent.
    to: Option<String>,
    /// `false`: the last events may have no seal yet. Otherwise theirs is waited for, as
    /// long as `Prefer: wait` says.
    sealed: Option<bool>,
}

fn operator(caller: &Caller) -> ApiResult<()> {
    if caller.is_operator() {
        return Ok(());
    }
    // It holds every tenant's events.
    Err(ApiError::new(Code::Forbidden, "the whole log is for operators: role `admin`"))
}

/// Exports a stretch of the log as CloudEvents, one per line, with its seals.
///
/// An export that can't be read to its end closes with a line of type
/// `dev.taffrail.export.broken.v1`; one without a last line was cut.
#[utoipa::path(get, path = "/export", tag = "seals", params(ExportParams), responses(
    (status = 200, description = "A line each", body = String, content_type = "application/x-ndjson"),
    (status = "4XX", response = Refused),
))]
pub async fn export_log(
    State(app): State<App>,
    caller: Caller,
    Params(asked): Params<ExportParams>,
    fresh: Fresh,
) -> ApiResult {
    operator(&caller)?;
    let range = Range {
        from: params::position("from", asked.from.as_deref())?,
        to: params::position("to", asked.to.as_deref())?,
        wait: asked.sealed.unwrap_or(true).then_some(fresh.wait),
    };
    let export =
        Export::begin(&app.doors.reader.log, range).await.map_err(|error| match error {
            ExportError::Store(error) => error.into(),
            ExportError::Range { field, what } => {
                ApiError::parameter(format!("/query/{field}"), what)
            }
            ExportError::NotSealed { sealed, .. } => {
                let problem = Problem::new(Code::NotYetVisible, error.to_string());
                Problem { log_position: Some(sealed), retry_after_ms: Some(1_000), ..problem }
                    .into()
            }
        })?;
    let position = export.header().to;
    let lines = stream::try_unfold(export, async |mut export| {
        Ok::<_, store::StoreError>(export.next().await?.map(|lines| (lines, export)))
    });
    let kind = [(header::CONTENT_TYPE, LINES), (header::CACHE_CONTROL, "no-store")];
    let response: Response = (kind, Body::from_stream(lines)).into_response();
    Ok(crate::view::with_position(response, position, 0))
}

/// Imports an export into this instance, which must be empty: all of it or nothing.
#[utoipa::path(post, path = "/import", tag = "seals",
    request_body(content = String, content_type = "application/x-ndjson", description = "An export"),
    responses(
        (status = 200, description = "What was imported", body = Imported),
        (status = "4XX", response = Refused),
    )
)]
pub async fn import_log(State(app): State<App>, caller: Caller, request: Request) -> ApiResult {
    operator(&caller)?;
    let pieces = request.into_body().into_data_stream().map_err(|error| error.to_string());
    // A sender that stands still holds the log's lock: not for ever.
    let pieces = within_time(pieces);
    let imported = import(app.doors.reader.log.pool(), pieces).await.map_err(refused)?;
    app.doors.reader.feed.announce(imported.position);
    let position = imported.position;
    Ok(crate::view::with_position(Json(imported), position, 0))
}

/// The same pieces; an error where the next one does not come in time.
fn within_time(
    pieces: impl futures::Stream<Item = Result<bytes::Bytes, String>>,
) -> impl futures::Stream<Item = Result<bytes::Bytes, String>> {
    let pieces = Box::pin(pieces);
    stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match tokio::time::timeout(PIECE, pieces.next()).await {
            Ok(piece) => piece.map(|piece| (piece, Some(pieces))),
            Err(_) => Some((Err("nothing came for 30 s".into()), None)),
        }
    })
}

fn refused(error: ImportError) -> ApiError {
    match error {
        ImportError::Store(error) => error.into(),
        ImportError::NotEmpty { position } => {
            let problem = Problem::new(Code::NotPossible, error.to_string());
            Problem { log_position: Some(position), ..problem }.into()
        }
        ImportError::Fault(fault) => {
            let pointer = fault.line.map_or(String::new(), |line| format!("/line/{line}"));
            let message = fault.to_string();
            let fault = FieldError::new(pointer, "does_not_hold", message.clone());
            Problem { errors: vec![fault], ..Problem::new(Code::InvalidBody, message) }.into()
        }
        ImportError::Broken(_) => ApiError::new(Code::InvalidBody, error.to_string()).closing(),
    }
}
