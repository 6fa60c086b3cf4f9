//! The audit as a file: every line of a filter, as CSV or as JSON lines.
//!
//! The lines are read page by page while they are sent, so a slow reader costs no memory and
//! holds no connection of the database. The first page fixes the position at which the file
//! ends, so it has an end, and each line once, although events arrive.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use domain::TenantId;
use futures::stream;
use projections::audit::{AuditEntry, AuditFilter};
use projections::{Page, Queries};

use crate::app::{App, StreamSlot};
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult, chain};

/// Lines that are read at once.
const PAGE: usize = 1_000;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// RFC 4180, with a header.
    Csv,
    /// One JSON object per line.
    JsonLines,
}

impl Form {
    /// What the caller wants: `format`, else `Accept`; none is a page as JSON.
    ///
    /// # Errors
    /// When `format` is unknown. An `Accept` that names nothing of ours is answered with JSON,
    /// as on every other route.
    pub fn of(format: Option<&str>, headers: &HeaderMap) -> ApiResult<Option<Self>> {
        match format {
            Some("json") => return Ok(None),
            Some("csv") => return Ok(Some(Self::Csv)),
            Some("jsonl") => return Ok(Some(Self::JsonLines)),
            Some(_) => {
                let message = "`format` is `json`, `csv` or `jsonl`";
                return Err(ApiError::parameter("/query/format", message));
            }
            None => {}
        }
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let types = accepted.flat_map(|list| list.split(','));
        let mut types = types.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        Ok(types
            .find_map(|kind| match kind {
                "text/csv" => Some(Some(Self::Csv)),
                "application/x-ndjson" | "application/jsonl" => Some(Some(Self::JsonLines)),
                "application/json" | "*/*" => Some(None),
                _ => None,
            })
            .flatten())
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::JsonLines => "application/x-ndjson",
        }
    }

    const fn disposition(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"audit.csv\"",
            Self::JsonLines => "attachment; filename=\"audit.jsonl\"",
        }
    }

    fn lines(self, entries: &[AuditEntry]) -> io::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(entries.len() * 512);
        for entry in entries {
            match self {
                Self::Csv => text.extend(csv_line(&cells(entry)).into_bytes()),
                Self::JsonLines => {
                    serde_json::to_writer(&mut text, entry)?;
                    text.push(b'\n');
                }
            }
        }
        Ok(text)
    }
}

/// What is left to send.
struct Rest {
    queries: Queries,
    tenant: TenantId,
    filter: AuditFilter,
    form: Form,
    next: Option<String>,
    _slot: StreamSlot,
}

/// Answers with every line of a filter, now or as of a moment.
pub(crate) async fn export(
    app: &App,
    queries: Queries,
    caller: &Caller,
    filter: AuditFilter,
    form: Form,
) -> ApiResult {
    let slot = app.stream_slot(caller)?;
    let tenant = caller.tenant.clone();
    let first = queries.audit_lines(&tenant, &filter, PAGE, None).await?;
    let (position, lag_ms) = (first.position, first.lag_ms);
    let Page { items, next } = first.value;
    let filter = AuditFilter { through: Some(position), ..filter };
    let mut start = match form {
        Form::Csv => csv_line(&COLUMNS.map(str::to_owned)).into_bytes(),
        Form::JsonLines => Vec::new(),
    };
    start.extend(form.lines(&items).map_err(|error| ApiError::internal(&error.to_string()))?);
    let rest = Rest { queries, tenant, filter, form, next, _slot: slot };
    let lines = stream::try_unfold((Some(start), rest), step);
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(form.disposition()));
    Ok(crate::view::with_position(response, position, lag_ms))
}

/// The next lines. An error ends the transfer without its proper end, which is all that HTTP
/// leaves for saying so once the head was sent.
async fn step((start, mut rest): (Option<Vec<u8>>, Rest)) -> io::Result<Option<(Bytes, Next)>> {
    if let Some(start) = start {
        return Ok(Some((start.into(), (None, rest))));
    }
    let Some(cursor) = rest.next.take() else { return Ok(None) };
    let page = rest.queries.audit_lines(&rest.tenant, &rest.filter, PAGE, Some(&cursor)).await;
    let Page { items, next } = page
        .inspect_err(|error| tracing::warn!(cause = chain(error), "an export breaks off"))
        .map_err(io::Error::other)?
        .value;
    rest.next = next;
    let lines = rest.form.lines(&items)?;
    Ok(Some((lines.into(), (None, rest))))
}

type Next = (Option<Vec<u8>>, Rest);

/// The columns of the CSV, in their order.
const COLUMNS: [&str; 20] = [
    "position",
    "outcome",
    "type",
    "occurred_at",
    "actor",
    "credential",
    "request_id",
    "command",
    "command_id",
    "correlation_id",
    "cause",
    "stream_type",
    "stream_id",
    "version",
    "agent_id",
    "task_id",
    "crew_id",
    "summary",
    "problem_type",
    "problem_detail",
];

fn cells(entry: &AuditEntry) -> [String; 20] {
    fn of<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let outcome = match entry.outcome {
        projections::audit::AuditOutcome::Event => "event",
        projections::audit::AuditOutcome::Refused => "refused",
    };
    let problem = entry.problem.as_ref();
    [
        entry.position.to_string(),
        outcome.to_owned(),
        entry.kind.clone(),
        entry.occurred_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        entry.actor.clone(),
        of(entry.credential.as_ref()),
        of(entry.request_id.as_ref()),
        of(entry.command.as_ref()),
        entry.command_id.to_string(),
        of(entry.correlation_id),
        of(entry.cause),
        entry.stream_type.as_str().to_owned(),
        entry.stream_id.to_string(),
        entry.version.to_string(),
        of(entry.agent_id),
        of(entry.task_id),
        of(entry.crew_id),
        entry.summary.clone(),
        of(problem.map(|problem| &problem.kind)),
        of(problem.map(|problem| &problem.detail)),
    ]
}

/// A line of RFC 4180.
fn csv_line<const N: usize>(cells: &[String; N]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| csv_cell(cell)).collect();
    cells.join(",") + "\r\n"
}

/// A cell, quoted where it must be. What a spreadsheet would take for a formula is made a text
/// by an apostrophe before it (OWASP, CSV injection): titles and reasons are other people's.
fn csv_cell(text: &str) -> String {
    let formula = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let guard = if text.starts_with(formula) { "'" } else { "" };
    let quoted = text.contains([',', '"', '\r', '\n']) || text != text.trim() || !guard.is_empty();
    if quoted { format!("\"{guard}{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_run_is_a_text() {
        for (given, cell) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            ("=1+2", "\"'=1+2\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"'\t=1\""),
            ("＝1", "\"'＝1\""),
            (" padded", "\" padded\""),
        ] {
            assert_eq!(csv_cell(given), cell);
        }
        assert_eq!(csv_line(&["a".into(), "b".into()]), "a,b\r\n");
    }

    #[test]
    fn the_form_is_said_by_parameter_or_header() {
        let headers = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("header"));
            headers
        };
        let none = HeaderMap::new();
        assert_eq!(Form::of(Some("csv"), &none).expect("known"), Some(Form::Csv));
        assert_eq!(Form::of(None, &none).expect("none"), None);
        assert!(Form::of(Some("xml"), &none).is_err());
        for (accept, form) in [
            ("text/csv", Some(Form::Csv)),
            ("text/html, text/csv;q=0.9", Some(Form::Csv)),
            ("application/x-ndjson", Some(Form::JsonLines)),
            ("application/json, text/csv", None),
            ("*/*", None),
            ("text/html", None),
        ] {
            assert_eq!(Form::of(None, &headers(accept)).expect("read"), form, "{accept}");
        }
        assert_eq!(Form::of(Some("json"), &headers("text/csv")).expect("known"), None);
    }
}
