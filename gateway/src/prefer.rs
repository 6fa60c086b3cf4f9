//! The `Prefer` header (RFC 7240).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use crate::error::ApiError;

/// Longest wait that a caller may ask for.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// What a changing request should answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// Id, version and position alone.
    Minimal,
    /// The whole resource, as the read model shows it after the change.
    Representation,
}

/// The preferences that we know; others are ignored, as the RFC asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefer {
    /// Answer 202 and go on behind it.
    pub respond_async: bool,
    /// How long the caller is ready to wait.
    pub wait: Option<Duration>,
    /// How much it wants to see.
    pub answer: Option<Return>,
    /// Whether it asked for strict handling, which is ours anyway.
    pub strict: bool,
}

impl Prefer {
    /// Reads all `Prefer` headers; the first of a kind counts.
    ///
    /// # Errors
    /// When `wait` is no number of seconds.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut prefer = Self::default();
        let given = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for preference in given.flat_map(|value| value.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => prefer.respond_async = true,
                "wait" if prefer.wait.is_none() => {
                    let seconds = value.parse::<u64>().map_err(|_| {
                        ApiError::parameter("/header/prefer", "`wait` takes a number of seconds")
                    })?;
                    prefer.wait = Some(Duration::from_secs(seconds).min(MAX_WAIT));
                }
                "return" if prefer.answer.is_none() => {
                    prefer.answer = match value {
                        "minimal" => Some(Return::Minimal),
                        "representation" => Some(Return::Representation),
                        _ => None,
                    };
                }
                "handling" => prefer.strict |= value == "strict",
                _ => {}
            }
        }
        Ok(prefer)
    }
}

/// Tells the caller what was honoured, and caches what the answer depends on.
pub fn applied(response: &mut Response, applied: &[&str]) {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("prefer"));
    if let Ok(value) = HeaderValue::from_str(&applied.join(", "))
        && !applied.is_empty()
    {
        headers.insert("preference-applied", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(value: &str) -> Result<Prefer, ApiError> {
        let mut headers = HeaderMap::new();
        headers.append("prefer", value.parse().expect("header"));
        Prefer::of(&headers)
    }

    #[test]
    fn the_known_preferences_are_read() {
        let all = prefer("Respond-Async, wait=5, return=minimal; foo, handling=strict, colour=red")
            .expect("valid");
        assert_eq!(
            all,
            Prefer {
                respond_async: true,
                wait: Some(Duration::from_secs(5)),
                answer: Some(Return::Minimal),
                strict: true,
            }
        );
        assert_eq!(prefer("wait=900").expect("valid").wait, Some(MAX_WAIT));
        assert_eq!(prefer("colour=red").expect("valid"), Prefer::default());
    }

    #[test]
    fn a_wait_without_a_number_is_refused() {
        for bad in ["wait=soon", "wait", "wait=-1", "wait=1.5"] {
            assert!(prefer(bad).is_err(), "{bad}");
        }
    }
}
