//! The states of an agent, and what each of them takes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an agent stands; the words of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the catalogue's rows LIF-1 and its table explain each")]
pub enum AgentState {
    Created,
    Validating,
    Validated,
    Deploying,
    Warming,
    Ready,
    Busy,
    Blocked,
    Degraded,
    Unhealthy,
    Hibernating,
    Draining,
    Offline,
    Retired,
    Failed,
    ForceStopped,
}

impl AgentState {
    /// Every state, in the order of the contract.
    pub const ALL: [Self; 16] = [
        Self::Created,
        Self::Validating,
        Self::Validated,
        Self::Deploying,
        Self::Warming,
        Self::Ready,
        Self::Busy,
        Self::Blocked,
        Self::Degraded,
        Self::Unhealthy,
        Self::Hibernating,
        Self::Draining,
        Self::Offline,
        Self::Retired,
        Self::Failed,
        Self::ForceStopped,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Validating => "validating",
            Self::Validated => "validated",
            Self::Deploying => "deploying",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Blocked => "blocked",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Hibernating => "hibernating",
            Self::Draining => "draining",
            Self::Offline => "offline",
            Self::Retired => "retired",
            Self::Failed => "failed",
            Self::ForceStopped => "force_stopped",
        }
    }

    /// Whether an agent in this state is given work.
    pub const fn takes_work(self) -> bool {
        matches!(self, Self::Ready | Self::Busy | Self::Degraded)
    }

    /// Whether somebody can see this of an agent; the others are ours to decide.
    pub const fn can_be_observed(self) -> bool {
        matches!(
            self,
            Self::Ready
                | Self::Busy
                | Self::Blocked
                | Self::Degraded
                | Self::Unhealthy
                | Self::Warming
                | Self::Offline
                | Self::Failed
        )
    }

    /// Nothing that is seen of it, or said by it, changes it any more; an operator, or a new
    /// process of it, does, but for `retired`.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Retired | Self::Failed | Self::ForceStopped)
    }

    /// The commands that this state allows. What is only recorded as ignored is allowed,
    /// too: a late report is no fault of its sender.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Retired => &["report", "observe"],
            Self::Failed | Self::ForceStopped => {
                &["register", "update", "deploy", "report", "restart", "retire", "observe", "drift"]
            }
            Self::Draining => &[
                "register",
                "update",
                "mark_ready",
                "report",
                "restart",
                "retire",
                "force_stop",
                "end_round",
                "observe",
                "assess",
                "hand_back",
                "drift",
            ],
            Self::Hibernating => &[
                "register",
                "update",
                "report",
                "wake",
                "restart",
                "retire",
                "force_stop",
                "begin_round",
                "end_round",
                "observe",
                "assess",
                "hand_back",
                "drift",
            ],
            Self::Offline => &[
                "register",
                "update",
                "deploy",
                "mark_ready",
                "report",
                "restart",
                "retire",
                "force_stop",
                "end_round",
                "observe",
                "assess",
                "schedule_restart",
                "quarantine",
                "drift",
            ],
            Self::Validating | Self::Validated | Self::Deploying => &[
                "register",
                "update",
                "deploy",
                "mark_ready",
                "report",
                "drain",
                "hibernate",
                "restart",
                "retire",
                "force_stop",
                "validate",
                "place",
                "observe",
                "assess",
                "schedule_restart",
                "quarantine",
                "drift",
            ],
            Self::Created
            | Self::Warming
            | Self::Ready
            | Self::Busy
            | Self::Blocked
            | Self::Degraded
            | Self::Unhealthy => &[
                "register",
                "update",
                "deploy",
                "mark_ready",
                "report",
                "drain",
                "hibernate",
                "wake",
                "restart",
                "retire",
                "force_stop",
                "begin_round",
                "end_round",
                "observe",
                "assess",
                "schedule_restart",
                "quarantine",
                "drift",
            ],
        }
    }
}
