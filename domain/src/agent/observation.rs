//! What a node sees of an agent's process, and what managers make of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::state::AgentState;
use crate::ids::OperationId;
use crate::macros::Body;
use crate::node::Launch;
use crate::problem::FieldError;
use crate::values::Check;

/// How far a process is, as its node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It runs; warm-up or probes come next.
    Started,
    /// A step of its warm-up begins.
    Warming,
    /// It runs and is ready: its warm-up is done, its probes are good.
    Ready,
    /// Its readiness probe is bad.
    NotReady,
    /// Its liveness probe is bad.
    Unhealthy,
    /// It was told to end (SIGTERM).
    Terminating,
    /// It is made to end (SIGKILL).
    Killing,
    /// It ended.
    Exited,
    /// It could not be started.
    StartFailed,
    /// It was gone when its node looked for it again; nobody knows how it ended.
    Lost,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Started,
        Self::Warming,
        Self::Ready,
        Self::NotReady,
        Self::Unhealthy,
        Self::Terminating,
        Self::Killing,
        Self::Exited,
        Self::StartFailed,
        Self::Lost,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Unhealthy => "unhealthy",
            Self::Terminating => "terminating",
            Self::Killing => "killing",
            Self::Exited => "exited",
            Self::StartFailed => "start_failed",
            Self::Lost => "lost",
        }
    }

    /// Whether there is no process (any more).
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Exited | Self::StartFailed | Self::Lost)
    }
}

/// How a process ended, and what it used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exit {
    /// Its code, where it ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It went beyond its memory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// It went beyond its time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub out_of_time: bool,
    /// Processor time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Most memory held, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// From start to end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Bytes of output that were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Bytes of output beyond the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_bytes: Option<u64>,
}

impl Exit {
    /// For people.
    pub fn words(&self) -> String {
        let how = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "in an unknown way".into(),
        };
        match (self.out_of_memory, self.out_of_time) {
            (true, _) => format!("{how}, out of memory"),
            (_, true) => format!("{how}, out of time"),
            (false, false) => how,
        }
    }
}

/// A node tells what it sees of an agent's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveAgent {
    /// The node.
    pub node_id: Uuid,
    /// Of the process.
    pub generation: u32,
    /// Grows with every observation of this generation; an older one is passed over.
    pub seq: u32,
    /// What is seen.
    pub phase: Phase,
    /// The process, as the node numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Box<Exit>>,
    /// No restart will help: the program is missing, the isolation absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permanent: bool,
    /// For people: the step of the warm-up, the answer of the probe, the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Body for ObserveAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("detail", self.detail.as_ref(), 2_000).done()
    }
}

/// What a manager believes of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssessAgent {
    /// The state.
    pub state: AgentState,
    /// Why, for people.
    pub reason: String,
}

impl Body for AssessAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let theirs = self.state.can_be_observed();
        Check::default()
            .rule(
                theirs,
                "state",
                "unknown_value",
                "one of ready, busy, blocked, degraded, unhealthy, warming, offline, failed",
            )
            .text("reason", &self.reason, 0, 2_000)
            .done()
    }
}

/// A node was chosen, or is not there yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateAgent {
    /// What the profile was found to be.
    pub reason: String,
}

impl Body for ValidateAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().text("reason", &self.reason, 0, 2_000).done()
    }
}

/// A node that was looked at when an agent was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeCandidate {
    /// The node.
    pub node_id: Uuid,
    /// Its name.
    pub name: String,
    /// The room that is left after it, in thousandths of the node; absent where it was
    /// rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u32>,
    /// Why it was rejected: `offline`, `draining`, `labels`, `node`, `level`, `runtime`,
    /// `slots`, `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// A manager places an agent on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceAgent {
    /// The node.
    pub node_id: Uuid,
    /// Its name.
    pub node: String,
    /// What to start there.
    pub launch: Box<Launch>,
    /// What it was chosen from, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<NodeCandidate>,
}

impl Body for PlaceAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let few = self.candidates.len() <= 16;
        let check = Check::default().text("node", &self.node, 1, 128);
        let check = check.rule(few, "candidates", "too_many", "at most 16 candidates");
        self.launch.profile.faults(check, "launch/profile/").done()
    }
}

/// A manager decides when an agent is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRestart {
    /// The delay, in milliseconds.
    pub delay_ms: u64,
    /// The how-manieth restart within the window it will be.
    pub attempt: u32,
    /// Why it needs one.
    pub reason: String,
}

impl Body for ScheduleRestart {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .range("delay_ms", self.delay_ms, 0, 86_400_000)
            .text("reason", &self.reason, 0, 2_000)
            .done()
    }
}

/// It will be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestartScheduled {
    /// Not before this time.
    pub due_at: DateTime<Utc>,
    /// The how-manieth restart within the window it will be.
    pub attempt: u32,
    /// Why it needs one.
    pub reason: String,
}

/// A manager gives up on an agent that ends again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuarantineAgent {
    /// Restarts within the window.
    pub restarts: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// What happened last.
    pub reason: String,
}

impl Body for QuarantineAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().text("reason", &self.reason, 0, 2_000).done()
    }
}

/// A drain took too long: these tasks are taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandBack {
    /// How many.
    pub tasks: u32,
    /// How long they were waited for, in milliseconds.
    pub waited_ms: u64,
}

impl Body for HandBack {}

/// Whose turn it is to bring desired and observed state together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftOwner {
    /// Its node: to start or to stop it.
    Node,
    /// The control plane: to place or to restart it.
    Managers,
    /// People: nothing else will.
    Operator,
}

/// How a drift stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftState {
    /// Desired and observed state differ for longer than they should.
    Open,
    /// They still do: somebody has to look.
    Escalated,
    /// They agree again.
    Healed,
}

/// Desired and observed state differ, or no longer do. Also the event of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// How it stands.
    pub state: DriftState,
    /// What it should be.
    pub desired: AgentState,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Phase>,
    /// How long they differ, in milliseconds.
    pub age_ms: u64,
    /// Whose turn it is.
    pub owner: DriftOwner,
}

impl Body for Drift {}

/// It was started under these circumstances; nothing that was seen of an older generation
/// counts any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentPlaced {
    /// The node.
    pub node_id: Uuid,
    /// Its name.
    pub node: String,
    /// Of the process that the node is to start: one more than the last.
    pub generation: u32,
    /// What to start.
    pub launch: Box<Launch>,
    /// What the node was chosen from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<NodeCandidate>,
}

/// A word about an agent that came too late to change anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentIgnored {
    /// `report` or `observe`.
    pub what: String,
    /// What it said.
    pub said: String,
    /// Why it does not count.
    pub reason: String,
}

/// An operator asked for something that takes its time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentAsked {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that follows it to its end; absent for agents that nobody but they
    /// themselves starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<OperationId>,
    /// How long a drain waits for tasks, in milliseconds; as its profile says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
