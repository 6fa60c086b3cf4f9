//! Claims that wait for work, first come, first served.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::task::Assignment;
use domain::{AgentId, TenantId};
use tokio::sync::oneshot;

/// Waiting claims at most, in all.
const MOST_WAITING: usize = 10_000;

/// How a claimant wants what it gets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    pub lease_ms: Option<u64>,
    /// Started in the same commit.
    pub start: bool,
}

/// One claim that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub tenant: TenantId,
    pub queue: String,
    pub agent: AgentId,
    pub max: usize,
    pub terms: Terms,
    /// An empty answer: ask again, the agent's state has changed.
    pub answer: oneshot::Sender<Vec<Assignment>>,
}

/// All of them, by age, by queue and by agent.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: u64,
    all: BTreeMap<u64, Waiter>,
    by_queue: BTreeMap<TenantId, BTreeMap<String, BTreeSet<u64>>>,
    by_agent: HashMap<AgentId, BTreeSet<u64>>,
}

impl Waiters {
    /// Takes a claim in; `None` when there are too many.
    pub fn add(&mut self, waiter: Waiter) -> Option<u64> {
        if self.all.len() >= MOST_WAITING {
            return None;
        }
        self.last += 1;
        let queues = self.by_queue.entry(waiter.tenant.clone()).or_default();
        queues.entry(waiter.queue.clone()).or_default().insert(self.last);
        self.by_agent.entry(waiter.agent).or_default().insert(self.last);
        self.all.insert(self.last, waiter);
        Some(self.last)
    }

    /// Takes a claim out; `None` when it is not waiting any more.
    pub fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.all.remove(&id)?;
        if let Some(queues) = self.by_queue.get_mut(&waiter.tenant) {
            if let Some(ids) = queues.get_mut(&waiter.queue) {
                ids.remove(&id);
                if ids.is_empty() {
                    queues.remove(&waiter.queue);
                }
            }
            if queues.is_empty() {
                self.by_queue.remove(&waiter.tenant);
            }
        }
        if let Some(ids) = self.by_agent.get_mut(&waiter.agent) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_agent.remove(&waiter.agent);
            }
        }
        Some(waiter)
    }

    pub fn get(&self, id: u64) -> Option<&Waiter> {
        self.all.get(&id)
    }

    /// The claims on a queue, oldest first.
    pub fn on_queue(&self, tenant: &TenantId, queue: &str) -> impl Iterator<Item = (u64, &Waiter)> {
        let ids = self.by_queue.get(tenant).and_then(|queues| queues.get(queue));
        ids.into_iter().flatten().filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// The claims of an agent, oldest first.
    pub fn of_agent(&self, agent: AgentId) -> Vec<u64> {
        self.by_agent.get(&agent).into_iter().flatten().copied().collect()
    }

    /// Whether the agent waits with any claim.
    pub fn has(&self, agent: AgentId) -> bool {
        self.by_agent.contains_key(&agent)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}
