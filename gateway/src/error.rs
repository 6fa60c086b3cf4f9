//! Problem documents on their way out; the one place that knows HTTP statuses.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{Code, FieldError, Outcome, Problem, Status};
use store::StoreError;

use crate::trace::Trace;

/// Seconds to wait where a refusal names no time of its own.
const RETRY_AFTER_MS: u64 = 1_000;

/// A refusal of a request, as a problem document and the headers that go with it.
///
/// It travels in the response's extensions and is written out once, by [`render`], so
/// that every problem carries its trace whoever made it.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Failure>);

#[derive(Debug, Clone)]
struct Failure {
    problem: Problem,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log, not for the caller.
    cause: Option<String>,
}

/// What handlers answer.
pub type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    /// A problem of a code, with what happened.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// Nothing of that id is there, or none that the caller may see.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// Nothing of that id is in a read model, as of the position it has come to.
    pub fn not_found_at(what: &str, position: u64, lag_ms: u64) -> Self {
        let problem = Problem::new(Code::NotFound, format!("there is no such {what}"));
        let lag = HeaderName::from_static("taffrail-projection-lag-ms");
        Self::from(Problem { log_position: Some(position), ..problem })
            .with_header(lag, HeaderValue::from(lag_ms))
    }

    /// A path, query or header value is malformed; `place` is a pointer such as
    /// `/query/limit` or `/header/if-match`.
    pub fn parameter(place: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        let fault = FieldError::new(place, "invalid_value", message.clone());
        Problem { errors: vec![fault], ..Problem::new(Code::InvalidParameter, message) }.into()
    }

    /// A bug of ours: the cause goes to the log, not to the caller.
    pub fn internal(cause: &str) -> Self {
        let detail = "the request could not be carried out; see the server's log";
        Self::new(Code::Internal, detail).because(cause.to_owned())
    }

    /// The same with its cause, which stands in the log line of the request.
    fn because(mut self, cause: String) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// What the log tells beside the document.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// A part that the answer needs cannot be reached; the cause goes to the log.
    pub fn unavailable(cause: &dyn std::error::Error) -> Self {
        let retry_after_ms = Some(RETRY_AFTER_MS);
        let detail = "a part of the system cannot be reached; try again shortly";
        let problem = Problem { retry_after_ms, ..Problem::new(Code::Unavailable, detail) };
        Self::from(problem).because(chain(cause))
    }

    /// The same with a header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The same, and the connection is not used again: unread bytes may be under way.
    pub fn closing(self) -> Self {
        self.with_header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// The document.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }
}

/// An error with all its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(Failure { problem, headers: Vec::new(), cause: None }))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(_) | StoreError::Pool(_) | StoreError::LeaseLost => {
                Self::unavailable(&error)
            }
            StoreError::Hole { .. } | StoreError::Row { .. } | StoreError::Unfit(_) => {
                Self::internal(&chain(&error))
            }
        }
    }
}

/// The problem of an outcome that is none of accepted and duplicate-of-accepted.
pub fn of_outcome(outcome: &Outcome) -> ApiError {
    let code = match outcome.status {
        Status::Busy => Code::Busy,
        Status::Invalid => Code::InvalidBody,
        Status::Refused | Status::Accepted | Status::Duplicate => Code::NotPossible,
    };
    let mut problem = outcome.problem.clone().unwrap_or_else(|| Problem::new(code, ""));
    if outcome.position > 0 {
        problem.log_position.get_or_insert(outcome.position);
    }
    if let Some(after) = outcome.retry_after_ms {
        problem.retry_after_ms.get_or_insert(after);
    } else if outcome.status == Status::Busy {
        problem.retry_after_ms.get_or_insert(RETRY_AFTER_MS);
    }
    problem.into()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.0.problem.status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes a refusal out as `application/problem+json`, with the request's trace.
///
/// Refusals that the framework made (no route, no method) get a document too. What was
/// refused comes back beside it, for the log.
pub fn render(mut response: Response, trace: &Trace, target: &str) -> (Response, Option<ApiError>) {
    let mut error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if response.status().as_u16() < 400 || has_content(&response) => {
            return (response, None);
        }
        None => framework(response.status(), target),
    };
    let Failure { problem, headers, .. } = &mut *error.0;
    problem.trace_id.get_or_insert_with(|| trace.trace_id().to_owned());
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut rendered = Response::new(Body::from(body));
    *rendered.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let out = rendered.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(ms) = problem.retry_after_ms {
        out.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
    }
    if let Some(position) = problem.log_position {
        out.insert("taffrail-log-position", HeaderValue::from(position));
    }
    if problem.status == StatusCode::UNAUTHORIZED.as_u16() {
        let challenge = HeaderValue::from_static("Bearer realm=\"taffrail\"");
        out.insert(header::WWW_AUTHENTICATE, challenge);
    }
    for (name, value) in headers.drain(..) {
        out.insert(name, value);
    }
    (rendered, Some(error))
}

fn has_content(response: &Response) -> bool {
    response.headers().contains_key(header::CONTENT_TYPE)
        && response.status() != StatusCode::NOT_FOUND
        && response.status() != StatusCode::METHOD_NOT_ALLOWED
        && !response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// The document for a refusal that the framework made on its own.
fn framework(status: StatusCode, target: &str) -> ApiError {
    let shown: String = target.chars().take(128).collect();
    match status.as_u16() {
        404 => ApiError::new(Code::NotFound, format!("there is no route {shown}")),
        // The router adds `Allow` behind us.
        405 => {
            let detail = format!("{shown} has no such method; `Allow` names those it has");
            ApiError::new(Code::MethodNotAllowed, detail)
        }
        413 => ApiError::new(Code::TooLarge, "the request is too large").closing(),
        415 => ApiError::new(Code::UnsupportedMediaType, "the content type is not supported"),
        400..=499 => ApiError::new(Code::InvalidParameter, "the request is malformed"),
        _ => ApiError::internal("a response without a problem document"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        Trace::of(&axum::http::HeaderMap::new(), || uuid::Uuid::from_u128(7))
    }

    async fn document(response: Response) -> (axum::http::response::Parts, Problem) {
        let (parts, body) = render(response, &trace(), "/v1/x").0.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        (parts, serde_json::from_slice(&bytes).expect("a problem"))
    }

    #[tokio::test]
    async fn a_refusal_is_a_problem_document_with_its_trace() {
        let problem = Problem { retry_after_ms: Some(1_500), ..Problem::new(Code::Busy, "full") };
        let (parts, problem) = document(ApiError::from(problem).into_response()).await;
        assert_eq!(parts.status, 503);
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(parts.headers[header::RETRY_AFTER], "2");
        assert_eq!(problem.trace_id.as_deref(), Some(trace().trace_id()));
        let (parts, _) = document(ApiError::new(Code::Unauthorized, "").into_response()).await;
        assert!(parts.headers.contains_key(header::WWW_AUTHENTICATE));
    }

    #[tokio::test]
    async fn what_the_framework_refuses_is_a_problem_document_too() {
        for (status, code) in [(404, Code::NotFound), (405, Code::MethodNotAllowed)] {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            let (parts, problem) = document(response).await;
            assert_eq!((parts.status.as_u16(), problem.code()), (status, Some(code)));
        }
    }

    #[test]
    fn every_code_has_its_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/errors");
        for code in Code::ALL {
            let page = std::fs::read_to_string(format!("{pages}/{}.md", code.slug()));
            let page = page.unwrap_or_else(|error| panic!("{}: {error}", code.slug()));
            for part in [code.title(), &code.uri(), "## Meaning", "## What to do"] {
                assert!(page.contains(part), "{}: {part}", code.slug());
            }
        }
        let count = std::fs::read_dir(pages).expect("a folder").count();
        assert_eq!(count, Code::ALL.len(), "a page without a code");
    }
}
