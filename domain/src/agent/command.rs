//! What can be asked of an agent. Field names are the contract's.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::observation::*;
use super::round::*;
use super::state::AgentState;
use crate::capability::check_offered;
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::profile::{Watch, used};
pub use crate::task::Reason;
use crate::task::{MAX_COST, given};
use crate::values::{Check, Labels};

commands! {
    /// The commands of an agent.
    AgentCommand {
        /// Creates it, or connects a known one again.
        Register(RegisterAgent) = "register",
        /// Changes its description.
        Update(UpdateAgent) = "update",
        /// Asks a node to start it.
        Deploy(Reason) = "deploy",
        /// It takes work from now on.
        MarkReady(Reason) = "mark_ready",
        /// It, or who watches it, says how it is.
        Report(ReportAgent) = "report",
        /// No new work; what it has it finishes.
        Drain(DrainAgent) = "drain",
        /// Sleep until woken.
        Hibernate(Reason) = "hibernate",
        /// Wake up.
        Wake(Reason) = "wake",
        /// Start again.
        Restart(Reason) = "restart",
        /// Gone for good; the name is free again.
        Retire(Reason) = "retire",
        /// Stopped without waiting for its work.
        ForceStop(Reason) = "force_stop",
        /// It looks for work now, as a round that is recorded.
        BeginRound(BeginRound) = "begin_round",
        /// Its round is over.
        EndRound(EndRound) = "end_round",
        /// A manager found its profile in order, and no node for it yet.
        Validate(ValidateAgent) = "validate",
        /// A manager places it on a node.
        Place(PlaceAgent) = "place",
        /// Its node tells what it sees.
        Observe(ObserveAgent) = "observe",
        /// A manager concludes how it is.
        Assess(AssessAgent) = "assess",
        /// A manager decides when it is started again.
        ScheduleRestart(ScheduleRestart) = "schedule_restart",
        /// A manager gives up on it.
        Quarantine(QuarantineAgent) = "quarantine",
        /// A manager takes its tasks away: its drain took too long.
        HandBack(HandBack) = "hand_back",
        /// A manager notes that desired and observed state differ, or no longer do.
        Drift(Drift) = "drift",
    }
}

fn default_role() -> String {
    "worker".into()
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like that")]
pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A new agent; only `name` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterAgent {
    /// Unique among the tenant's agents that are not retired.
    pub name: String,
    /// What it is for.
    #[serde(default = "default_role")]
    pub role: String,
    /// What it can do: names, or names with a version, such as `python@3.11`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Free labels.
    #[serde(default)]
    pub labels: Labels,
    /// Tasks it holds at once, 1 to 1,000.
    #[serde(default = "one")]
    pub slots: u32,
    /// What it should know from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_context: Option<String>,
    /// A profile's name, or a profile inline.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub profile: Json,
    /// The version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it can be reached, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Silence after which it counts as offline, in milliseconds; 30,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What it costs in comparison: where several fit, the cheaper one is better.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cost: u32,
    /// When its silence is taken for a fault; what is absent stands in its profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// When it has its rounds, if it works in rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
}

impl RegisterAgent {
    /// An agent of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            role: default_role(),
            capabilities: Vec::new(),
            labels: Labels::default(),
            slots: 1,
            memory_context: None,
            profile: Json::null(),
            version: None,
            endpoint: None,
            ttl_ms: None,
            cost: 0,
            watch: None,
            rounds: None,
        }
    }
}

impl Body for RegisterAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check::default()
            .text("name", &self.name, 1, 128)
            .token("role", &self.role)
            .labels("labels", &self.labels)
            .range("slots", self.slots.into(), 1, 1_000)
            .range("cost", self.cost.into(), 0, MAX_COST.into())
            .maybe("memory_context", self.memory_context.as_ref(), 65_536)
            .value("profile", &self.profile)
            .maybe("version", self.version.as_ref(), 128)
            .maybe("endpoint", self.endpoint.as_ref(), 1_024);
        if let Some(ttl_ms) = self.ttl_ms {
            check = check.range("ttl_ms", ttl_ms, 1_000, 86_400_000);
        }
        if let Some(watch) = &self.watch {
            check = watch.faults(check, "watch/");
        }
        if let Some(rounds) = &self.rounds {
            check = rounds.faults(check, "rounds/");
        }
        let mut faults = check_offered(check, "capabilities", &self.capabilities, 256)
            .done()
            .err()
            .unwrap_or_default();
        faults.extend(used(&self.profile).err().unwrap_or_default());
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// No new work for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainAgent {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long its tasks are waited for before they are handed back, in milliseconds; as
    /// its profile says when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Body for DrainAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .maybe("reason", self.reason.as_ref(), 2_000)
            .range("timeout_ms", self.timeout_ms.unwrap_or_default(), 0, 86_400_000)
            .done()
    }
}

/// Changes to an agent; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateAgent {
    /// See [`RegisterAgent::role`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// See [`RegisterAgent::capabilities`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// See [`RegisterAgent::labels`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// See [`RegisterAgent::slots`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// See [`RegisterAgent::memory_context`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub memory_context: Option<String>,
    /// See [`RegisterAgent::cost`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// See [`RegisterAgent::watch`]; holds at once.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// See [`RegisterAgent::rounds`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
    /// See [`RegisterAgent::profile`]; holds from its next start.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub profile: Option<Json>,
}

impl Body for UpdateAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check::default()
            .range("cost", self.cost.unwrap_or_default().into(), 0, MAX_COST.into())
            .range("slots", self.slots.unwrap_or(1).into(), 1, 1_000)
            .maybe("memory_context", self.memory_context.as_ref(), 65_536)
            .rule(*self != Self::default(), "", "empty", "at least one field must be given");
        if let Some(role) = &self.role {
            check = check.token("role", role);
        }
        if let Some(labels) = &self.labels {
            check = check.labels("labels", labels);
        }
        if let Some(watch) = &self.watch {
            check = watch.faults(check, "watch/");
        }
        if let Some(rounds) = &self.rounds {
            check = rounds.faults(check, "rounds/");
        }
        let capabilities = self.capabilities.as_deref().unwrap_or_default();
        let mut faults = check_offered(check, "capabilities", capabilities, 256)
            .done()
            .err()
            .unwrap_or_default();
        if let Some(profile) = &self.profile {
            faults.extend(used(profile).err().unwrap_or_default());
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// How an agent is, by its own word or its watcher's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportAgent {
    /// ready, busy, blocked, degraded, unhealthy, warming, offline or failed.
    pub observed_state: AgentState,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Body for ReportAgent {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .rule(
                self.observed_state.can_be_observed(),
                "observed_state",
                "unknown_value",
                "one of ready, busy, blocked, degraded, unhealthy, warming, offline, failed",
            )
            .maybe("reason", self.reason.as_ref(), 2_000)
            .done()
    }
}
