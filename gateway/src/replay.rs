//! What is done with the whole log.

use axum::extract::State;
use domain::operation::Resource;
use domain::{FieldError, Json, Problem};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::body::JsonBytes;
use crate::change::Call;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;

/// What a check may be told; nothing yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {}

/// Makes every decision of the scheduler once more from the log, and compares: 202. The
/// operation's result counts `decisions`, `identical`, `unknown` and `different`, and
/// names the `faults` by position.
#[utoipa::path(post, path = "/replay/verify-decisions", tag = "operations", responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn verify_decisions(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let Check {} = body.parse()?;
    let resource = Resource { kind: "log".into(), id: "decisions".into() };
    accept_work(&app, &call, "decisions.verify", resource, Json::null()).await
}

/// Fastest and slowest replay.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.01..=10_000.0;

/// Which events to publish once more, and how fast.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// The first position.
    #[schema(minimum = 1)]
    from: u64,
    /// The last position; the end of the log where none is given.
    #[serde(default)]
    to: Option<u64>,
    /// `1x` is as it happened, `10x` ten times faster, `max` as fast as possible; 0.01x to
    /// 10000x.
    #[serde(default)]
    speed: Option<String>,
    /// Gaps between two events are no longer than so many milliseconds of recorded time.
    #[serde(default)]
    skip_idle_ms: Option<u64>,
    /// The word in the subject `taffrail.<tenant>.replay.<name>.…`; the operation's id where
    /// none is given.
    #[serde(default)]
    name: Option<String>,
}

/// Publishes past events of the tenant once more, to subjects of their own: 202. Each comes
/// as the relay sends it, on `taffrail.<tenant>.replay.<name>.<type>.<id>.<event>`; the last
/// message, on `…replay.<name>.end`, is the operation's result.
#[utoipa::path(post, path = "/replay", tag = "operations", request_body = ReplayBody, responses(
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn replay(State(app): State<App>, call: Call, body: JsonBytes) -> ApiResult {
    let asked: ReplayBody = body.parse()?;
    let head = app.doors.reader.log.head().await.map_err(|error| ApiError::unavailable(&error))?;
    let input = input(&asked, head.position).map_err(Problem::invalid)?;
    let resource = Resource { kind: "log".into(), id: "replay".into() };
    accept_work(&app, &call, "log.replay", resource, input).await
}

/// The operation's input, or what is wrong with the body.
fn input(asked: &ReplayBody, head: u64) -> Result<Json, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, code: &str, message: String| {
        faults.push(FieldError::new(pointer, code, message));
    };
    let to = asked.to.unwrap_or(head);
    if asked.from == 0 || asked.from > head {
        fault("/from", "out_of_range", format!("`from` must be 1 to {head}, the log's end"));
    }
    if to > head {
        fault("/to", "out_of_range", format!("`to` must be at most {head}, the log's end"));
    } else if to < asked.from && asked.from <= head {
        fault("/to", "out_of_range", "`to` must not be before `from`".into());
    }
    let speed = asked.speed.as_deref().map_or(Ok(Some(1.0)), speed);
    if speed.is_err() {
        let message = "`speed` must be 0.01x to 10000x, or max".to_owned();
        fault("/speed", "unknown_value", message);
    }
    let long = |name: &str| name.len() > 64 || !domain::ids::is_token(name);
    if asked.name.as_deref().is_some_and(long) {
        let message = "`name` must be 1 to 64 of a-z A-Z 0-9 - _".to_owned();
        fault("/name", "malformed", message);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Json::of(&serde_json::json!({
        "from": asked.from,
        "to": to,
        "speed": speed.unwrap_or_default(),
        "skip_idle_ms": asked.skip_idle_ms,
        "name": asked.name,
    })))
}

/// How many times faster; none: as fast as possible.
fn speed(text: &str) -> Result<Option<f64>, ()> {
    if text == "max" {
        return Ok(None);
    }
    let times: f64 = text.strip_suffix('x').ok_or(())?.parse().map_err(drop)?;
    if SPEEDS.contains(&times) { Ok(Some(times)) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> ReplayBody {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_replay_is_bounded_and_each_fault_is_named() {
        let good = input(&body(r#"{"from":1,"speed":"10x","name":"demo"}"#), 9).unwrap();
        assert!(good.as_str().contains(r#""to":9"#), "{}", good.as_str());
        assert!(good.as_str().contains(r#""speed":10.0"#), "{}", good.as_str());
        let most = input(&body(r#"{"from":9,"to":9,"speed":"max"}"#), 9).unwrap();
        assert!(most.as_str().contains(r#""speed":null"#), "{}", most.as_str());
        for (text, pointer) in [
            (r#"{"from":0}"#, "/from"),
            (r#"{"from":10}"#, "/from"),
            (r#"{"from":3,"to":2}"#, "/to"),
            (r#"{"from":3,"to":10}"#, "/to"),
            (r#"{"from":1,"speed":"fast"}"#, "/speed"),
            (r#"{"from":1,"speed":"0x"}"#, "/speed"),
            (r#"{"from":1,"speed":"-1x"}"#, "/speed"),
            (r#"{"from":1,"speed":"NaNx"}"#, "/speed"),
            (r#"{"from":1,"speed":"1e9x"}"#, "/speed"),
            (r#"{"from":1,"name":"a.b"}"#, "/name"),
            (r#"{"from":1,"name":">"}"#, "/name"),
            (r#"{"from":1,"name":""}"#, "/name"),
        ] {
            let faults = input(&body(text), 9).unwrap_err();
            let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
            assert_eq!(pointers, [pointer], "{text}");
        }
    }
}
