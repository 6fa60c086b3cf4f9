//! Times, durations and values as people read them.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A text of an answer, by a JSON pointer or a plain field name; empty where there is none.
pub fn text(value: &Value, path: &str) -> String {
    let found = if path.starts_with('/') { value.pointer(path) } else { value.get(path) };
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or(item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Some(other) => other.to_string(),
    }
}

/// `1.2 s`, `3 min`, `5 h`, `2 d`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time was; none where it is none, or still to come.
pub fn passed(time: Option<&str>, now: DateTime<Utc>) -> Option<Duration> {
    let then = DateTime::parse_from_rfc3339(time?).ok()?;
    now.signed_duration_since(then.with_timezone(&Utc)).to_std().ok()
}

/// How long ago, or how long until; the text itself where it is no time.
pub fn age(time: &str) -> String {
    since(time, now())
}

fn since(time: &str, now: DateTime<Utc>) -> String {
    let Ok(then) = DateTime::parse_from_rfc3339(time) else { return time.to_owned() };
    let passed = now.signed_duration_since(then.with_timezone(&Utc));
    match (passed.to_std(), (-passed).to_std()) {
        (Ok(passed), _) => format!("{} ago", duration(passed)),
        (Err(_), Ok(ahead)) => format!("in {}", duration(ahead)),
        (Err(_), Err(_)) => time.to_owned(),
    }
}

/// The present, by this machine's clock.
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// The time of day in UTC, to the millisecond; the text itself where it is no time.
pub fn clock(time: &str) -> String {
    match DateTime::parse_from_rfc3339(time) {
        Ok(then) => then.with_timezone(&Utc).format("%H:%M:%S%.3f").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// The first eight digits of an id: enough to tell the rows of a table apart.
pub fn short_id(id: &str) -> String {
    // The tail: ids of the same minute begin alike (UUIDv7).
    match id.len() {
        36 => id[24..].to_owned(),
        _ => id.to_owned(),
    }
}

/// The gist of any JSON value in one line.
pub fn gist(value: &Value, longest: usize) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) if fields.contains_key("message") => text(value, "message"),
        Value::Object(_) | Value::Array(_) | Value::Number(_) | Value::Bool(_) => value.to_string(),
    };
    match text.char_indices().nth(longest) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_the_unit_that_fits() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_500, "1.5 s"),
            (59_000, "59 s"),
            (150_000, "2 min"),
            (7_200_000, "2 h"),
            (864_000_000, "10 d"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_time_is_told_from_now_on_and_nonsense_as_it_is() {
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:01:00Z").unwrap().to_utc();
        assert_eq!(since("2026-01-01T00:00:00Z", now), "60 s ago");
        assert_eq!(since("2026-01-01T01:01:00+01:00", now), "0 ms ago");
        assert_eq!(since("2026-01-01T00:01:30Z", now), "in 30 s");
        assert_eq!(since("soon", now), "soon");
    }

    #[test]
    fn values_are_told_in_a_line() {
        assert_eq!(gist(&json!({ "message": "boom", "stderr": "…" }), 80), "boom");
        assert_eq!(gist(&json!({ "a": 1 }), 80), r#"{"a":1}"#);
        assert_eq!(gist(&json!("äöü"), 2), "äö…");
        assert_eq!(text(&json!({ "a": ["b", 1] }), "a"), "b, 1");
        assert_eq!(text(&json!({ "a": { "b": 2 } }), "/a/b"), "2");
        assert_eq!(text(&json!({}), "a"), "");
    }
}
