//! Ids that are the same after a restart and in a repeated message.

use domain::{AgentId, TaskId, TenantId};
use uuid::Uuid;

/// The id of the agent of a name: the same on every start and every host.
///
/// A retired agent's id is used up while its name is free again; `generation` counts how
/// often that has happened, from 1.
pub fn agent_id(tenant: &TenantId, name: &str, generation: u32) -> AgentId {
    // No slug holds a line break, so no two pairs of tenant and name read alike.
    let text = match generation {
        0 | 1 => format!("agent\n{tenant}\n{name}"),
        later => format!("agent\n{tenant}\n{name}\n{later}"),
    };
    AgentId(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
}

/// The id of an agent's command about a task under one lease, so that a repeat is known
/// as one. `nth` tells the extensions of a lease apart.
///
/// `run` is of this process alone: were two processes to speak for one agent, each would
/// take the answer to the other's `start` for its own and both would do the work.
pub fn command_id(run: Uuid, task: TaskId, lease_token: u64, verb: &str, nth: u64) -> Uuid {
    Uuid::new_v5(&task.0, format!("{run}\n{lease_token}\n{verb}\n{nth}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_id_per_tenant_and_life() {
        let (one, two) = (TenantId::parse("one").unwrap(), TenantId::parse("two").unwrap());
        let id = agent_id(&one, "builder", 1);
        assert_eq!(id, agent_id(&one, "builder", 1));
        for other in [
            agent_id(&two, "builder", 1),
            agent_id(&one, "builder2", 1),
            agent_id(&one, "builder", 2),
            agent_id(&one, "builder", 3),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_commands_id_depends_on_run_task_lease_verb_and_turn() {
        let run = Uuid::from_u128(1);
        let id = command_id(run, TaskId::nth(1), 1, "complete", 0);
        assert_eq!(id, command_id(run, TaskId::nth(1), 1, "complete", 0));
        for other in [
            command_id(Uuid::from_u128(2), TaskId::nth(1), 1, "complete", 0),
            command_id(run, TaskId::nth(2), 1, "complete", 0),
            command_id(run, TaskId::nth(1), 2, "complete", 0),
            command_id(run, TaskId::nth(1), 1, "fail", 0),
            command_id(run, TaskId::nth(1), 1, "complete", 1),
        ] {
            assert_ne!(id, other);
        }
    }
}
