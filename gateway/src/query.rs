//! Query strings, taken strictly, and how fresh an answer must be.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use domain::{Code, FieldError, Problem, Timestamp};
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
    // When an answer is about is everybody's parameter: `Fresh` reads it.
    let own = if asks_the_past(uri) {
        let own = uri.query().unwrap_or_default().split('&').filter(|pair| !is_as_of(pair));
        let own = format!("/?{}", own.collect::<Vec<_>>().join("&"));
        Cow::Owned(own.parse::<Uri>().map_err(|_| refused("malformed"))?)
    } else {
        Cow::Borrowed(uri)
    };
    Query::<T>::try_from_uri(&own).map(|Query(params)| params).map_err(|rejection| {
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
    /// The moment of the past that the answer is about; absent: now.
    pub as_of: Option<AsOf>,
}

/// A moment of the past.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AsOf {
    /// When the log ended at this position.
    Position(u64),
    /// At this time, by `recorded_at`.
    Time(Timestamp),
}

fn is_as_of(pair: &str) -> bool {
    pair.split('=').next() == Some("as_of")
}

fn asks_the_past(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(is_as_of))
}

/// The routes below `/v1` that answer about now alone: streams, what is worked out from the
/// scheduler's present state or for the future, and what names its positions itself.
const LIVE_ONLY: [&str; 13] = [
    "/events/stream",
    "/events/{position}/proof",
    "/ws",
    "/agents/{id}/logs",
    "/operations/{id}/events",
    "/tasks/{id}/why",
    "/tasks/{id}/candidates",
    "/schedules/{id}/next",
    "/schemas/{type}",
    "/time",
    "/seals",
    "/export",
    "/projections",
];

/// Whether a route's answers can be about the past.
pub(crate) fn knows_the_past(route: &str) -> bool {
    let base = crate::router::BASES.iter().find_map(|base| route.strip_prefix(base));
    base.is_some_and(|path| {
        !LIVE_ONLY.iter().any(|live| {
            path.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    })
}

/// Refuses `as_of` where a present answer would stand in for a past one.
///
/// # Errors
/// When it is there and the request changes something or its route knows the present alone.
pub(crate) fn refuse_as_of(method: &Method, route: &str, uri: &Uri) -> Result<(), ApiError> {
    if !asks_the_past(uri)
        || (*method == Method::GET || *method == Method::HEAD) && knows_the_past(route)
    {
        return Ok(());
    }
    let detail = "this is about now alone; leave `as_of` away";
    let fault = FieldError::new("/query/as_of", "not_possible", detail);
    let problem = Problem::new(Code::NotPossible, detail);
    Err(Problem { errors: vec![fault], ..problem }.into())
}

/// Reads `as_of`: a position or a time with its zone.
fn as_of(uri: &Uri) -> Result<Option<AsOf>, ApiError> {
    if !asks_the_past(uri) {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Only {
        as_of: Option<String>,
    }
    let Query(Only { as_of }) = Query::<Only>::try_from_uri(uri)
        .map_err(|_| ApiError::parameter("/query/as_of", "`as_of` may stand there once"))?;
    as_of.map(|text| moment("as_of", &text)).transpose()
}

/// Reads a moment: a position or a time with its zone.
pub(crate) fn moment(name: &str, text: &str) -> Result<AsOf, ApiError> {
    let refuse = |why: String| Err(ApiError::parameter(format!("/query/{name}"), why));
    if let Ok(position) = text.parse::<u64>()
        && text.bytes().all(|b| b.is_ascii_digit())
    {
        return match i64::try_from(position) {
            Ok(0) => refuse("positions begin at 1".into()),
            Ok(_) => Ok(AsOf::Position(position)),
            Err(_) => refuse("no log has as many positions".into()),
        };
    }
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(AsOf::Time(time.to_utc())),
        Err(_) => refuse(format!(
            "`{name}` must be a position, such as 42, or a time with its zone, such as \
             2026-01-31T12:00:00Z"
        )),
    }
}

impl Fresh {
    /// Reads a query's headers and its `as_of`.
    ///
    /// # Errors
    /// When a position is no number, a time none, or the wait none.
    pub fn of(headers: &HeaderMap, uri: &Uri) -> Result<Self, ApiError> {
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
        let wait = Prefer::of(headers)?.wait.unwrap_or(DEFAULT_WAIT);
        Ok(Self { min_position, wait, as_of: as_of(uri)? })
    }
}

impl<S: Sync> FromRequestParts<S> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.headers, &parts.uri)
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
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err() && limit(None).is_ok());
    }

    #[test]
    fn a_moment_is_a_position_or_a_time_with_its_zone() {
        let read = |query: &str| as_of(&format!("/v1/tasks?{query}").parse().expect("uri"));
        assert_eq!(read("limit=3").expect("none"), None);
        assert_eq!(read("as_of=7").expect("read"), Some(AsOf::Position(7)));
        assert!(matches!(read("as_of=2026-01-31T12:00:00%2B01:00"), Ok(Some(AsOf::Time(_)))));
        for bad in ["0", "-1", "", "2026-01-31T12:00:00", "yesterday", "9223372036854775808"] {
            let refusal = read(&format!("as_of={bad}")).expect_err(bad);
            assert_eq!(refusal.problem().errors[0].pointer, "/query/as_of");
        }
        assert!(read("as_of=1&as_of=2").is_err());
        assert!(fault("as_of=7&queu=a").2.contains("did you mean `queue`"));
    }

    #[test]
    fn what_is_about_now_alone_says_so() {
        let uri: Uri = "/v1/x?as_of=7".parse().expect("uri");
        for (method, route, taken) in [
            (Method::GET, "/v1/tasks", true),
            (Method::GET, "/api/v1/tasks/{id}", true),
            (Method::POST, "/v1/tasks", false),
            (Method::GET, "/v1/events/stream", false),
            (Method::GET, "/v1/events", true),
            (Method::GET, "/v1/time/diff", false),
            (Method::GET, "/v1/export", false),
            (Method::GET, "/metrics", false),
        ] {
            assert_eq!(refuse_as_of(&method, route, &uri).is_ok(), taken, "{method} {route}");
        }
        assert!(
            refuse_as_of(&Method::POST, "/v1/tasks", &"/v1/tasks".parse().expect("uri")).is_ok()
        );
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
