//! Which tasks each agent holds, and since when it does nothing.

use std::collections::{BTreeSet, HashMap};

use domain::task::TaskEvent;
use domain::{AgentId, Recorded, TaskId, Timestamp};

/// A fold of the tasks' events, of those that are held alone.
#[derive(Debug, Default)]
pub(in crate::process) struct Held {
    holders: HashMap<TaskId, AgentId>,
    by_agent: HashMap<AgentId, BTreeSet<TaskId>>,
    /// When an agent last had something to do.
    idle_since: HashMap<AgentId, Timestamp>,
}

impl Held {
    /// Folds one event; names the agent whose tasks became more or fewer.
    pub fn apply(&mut self, recorded: &Recorded, event: &TaskEvent) -> Option<AgentId> {
        use TaskEvent as E;
        let task = TaskId(recorded.stream_id);
        match event {
            E::Assigned(given) => {
                self.holders.insert(task, given.agent_id);
                self.by_agent.entry(given.agent_id).or_default().insert(task);
                Some(given.agent_id)
            }
            E::Unassigned(_)
            | E::Released(_)
            | E::LeaseExpired(_)
            | E::ReviewRequested(_)
            | E::Completed(_)
            | E::AttemptFailed(_)
            | E::Failed(_)
            | E::DeadLettered(_)
            | E::Cancelled(_)
            | E::Archived(_) => {
                let agent = self.holders.remove(&task)?;
                if let Some(tasks) = self.by_agent.get_mut(&agent) {
                    tasks.remove(&task);
                    if tasks.is_empty() {
                        self.by_agent.remove(&agent);
                        self.idle_since.insert(agent, recorded.recorded_at);
                    }
                }
                Some(agent)
            }
            E::Submitted(_)
            | E::Updated(_)
            | E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::LeaseExtended(_)
            | E::Requeued(_)
            | E::Overdue(_)
            | E::Escalated(_) => None,
        }
    }

    /// The tasks that an agent holds.
    pub fn of(&self, agent: AgentId) -> impl Iterator<Item = TaskId> + '_ {
        self.by_agent.get(&agent).into_iter().flatten().copied()
    }

    /// How many they are.
    pub fn count(&self, agent: AgentId) -> usize {
        self.by_agent.get(&agent).map_or(0, BTreeSet::len)
    }

    /// When it last gave a task out of its hands.
    pub fn idle_since(&self, agent: AgentId) -> Option<Timestamp> {
        self.idle_since.get(&agent).copied()
    }

    /// It is gone for good.
    pub fn forget(&mut self, agent: AgentId) {
        self.idle_since.remove(&agent);
    }
}
