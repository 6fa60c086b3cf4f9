//! The node's rules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::*;
use super::event::*;
use crate::decide::{Facts, Refusal};
use crate::problem::Code;
use crate::task::TaskNoted;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is there and takes agents.
    Online,
    /// It is there, keeps what it cannot hand over yet, and takes nothing new.
    Draining,
    /// It fell silent.
    Offline,
    /// Gone for good.
    Retired,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Online, Self::Draining, Self::Offline, Self::Retired];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Offline => "offline",
            Self::Retired => "retired",
        }
    }

    /// The commands that this state allows.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Online => &["register", "drain", "assess", "retire"],
            Self::Offline => &["register", "drain", "resume", "assess", "retire"],
            Self::Draining => &["register", "resume", "assess", "retire"],
            Self::Retired => &[],
        }
    }
}

/// A host that starts agents.
///
/// Invariant: `Retired` is final.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// `None` until registered.
    pub state: Option<NodeState>,
    /// Told to drain and not told otherwise since, whether or not it is there.
    pub draining: bool,
    /// Unique in the tenant until retired.
    pub name: String,
}

impl Node {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command.
    pub fn decide(&self, command: &NodeCommand, _: &Facts) -> Result<Vec<NodeEvent>, Refusal> {
        use NodeCommand as C;
        use NodeEvent as E;
        let Some(state) = self.state else {
            let C::Register(new) = command else {
                return Err(Refusal::unknown("node"));
            };
            return Ok(vec![E::Registered(new.clone())]);
        };
        if !state.allowed().contains(&command.name()) {
            return Err(Refusal::illegal(command.name(), state.as_str(), state.allowed()));
        }
        let noted = |why: &Reason| TaskNoted { reason: why.reason.clone() };
        Ok(vec![match command {
            C::Register(new) if new.name != self.name => {
                let detail = format!("this node is registered as `{}`", self.name);
                return Err(Refusal::new(Code::AlreadyExists, detail));
            }
            C::Register(new) => E::Reconnected(new.clone()),
            C::Drain(why) => E::Draining(noted(why)),
            C::Resume(why) => E::Resumed(noted(why)),
            C::Assess(seen)
                if (seen.state == NodeState::Offline) == (state == NodeState::Offline) =>
            {
                return Ok(vec![]);
            }
            C::Assess(seen) => E::Assessed(seen.clone()),
            C::Retire(why) => {
                E::Retired(NodeRetired { name: self.name.clone(), reason: why.reason.clone() })
            }
        }])
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &NodeEvent) {
        use NodeEvent as E;
        match event {
            E::Registered(new) | E::Reconnected(new) => self.name.clone_from(&new.name),
            E::Draining(_) => self.draining = true,
            E::Resumed(_) => self.draining = false,
            E::Assessed(_) | E::Retired(_) => {}
        }
        let there = if self.draining { NodeState::Draining } else { NodeState::Online };
        self.state = Some(match event {
            E::Retired(_) => NodeState::Retired,
            E::Assessed(seen) if seen.state == NodeState::Offline => NodeState::Offline,
            E::Draining(_) | E::Resumed(_) if self.state == Some(NodeState::Offline) => {
                NodeState::Offline
            }
            E::Registered(_)
            | E::Reconnected(_)
            | E::Draining(_)
            | E::Resumed(_)
            | E::Assessed(_) => there,
        });
    }
}

aggregate!(Node, "node", NodeCommand, NodeEvent);
