//! Query strings, taken strictly, and how fresh an answer must be.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use domain::{Code, FieldError, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::ApiError;
use crate::prefer::Prefer;

/// Entries of a page when nothing is said.
pub const DEFAULT_LIMIT: u32 = 50;
/// Most entries of a page (reliability D44).
pub const MAX_LIMIT: u32 = 200;
/// How long a query waits for `Taffrail-Min-Position` when nothing is said.
const DEFAULT_WAIT: Duration = Duration::from_secs(2);

/// Query parameters of a known shape; others are refused, with a suggestion.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        params(&parts.uri).map(Self)
    }
}

/// For routes without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Reads the query string of a request.
///
/// # Errors
/// When a parameter is unknown, stands there twice or is malformed.
pub fn params<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let text = uri.query().unwrap_or_default();
    if text.split('&').any(|pair| pair.split('=').next() == Some("as_of")) {
        // The time machine is not there yet; a present answer in its place would be a lie.
        let fault = FieldError::new("/query/as_of", "not_possible", "`as_of` is not served yet");
        let detail = "past states are not served yet; leave `as_of` away";
        let problem = Problem::new(Code::NotPossible, detail);
        return Err(Problem { errors: vec![fault], ..problem }.into());
    }
    Query::<T>::try_from_uri(uri).map(|Query(params)| params).map_err(|rejection| {
        let message = rejection.body_text();
        let message =
            message.strip_prefix("Failed to deserialize query string: ").unwrap_or(&message);
        refused(message)
    })
}

/// Makes a problem out of what the parser says: `name: reason`.
fn refused(message: &str) -> ApiError {
    let (name, reason) = message.split_once(": ").unwrap_or(("", message));
    if let Some(rest) =
        reason.strip_prefix("unknown field `").or(message.strip_prefix("unknown field `"))
    {
        let mut quoted = rest.split('`');
        let name = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
        let hint = domain::json::nearest(name, known.iter().copied())
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let shown: String = name.chars().take(64).collect();
        let message = format!("there is no parameter `{shown}`{hint} (known: {known})");
        let fault =
            FieldError::new(format!("/query/{shown}"), "unknown_parameter", message.clone());
        return Problem { errors: vec![fault], ..Problem::new(Code::InvalidParameter, message) }
            .into();
    }
    let twice = reason.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`'));
    if let Some(name) = twice {
        let message = format!("`{name}` may stand there once");
        return ApiError::parameter(format!("/query/{name}"), message);
    }
    ApiError::parameter(format!("/query/{name}"), message.to_owned())
}

/// The page length that was asked for.
///
/// # Errors
/// Outside of 1 to 200.
pub fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ApiError::parameter("/query/limit", "`limit` must lie between 1 and 200")),
    }
}

/// The id in a path.
#[derive(Debug, Clone, Copy)]
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = text.map_err(|_| ApiError::parameter("/path/id", "not an id"))?;
        id(&text).map(Self)
    }
}

/// Reads an id of a path: a UUID in its usual form.
///
/// # Errors
/// When it is none.
pub fn id(text: &str) -> Result<Uuid, ApiError> {
    let usual = text.len() == 36;
    Uuid::try_parse(text)
        .ok()
        .filter(|_| usual)
        .ok_or_else(|| ApiError::parameter("/path/id", "the id must be a UUID"))
}

/// How fresh an answer must be (`Taffrail-Min-Position`), and how long to wait for it.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// The position that the answer must reflect.
    pub min_position: Option<u64>,
    /// Longest wait for it.
    pub wait: Duration,
}

impl Fresh {
    /// Reads the headers of a query.
    ///
    /// # Errors
    /// When the position is no number, or the wait none.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let min_position = match headers.get("taffrail-min-position") {
            None => None,
            Some(value) => {
                let position = value.to_str().ok().and_then(|text| text.trim().parse().ok());
                // PostgreSQL's bigint ends there.
                let position = position.filter(|position| i64::try_from(*position).is_ok());
                Some(position.ok_or_else(|| {
                    let place = "/header/taffrail-min-position";
                    ApiError::parameter(place, "`Taffrail-Min-Position` must be a position")
                })?)
            }
        };
        Ok(Self { min_position, wait: Prefer::of(headers)?.wait.unwrap_or(DEFAULT_WAIT) })
    }
}

impl<S: Sync> FromRequestParts<S> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Filter {
        queue: Option<String>,
        limit: Option<u32>,
    }

    fn read(query: &str) -> Result<Filter, ApiError> {
        params(&format!("/v1/tasks?{query}").parse().expect("uri"))
    }

    fn fault(query: &str) -> (u16, String, String) {
        let refusal = read(query).expect_err("refused");
        let problem = refusal.problem();
        let pointer = problem.errors.first().map(|fault| fault.pointer.clone());
        (problem.status, pointer.unwrap_or_default(), problem.detail.clone())
    }

    #[test]
    fn known_parameters_are_read() {
        let filter = read("queue=a%20b&limit=7").expect("read");
        assert_eq!((filter.queue.as_deref(), filter.limit), (Some("a b"), Some(7)));
        assert!(read("").is_ok());
    }

    #[test]
    fn an_unknown_parameter_names_the_nearest() {
        let (status, pointer, detail) = fault("queu=a");
        assert_eq!((status, pointer.as_str()), (400, "/query/queu"));
        assert!(detail.contains("did you mean `queue`"), "{detail}");
    }

    #[test]
    fn malformed_and_repeated_parameters_are_refused() {
        assert_eq!(fault("limit=many").1, "/query/limit");
        assert_eq!(fault("limit=-1").0, 400);
        assert_eq!(fault("queue=a&queue=b").1, "/query/queue");
        assert_eq!(fault("as_of=7").0, 422);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err() && limit(None).is_ok());
    }

    #[test]
    fn ids_are_uuids_in_their_usual_form() {
        assert!(id("018f0000-0000-7000-8000-000000000001").is_ok());
        for bad in
            ["", "7", "018f00000000700080000000000000ff", "{018f0000-0000-7000-8000-000000000001}"]
        {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
