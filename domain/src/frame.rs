//! What an agent and the server say to one another where no NATS lies between them: one JSON
//! object with one field per frame, over the gateway's WebSocket (a text message each) and
//! over a node's Unix socket (a line each).
//!
//! The first frame of an agent is `attach`. Everything after it is said as that agent alone:
//! no other frame names one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::{AgentId, StreamType};
use crate::json::Json;
use crate::outcome::Outcome;
use crate::problem::Problem;
use crate::task::{Assignment, ClaimTasks};

/// Largest frame, in bytes: as large as the largest body of a command.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Longest log line, in bytes; a longer one is cut with a mark.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum FromAgent {
    /// From now on this connection speaks for an agent; answered by `attached`.
    Attach(Attach),
    /// A command; answered by `outcome` under the same command id.
    Command(CommandFrame),
    /// Asks for tasks; answered by `claimed` under the same `ref`.
    Claim(ClaimFrame),
    /// Nobody waits for that claim any more.
    GiveUp(u64),
    /// A sign of life; not answered.
    Heartbeat(Json),
    /// A log line; not answered.
    Log(Json),
    /// The answer to `there`.
    Here(u64),
}

/// See [`FromAgent::Attach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Who speaks. A socket that belongs to one agent takes no other.
    pub agent: AgentId,
    /// What it wants to hear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<Listen>,
    /// Whether somebody should look first if another process answers for this agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ask: bool,
}

/// What an agent may listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Listen {
    /// Tasks that are pushed to it.
    Tasks,
    /// Control words, and the question whether it is there.
    Control,
}

/// See [`FromAgent::Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandFrame {
    /// The kind of stream.
    #[serde(rename = "type")]
    pub kind: StreamType,
    /// The stream.
    pub id: Uuid,
    /// The command's name.
    pub command: String,
    /// The same again for a repeat: it is decided once.
    pub command_id: Uuid,
    /// The command's fields.
    #[serde(default)]
    pub body: Json,
    /// W3C trace context of what it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// See [`FromAgent::Claim`]; the fields of [`ClaimTasks`] but for who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimFrame {
    /// Comes back in the answer; another one for each claim of a connection.
    #[serde(rename = "ref")]
    pub reference: u64,
    /// The queue.
    pub queue: String,
    /// At most so many tasks, 1 to 256.
    #[serde(default = "one")]
    pub max: u32,
    /// How long to wait for the first one, at most 30,000 ms.
    #[serde(default)]
    pub wait_ms: u64,
    /// How long the leases run; 30,000 ms when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// What it gets is started in the same commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

fn one() -> u32 {
    1
}

impl ClaimFrame {
    /// The claim of that agent on a queue.
    pub fn of(reference: u64, queue: &str, claim: &ClaimTasks) -> Self {
        let ClaimTasks { agent_id: _, max, wait_ms, lease_ms, start } = *claim;
        Self { reference, queue: queue.into(), max, wait_ms, lease_ms, start }
    }

    /// The claim as the scheduler takes it.
    pub fn by(&self, agent_id: AgentId) -> ClaimTasks {
        let Self { max, wait_ms, lease_ms, start, .. } = *self;
        ClaimTasks { agent_id, max, wait_ms, lease_ms, start }
    }
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The connection speaks for the agent.
    Attached(Attached),
    /// What became of a command.
    Outcome(Outcome),
    /// The answer to a claim.
    Claimed(ClaimedFrame),
    /// A task that is pushed.
    Task(Box<Assignment>),
    /// A control word.
    Control(ControlFrame),
    /// Whether the agent is there; answered by `here` with the same number.
    There(u64),
    /// A frame that could not be served.
    Problem(Problem),
}

/// See [`ToAgent::Attached`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attached {
    /// Who.
    pub agent: AgentId,
    /// Another process answers for this agent; only where `ask` was set.
    #[serde(default)]
    pub answered: bool,
    /// Largest frame that is taken.
    pub max_bytes: usize,
}

/// See [`ToAgent::Claimed`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClaimedFrame {
    /// Of the claim.
    #[serde(rename = "ref")]
    pub reference: u64,
    /// In the order of service.
    #[serde(default)]
    pub tasks: Vec<Assignment>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A control word: drain, stop, reload, wake, beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlFrame {
    /// The word.
    pub command: String,
}

/// A line of text within the limit; what is cut is counted in a mark at its end.
pub fn cut_line(line: &str) -> String {
    if line.len() <= MAX_LINE_BYTES {
        return line.to_owned();
    }
    let end = (0..=MAX_LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{} [{} bytes cut]", &line[..end], line.len() - end)
}

/// A log line as it is passed on for an agent: its text within the limit, behind a word on how
/// many lines were left out before it. What is no object is passed on as it is.
pub fn within_limit(line: &Json, left_out: u64) -> Json {
    let Ok(mut fields) = line.read::<serde_json::Map<String, serde_json::Value>>() else {
        return line.clone();
    };
    if let Some(text) = fields.get("line").and_then(serde_json::Value::as_str) {
        let text = match left_out {
            0 => cut_line(text),
            left_out => format!("[{left_out} lines left out]\n{}", cut_line(text)),
        };
        fields.insert("line".into(), text.into());
    }
    Json::of(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_objects_of_one_field_and_read_strictly() {
        let attach = r#"{"attach":{"agent":"01890a5d-ac96-774b-bcce-b302099a8058","listen":["control","tasks"]}}"#;
        let read = |text: &str| crate::json::read::<FromAgent>(text.as_bytes());
        let frame = read(attach).expect("a frame");
        assert_eq!(serde_json::to_string(&frame).expect("JSON"), attach);
        assert_eq!(read(r#"{"give_up":7}"#), Ok(FromAgent::GiveUp(7)));
        let claim = read(r#"{"claim":{"ref":1,"queue":"default","wait_ms":10}}"#).expect("one");
        let FromAgent::Claim(claim) = claim else { panic!("{claim:?}") };
        assert_eq!((claim.max, claim.by(AgentId::nth(1)).agent_id), (1, AgentId::nth(1)));
        for wrong in [
            r#"{"shout":1}"#,
            r#"{"claim":{"ref":1,"queue":"q","agent_id":"01890a5d-ac96-774b-bcce-b302099a8058"}}"#,
            r#"{"attach":{}}"#,
            r#"{"attach":{"agent":"me"}}"#,
            "[]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_with_a_mark() {
        assert_eq!(cut_line("short"), "short");
        let long = "ä".repeat(MAX_LINE_BYTES);
        let cut = cut_line(&format!("x{long}"));
        assert!(cut.len() < MAX_LINE_BYTES + 32);
        assert!(cut.ends_with(&format!(" [{} bytes cut]", MAX_LINE_BYTES + 2)), "{}", cut.len());
    }
}
