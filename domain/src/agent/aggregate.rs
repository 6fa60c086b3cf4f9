//! The agent's rules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::*;
use super::event::*;
use crate::decide::{Facts, Refusal};
use crate::problem::Code;
use crate::task::TaskNoted;

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

    /// The commands that this state allows.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Retired => &[],
            Self::Draining => {
                &["register", "update", "mark_ready", "report", "restart", "retire", "force_stop"]
            }
            Self::Hibernating => {
                &["register", "update", "report", "wake", "restart", "retire", "force_stop"]
            }
            Self::Offline | Self::Failed | Self::ForceStopped => {
                &["register", "update", "deploy", "mark_ready", "report", "restart", "retire"]
            }
            Self::Created
            | Self::Validating
            | Self::Validated
            | Self::Deploying
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
                "restart",
                "retire",
                "force_stop",
            ],
        }
    }
}

/// A worker of the fleet.
///
/// Invariant: `Retired` is final.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// `None` until registered.
    pub state: Option<AgentState>,
    /// Unique in the tenant until retired.
    pub name: String,
}

impl Agent {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command.
    pub fn decide(
        &self,
        command: &AgentCommand,
        _facts: &Facts,
    ) -> Result<Vec<AgentEvent>, Refusal> {
        use AgentCommand as C;
        use AgentEvent as E;
        use AgentState as S;

        let Some(state) = self.state else {
            let C::Register(new) = command else {
                return Err(Refusal::unknown("agent"));
            };
            return Ok(vec![E::Registered(registered(new))]);
        };
        if !state.allowed().contains(&command.name()) {
            return Err(Refusal::illegal(command.name(), state.as_str(), state.allowed()));
        }
        let noted = |why: &Reason| TaskNoted { reason: why.reason.clone() };
        Ok(vec![match command {
            C::Register(new) if new.name != self.name => {
                let detail = format!("this agent is registered as `{}`", self.name);
                return Err(Refusal::new(Code::AlreadyExists, detail));
            }
            C::Register(new) => E::Reconnected(registered(new)),
            C::Update(changes) => E::Updated(changes.clone()),
            C::Deploy(why) => E::DeployRequested(noted(why)),
            C::MarkReady(_) if state == S::Ready => return Ok(vec![]),
            C::MarkReady(why) => E::Ready(noted(why)),
            C::Report(seen) if seen.observed_state == state => return Ok(vec![]),
            // The last words of a process that is being killed must not revive it.
            C::Report(_) if state == S::ForceStopped => return Ok(vec![]),
            // What it is told to do outweighs what it says of itself, but for its end.
            C::Report(seen)
                if matches!(state, S::Draining | S::Hibernating)
                    && !matches!(seen.observed_state, S::Offline | S::Failed) =>
            {
                return Ok(vec![]);
            }
            C::Report(seen) => E::Reported(AgentReported {
                observed_state: seen.observed_state,
                reason: seen.reason.clone(),
            }),
            C::Drain(why) => E::Draining(noted(why)),
            C::Hibernate(why) => E::Hibernated(noted(why)),
            C::Wake(why) => E::Woken(noted(why)),
            C::Restart(why) => E::Restarted(noted(why)),
            C::Retire(why) => {
                E::Retired(AgentRetired { name: self.name.clone(), reason: why.reason.clone() })
            }
            C::ForceStop(why) => E::ForceStopped(noted(why)),
        }])
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &AgentEvent) {
        if let AgentEvent::Registered(new) | AgentEvent::Reconnected(new) = event {
            self.name.clone_from(&new.name);
        }
        self.state = state_after(self.state, event);
    }
}

/// The state that an event leads to; shared with the registry's fold.
pub fn state_after(before: Option<AgentState>, event: &AgentEvent) -> Option<AgentState> {
    use AgentEvent as E;
    Some(match event {
        E::Registered(_) | E::Reconnected(_) => AgentState::Created,
        E::Updated(_) => return before,
        E::DeployRequested(_) | E::Restarted(_) => AgentState::Deploying,
        E::Ready(_) => AgentState::Ready,
        E::Reported(seen) => seen.observed_state,
        E::Draining(_) => AgentState::Draining,
        E::Hibernated(_) => AgentState::Hibernating,
        E::Woken(_) => AgentState::Warming,
        E::Retired(_) => AgentState::Retired,
        E::ForceStopped(_) => AgentState::ForceStopped,
    })
}

fn registered(new: &RegisterAgent) -> AgentRegistered {
    let new = new.clone();
    AgentRegistered {
        session_key: format!("agent:{}:{}", new.role, new.name),
        name: new.name,
        role: new.role,
        capabilities: new.capabilities,
        labels: new.labels,
        slots: new.slots,
        memory_context: new.memory_context,
        profile: new.profile,
        version: new.version,
        endpoint: new.endpoint,
        ttl_ms: new.ttl_ms,
        cost: new.cost,
    }
}

aggregate!(Agent, "agent", AgentCommand, AgentEvent);
