//! A heartbeat's body and the answer to it.

use domain::{FieldError, Problem, TaskId, json};
use serde::{Deserialize, Serialize};

/// Longest state that is taken, in bytes.
const MAX_STATE: usize = 64;
/// Most bytes of a heartbeat: it is sent often and kept for every agent.
const MAX_BYTES: usize = 32_768;
/// Most tasks that one names.
const MAX_TASKS: usize = 256;

/// What an agent says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// How it is, by its own word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_state: Option<String>,
    /// Tasks it could take now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots_free: Option<u32>,
    /// 0 to 1, or what the agent means by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Grows as long as its work gets on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_seq: Option<u64>,
    /// Which start of the agent says it, as whoever started it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What it works on: these leases are extended, once less than half of one is left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<HeldTask>,
}

/// A task that an agent works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldTask {
    /// The task.
    pub task_id: TaskId,
    /// The token of its lease; another one extends nothing.
    pub lease_token: u64,
}

impl Heartbeat {
    /// Reads a heartbeat; an empty body says nothing but that it lives.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        if body.len() > MAX_BYTES {
            let message = format!("a heartbeat has at most {MAX_BYTES} bytes");
            return Err(Problem::invalid(vec![FieldError::new("", "too_large", message)]));
        }
        let heartbeat: Self = json::read(body).map_err(|fault| Problem::invalid(vec![fault]))?;
        let mut faults = Vec::new();
        let state = heartbeat.observed_state.as_deref().unwrap_or_default();
        if state.len() > MAX_STATE || state.chars().any(char::is_control) {
            let message = format!("at most {MAX_STATE} bytes without control characters");
            faults.push(FieldError::new("/observed_state", "length", message));
        }
        if heartbeat.load.is_some_and(|load| !(load.is_finite() && load >= 0.0)) {
            faults.push(FieldError::new("/load", "out_of_range", "a number from 0 on is needed"));
        }
        if heartbeat.tasks.len() > MAX_TASKS {
            let message = format!("at most {MAX_TASKS} entries");
            faults.push(FieldError::new("/tasks", "too_many", message));
        }
        if faults.is_empty() { Ok(heartbeat) } else { Err(Problem::invalid(faults)) }
    }
}

/// The answer to a heartbeat that has a reply subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Whether it was understood.
    pub ok: bool,
    /// What the agent should be; absent when nobody knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<String>,
    /// What was wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_read_strictly() {
        let body = br#"{"observed_state":"ready","slots_free":2,"load":0.5,"progress_seq":9,"generation":2}"#;
        let heartbeat = Heartbeat::read(body).expect("a heartbeat");
        assert_eq!(heartbeat.slots_free, Some(2));
        assert_eq!(Heartbeat::read(b"").expect("one"), Heartbeat::default());
        let held =
            br#"{"tasks":[{"task_id":"01890a5d-ac96-774b-bcce-b302099a8058","lease_token":3}]}"#;
        assert_eq!(Heartbeat::read(held).expect("a heartbeat").tasks[0].lease_token, 3);
        let one = r#"{"task_id":"01890a5d-ac96-774b-bcce-b302099a8058","lease_token":1},"#;
        let many = format!(r#"{{"tasks":[{}]}}"#, one.repeat(257).trim_end_matches(','));
        let problem = Heartbeat::read(many.as_bytes()).expect_err("too many");
        assert_eq!(problem.errors[0].pointer, "/tasks");
        let long = format!(r#"{{"observed_state":"{}"}}"#, "x".repeat(65));
        for wrong in [
            "[]",
            r#"{"slots_free":-1}"#,
            r#"{"load":-0.5}"#,
            r#"{"cpu":1}"#,
            r#"{"tasks":[{"task_id":"x","lease_token":1}]}"#,
            &long,
        ] {
            assert!(Heartbeat::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
