//! What can have happened to an agent.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::is_zero;
use super::observation::*;
use super::round::*;
use super::state::AgentState;
use super::upcast::UPCASTS;
use crate::ids::OperationId;
use crate::json::Json;
use crate::profile::Watch;
use crate::task::TaskNoted;
use crate::values::Labels;

events! {
    /// The events of an agent.
    AgentEvent of "agent" upcast UPCASTS;
    {
        /// It was created.
        Registered(AgentRegistered) = "registered" v 1,
        /// A known agent registered again: its process is new.
        Reconnected(AgentRegistered) = "reconnected" v 1,
        /// Its description changed.
        Updated(super::command::UpdateAgent) = "updated" v 1,
        /// A node is asked to start it.
        DeployRequested(AgentAsked) = "deploy_requested" v 1,
        /// It takes work from now on.
        Ready(TaskNoted) = "ready" v 1,
        /// It, or who watches it, said how it is.
        Reported(AgentReported) = "reported" v 1,
        /// No new work for it.
        Draining(AgentAsked) = "draining" v 1,
        /// It sleeps.
        Hibernated(AgentAsked) = "hibernated" v 1,
        /// It was told to wake up.
        Woken(AgentAsked) = "woken" v 1,
        /// It was told to start again.
        Restarted(AgentAsked) = "restarted" v 1,
        /// Gone for good.
        Retired(AgentRetired) = "retired" v 1,
        /// Stopped without waiting for its work.
        ForceStopped(AgentAsked) = "force_stopped" v 1,
        /// Believed: its profile is in order; a node is looked for.
        Validated(ValidateAgent) = "validated" v 1,
        /// Desired: a node is to start it.
        Placed(AgentPlaced) = "placed" v 1,
        /// Observed: what its node saw.
        Observed(ObserveAgent) = "observed" v 1,
        /// Believed: what a manager concluded.
        Assessed(AssessAgent) = "assessed" v 1,
        /// It will be started again.
        RestartScheduled(RestartScheduled) = "restart_scheduled" v 1,
        /// It ended again and again, and is not started any more.
        Quarantined(QuarantineAgent) = "quarantined" v 1,
        /// Its drain took too long: its tasks are taken away.
        HandedBack(HandBack) = "handed_back" v 1,
        /// Desired and observed state differ, or no longer do.
        Drifted(Drift) = "drifted" v 1,
        /// It was told to look for work, as a round.
        RoundBegun(RoundBegun) = "round_begun" v 1,
        /// Its round is over.
        RoundEnded(RoundEnded) = "round_ended" v 1,
        /// Something that came too late to change anything.
        Ignored(AgentIgnored) = "ignored" v 1,
    }
}

/// All that an agent said of itself; see `RegisterAgent` for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the same fields as RegisterAgent")]
pub struct AgentRegistered {
    pub name: String,
    pub role: String,
    pub session_key: String,
    pub capabilities: Vec<String>,
    pub labels: Labels,
    pub slots: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_context: Option<String>,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub profile: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cost: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
    /// Its node runs it and knows how it is: its state stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub led: bool,
}

/// How it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentReported {
    /// What was seen.
    pub observed_state: AgentState,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Gone for good; its name is free again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentRetired {
    /// The name that is free now.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that follows it to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<OperationId>,
}
