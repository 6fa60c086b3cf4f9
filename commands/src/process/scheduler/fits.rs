//! Who could have a task, asked without giving it out.

use std::cmp::Reverse;

use domain::task::Rejected;
use domain::{AgentId, TaskId, TenantId};

use super::core::Scheduler;

/// Agents named at most.
const NAMED: usize = 100;

/// Who could have a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fits {
    /// The best first.
    pub agents: Vec<Fit>,
    /// How many there are, those that are not named included.
    pub of: usize,
    /// How many of the tenant's other agents there are, by what speaks against them. Those
    /// that take no work now are not counted.
    pub rejected: Rejected,
}

/// An agent that could have a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Which.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// The most are best.
    pub points: i64,
    /// How many more tasks it has room for.
    pub free_slots: usize,
    /// A claim of it waits on the task's queue, or it listens.
    pub asks: bool,
}

impl Scheduler {
    /// Who could have a task that is open; `None` where none is of that id.
    pub(super) fn fits(&self, tenant: &TenantId, task: TaskId) -> Option<Fits> {
        let entry = self.board.task(task).filter(|entry| entry.tenant == *tenant)?;
        let scoring = self.board.waiting.scoring(tenant, &entry.queue);
        let (mut agents, mut rejected) = (Vec::new(), Rejected::default());
        for (id, facts) in self.board.roster.iter() {
            if facts.tenant != *tenant || !(facts.state.takes_work() || facts.can_be_revived()) {
                continue;
            }
            if let Err(why) = entry.shape.judge(id, facts) {
                rejected.add(why, 1);
                continue;
            }
            let held = self.board.count_held(id);
            agents.push(Fit {
                agent: id,
                name: facts.name.clone(),
                points: entry.shape.points(id, facts, held, &scoring),
                free_slots: facts.slots.saturating_sub(held),
                asks: self.listens(id) || self.waiters.first_of(id, &entry.queue).is_some(),
            });
        }
        let of = agents.len();
        // As the choice goes: who has no room is not among those it looks at.
        let order = |fit: &Fit| (fit.free_slots == 0, Reverse(fit.points), fit.agent);
        agents.sort_by_key(order);
        agents.truncate(NAMED);
        Some(Fits { agents, of, rejected })
    }
}
