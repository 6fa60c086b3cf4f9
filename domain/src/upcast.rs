//! Old event versions, made new on reading.
//!
//! One step per raised version: a pure change of the JSON from exactly one
//! version to the next, listed ascending. Code meets only the newest shape.

use serde_json::Value;

/// One step: `(event type, from version)` and the change to `from + 1`.
pub struct Upcast {
    /// Such as `task.submitted`.
    pub event: &'static str,
    /// The version it reads; it writes the next.
    pub from: u16,
    /// The change itself.
    pub step: fn(&mut serde_json::Map<String, Value>),
}

/// Brings a payload from its version to the current one.
///
/// # Errors
/// When the payload is no object, or a step from some version is missing.
pub fn upcast(
    steps: &[Upcast],
    event: &str,
    from: u16,
    to: u16,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let mut value: Value = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    let object = value.as_object_mut().ok_or("the payload is no object")?;
    for version in from..to {
        let found = steps.iter().find(|s| s.event == event && s.from == version);
        let step = found.ok_or_else(|| format!("no step for {event} from version {version}"))?;
        (step.step)(object);
    }
    serde_json::to_vec(&value).map_err(|e| e.to_string())
}
