//! Crews: teams of agents, described by a manifest. A skeleton so far: the
//! events exist and fold; assembling agents comes with the node daemon.
//!
//! Invariant: a disbanded crew never comes back.

mod upcast;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decide::{Facts, Refusal};
use crate::ids::AgentId;
use crate::json::Json;
use crate::macros::Body;
use crate::problem::{Code, FieldError};
use crate::task::{Reason, TaskNoted};
use crate::values::Check;
use upcast::UPCASTS;

commands! {
    /// The commands of a crew.
    CrewCommand {
        /// Asks for the agents of a manifest.
        Assemble(AssembleCrew) = "assemble",
        /// Gives an agent a role in it.
        AssignRole(AssignRole) = "assign_role",
        /// Ends it.
        Disband(Reason) = "disband",
    }
}

events! {
    /// The events of a crew.
    CrewEvent of "crew" upcast UPCASTS;
    {
        /// The agents of a manifest are asked for.
        AssemblyRequested(AssembleCrew) = "assembly_requested" v 1,
        /// An agent got a role in it.
        RoleAssigned(AssignRole) = "role_assigned" v 1,
        /// It ended.
        Disbanded(TaskNoted) = "disbanded" v 1,
    }
}

/// Asks for the agents of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssembleCrew {
    /// The crew's name.
    pub name: String,
    /// The manifest's agents, as given.
    pub agents: Json,
}

impl Body for AssembleCrew {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().text("name", &self.name, 1, 128).value("agents", &self.agents).done()
    }
}

/// Gives an agent a role in a crew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignRole {
    /// The agent.
    pub agent_id: AgentId,
    /// The role.
    pub role: String,
}

impl Body for AssignRole {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().token("role", &self.role).done()
    }
}

/// A team of agents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Crew {
    /// Whether it has been asked for.
    pub exists: bool,
    /// Whether it has ended.
    pub disbanded: bool,
}

impl Crew {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command.
    pub fn decide(&self, command: &CrewCommand, _: &Facts) -> Result<Vec<CrewEvent>, Refusal> {
        match (self.exists, self.disbanded, command) {
            (false, _, CrewCommand::Assemble(new)) => {
                Ok(vec![CrewEvent::AssemblyRequested(new.clone())])
            }
            (true, _, CrewCommand::Assemble(_)) => {
                Err(Refusal::new(Code::AlreadyExists, "a crew of this id exists already"))
            }
            (false, ..) => Err(Refusal::unknown("crew")),
            (true, true, _) => Err(Refusal::illegal(command.name(), "disbanded", &[])),
            (true, false, CrewCommand::AssignRole(role)) => {
                Ok(vec![CrewEvent::RoleAssigned(role.clone())])
            }
            (true, false, CrewCommand::Disband(why)) => {
                Ok(vec![CrewEvent::Disbanded(TaskNoted { reason: why.reason.clone() })])
            }
        }
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &CrewEvent) {
        match event {
            CrewEvent::AssemblyRequested(_) => self.exists = true,
            CrewEvent::RoleAssigned(_) => {}
            CrewEvent::Disbanded(_) => self.disbanded = true,
        }
    }
}

aggregate!(Crew, "crew", CrewCommand, CrewEvent);
