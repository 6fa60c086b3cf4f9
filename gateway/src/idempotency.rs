//! `Idempotency-Key`: the same request sent again is the same command, for ever.

use axum::http::{HeaderMap, Method};
use uuid::Uuid;

use crate::auth::Caller;
use crate::error::ApiError;

/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// Separates these ids from those made of other names (RFC 9562, 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x5b1d_8f0e_7c52_5d1b_9b6a_71d4_f0a6_2c3e);

/// Reads the key: one structured-field string (RFC 9651, 3.3.3), so in quotes.
///
/// # Errors
/// When it is given twice, empty, too long, not quoted or not printable ASCII.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let bad = |message: &str| Err(ApiError::parameter("/header/idempotency-key", message));
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return bad("`Idempotency-Key` may stand there once");
    }
    let Ok(text) = value.to_str() else {
        return bad("`Idempotency-Key` must be printable ASCII");
    };
    let quoted = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let Some(inner) = quoted else {
        return bad("`Idempotency-Key` must be a quoted string, such as \"8e03978e\"");
    };
    let Some(key) = unescape(inner) else {
        return bad("`Idempotency-Key` is not a structured-field string");
    };
    if key.is_empty() || key.len() > MAX_KEY {
        return bad("`Idempotency-Key` must have 1 to 255 characters");
    }
    Ok(Some(key))
}

/// `\"` and `\\` are the only escapes; a bare quote ends the string.
fn unescape(inner: &str) -> Option<String> {
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            ' '..='~' if c != '"' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// The command id of a keyed request: UUIDv5 of tenant, principal, method, path and key.
///
/// `path` is the one below `/api`, so that both bases name the same command.
pub fn command_id(caller: &Caller, method: &Method, path: &str, key: &str) -> Uuid {
    let parts = [caller.tenant.as_str(), &caller.principal, method.as_str(), path, key];
    Uuid::new_v5(&NAMESPACE, parts.join("\0").as_bytes())
}

/// An id that belongs to a command: that of the thing it creates, or of its operation.
pub fn derived(command_id: Uuid, what: &str) -> Uuid {
    Uuid::new_v5(&command_id, what.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &[u8]) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        let value = axum::http::HeaderValue::from_bytes(value).expect("header");
        headers.insert("idempotency-key", value);
        key(&headers)
    }

    #[test]
    fn a_quoted_string_is_a_key() {
        assert_eq!(read(br#""a b""#).expect("valid"), Some("a b".into()));
        assert_eq!(read(br#" "a\"\\b" "#).expect("valid"), Some("a\"\\b".into()));
        assert_eq!(key(&HeaderMap::new()).expect("valid"), None);
        assert!(read(format!("\"{}\"", "k".repeat(255)).as_bytes()).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("\"{}\"", "k".repeat(256));
        for bad in [
            &b"plain"[..],
            b"",
            b"\"\"",
            b"\"",
            b"\"a\"b\"",
            b"\"a\\n\"",
            "\"é\"".as_bytes(),
            long.as_bytes(),
        ] {
            assert!(read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let mut twice = HeaderMap::new();
        twice.append("idempotency-key", "\"a\"".parse().expect("header"));
        twice.append("idempotency-key", "\"a\"".parse().expect("header"));
        assert!(key(&twice).is_err());
    }

    #[test]
    fn every_part_counts() {
        let caller = Caller::for_tests("default", "me");
        let id = command_id(&caller, &Method::POST, "/v1/tasks", "k");
        assert_eq!(id, command_id(&caller, &Method::POST, "/v1/tasks", "k"));
        let others = [
            command_id(&Caller::for_tests("other", "me"), &Method::POST, "/v1/tasks", "k"),
            command_id(&Caller::for_tests("default", "you"), &Method::POST, "/v1/tasks", "k"),
            command_id(&caller, &Method::PATCH, "/v1/tasks", "k"),
            command_id(&caller, &Method::POST, "/v1/agents", "k"),
            command_id(&caller, &Method::POST, "/v1/tasks", "l"),
        ];
        assert!(others.iter().all(|other| *other != id));
    }
}
