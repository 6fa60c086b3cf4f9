//! Claims that wait for work, first come, first served.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::task::Assignment;
use domain::{AgentId, TenantId};
use tokio::sync::oneshot;

use super::matching::{Asker, Listed};
use crate::process::roster::Abilities;

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

#[derive(Debug)]
struct Claim {
    waiter: Waiter,
    /// It has all it asked for and is about to be answered.
    full: bool,
    /// Where it stands in the index, if it could take something.
    listed: Option<(Abilities, u64)>,
}

/// All of them, by age and by agent; those that could take something also by queue, as
/// askers.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: u64,
    all: BTreeMap<u64, Claim>,
    by_queue: BTreeMap<TenantId, BTreeMap<String, Listed>>,
    by_agent: HashMap<AgentId, BTreeSet<u64>>,
}

impl Waiters {
    /// Takes a claim in, not listed yet; `None` when there are too many.
    pub fn add(&mut self, waiter: Waiter) -> Option<u64> {
        if self.all.len() >= MOST_WAITING {
            return None;
        }
        self.last += 1;
        self.by_agent.entry(waiter.agent).or_default().insert(self.last);
        self.all.insert(self.last, Claim { waiter, full: false, listed: None });
        Some(self.last)
    }

    /// Takes a claim out; `None` when it is not waiting any more.
    pub fn remove(&mut self, id: u64) -> Option<Waiter> {
        self.list_claim(id, None);
        let waiter = self.all.remove(&id)?.waiter;
        if let Some(ids) = self.by_agent.get_mut(&waiter.agent) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_agent.remove(&waiter.agent);
            }
        }
        Some(waiter)
    }

    pub fn get(&self, id: u64) -> Option<&Waiter> {
        self.all.get(&id).map(|claim| &claim.waiter)
    }

    /// The claim has all it asked for: it is offered nothing more.
    pub fn fill(&mut self, id: u64) {
        if let Some(claim) = self.all.get_mut(&id) {
            claim.full = true;
        }
        self.list_claim(id, None);
    }

    /// Lists the claims of an agent by what it can do and its burden, or no more where it
    /// can take nothing.
    pub fn list(&mut self, agent: AgentId, as_what: Option<(&Abilities, u64)>) {
        for id in self.of_agent(agent) {
            let open = self.all.get(&id).is_some_and(|claim| !claim.full);
            self.list_claim(id, as_what.filter(|_| open));
        }
    }

    fn list_claim(&mut self, id: u64, as_what: Option<(&Abilities, u64)>) {
        let Some(claim) = self.all.get_mut(&id) else { return };
        let listed = claim.listed.as_ref().map(|(abilities, burden)| (abilities, *burden));
        if listed == as_what {
            return;
        }
        let agent = claim.waiter.agent;
        let (tenant, queue) = (&claim.waiter.tenant, &claim.waiter.queue);
        if let Some((old, burden)) = claim.listed.take()
            && let Some(queues) = self.by_queue.get_mut(tenant)
            && let Some(of_queue) = queues.get_mut(queue)
        {
            if let Some(ids) = of_queue.get_mut(&old) {
                ids.remove(&(burden, id, agent));
                if ids.is_empty() {
                    of_queue.remove(&old);
                }
            }
            if of_queue.is_empty() {
                queues.remove(queue);
            }
            if queues.is_empty() {
                self.by_queue.remove(tenant);
            }
        }
        if let Some((new, burden)) = as_what {
            let queues = self.by_queue.entry(tenant.clone()).or_default();
            let of_queue = queues.entry(queue.clone()).or_default();
            of_queue.entry(new.clone()).or_default().insert((burden, id, agent));
            claim.listed = Some((new.clone(), burden));
        }
    }

    /// The claims on a queue that could take something.
    pub fn asking(&self, tenant: &TenantId, queue: &str) -> Option<&Listed> {
        self.by_queue.get(tenant)?.get(queue)
    }

    /// The oldest listed claim of an agent on a queue.
    pub fn first_of(&self, agent: AgentId, queue: &str) -> Option<Asker> {
        let ids = self.by_agent.get(&agent)?;
        ids.iter().find_map(|id| {
            let claim = self.all.get(id).filter(|claim| claim.waiter.queue == queue)?;
            Some((claim.listed.as_ref()?.1, *id, agent))
        })
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
