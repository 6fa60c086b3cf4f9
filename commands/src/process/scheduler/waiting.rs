//! The tasks that could be given out now, in the order of service.
//!
//! A queue has a lane per shape, so that an agent's next task is the smallest of a
//! few lane heads, however many tasks wait that it must not have. Tasks that share a
//! concurrency key form groups: only the head of a group stands in its lane, and none
//! while a task of that key is in somebody's hands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use domain::{AgentId, TaskId, TenantId};

use super::entry::{Entry, Rank, Shape};
use crate::process::roster::AgentFacts;

type Lanes = BTreeMap<Arc<Shape>, BTreeSet<Rank>>;
/// A queue's lane.
type LaneId = (Arc<str>, Arc<Shape>);
type KeyId = (TenantId, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<TenantId, BTreeMap<Arc<str>, Lanes>>,
    keys: HashMap<KeyId, Key>,
    /// Came into a lane since they were last asked for.
    fresh: BTreeSet<Rank>,
}

#[derive(Debug, Default)]
struct Key {
    holders: usize,
    groups: BTreeMap<LaneId, BTreeSet<Rank>>,
}

impl Waiting {
    pub fn insert(&mut self, task: TaskId, entry: &Entry) {
        let rank = entry.rank(task);
        let Some(key) = &entry.key else { return self.expose(entry, rank) };
        let key = self.keys.entry((entry.tenant.clone(), key.clone())).or_default();
        let group = key.groups.entry((entry.queue.clone(), entry.shape.clone())).or_default();
        let before = group.first().copied();
        group.insert(rank);
        if key.holders == 0 && before.is_none_or(|head| rank < head) {
            if let Some(head) = before {
                self.withdraw(&entry.tenant, &entry.queue, &entry.shape, head);
            }
            self.expose(entry, rank);
        }
    }

    pub fn remove(&mut self, task: TaskId, entry: &Entry) {
        let rank = entry.rank(task);
        self.withdraw(&entry.tenant, &entry.queue, &entry.shape, rank);
        let Some(name) = &entry.key else { return };
        let id = (entry.tenant.clone(), name.clone());
        let Some(key) = self.keys.get_mut(&id) else { return };
        let place = (entry.queue.clone(), entry.shape.clone());
        let Some(group) = key.groups.get_mut(&place) else { return };
        let was_head = group.first() == Some(&rank);
        group.remove(&rank);
        let next = group.first().copied();
        if next.is_none() {
            key.groups.remove(&place);
        }
        let free = key.holders == 0;
        if free && key.groups.is_empty() {
            self.keys.remove(&id);
        }
        if free
            && was_head
            && let Some(next) = next
        {
            self.expose(entry, next);
        }
    }

    /// A task of this key is in somebody's hands.
    pub fn hold(&mut self, tenant: &TenantId, key: &Arc<str>) {
        let key = self.keys.entry((tenant.clone(), key.clone())).or_default();
        key.holders += 1;
        if key.holders == 1 {
            for ((queue, shape), rank) in heads(key) {
                self.withdraw(tenant, &queue, &shape, rank);
            }
        }
    }

    /// It is not any more.
    pub fn free(&mut self, tenant: &TenantId, key: &Arc<str>) {
        let id = (tenant.clone(), key.clone());
        let Some(key) = self.keys.get_mut(&id) else { return };
        key.holders = key.holders.saturating_sub(1);
        if key.holders > 0 {
            return;
        }
        let heads = heads(key);
        if heads.is_empty() {
            self.keys.remove(&id);
        }
        for ((queue, shape), rank) in heads {
            self.lane(tenant, &queue, &shape).insert(rank);
            self.fresh.insert(rank);
        }
    }

    /// Whether a task of this key is in somebody's hands.
    pub fn is_held(&self, tenant: &TenantId, key: &Arc<str>) -> bool {
        self.keys.get(&(tenant.clone(), key.clone())).is_some_and(|key| key.holders > 0)
    }

    /// The next task for an agent, of one queue or of any.
    pub fn next(&self, id: AgentId, agent: &AgentFacts, queue: Option<&str>) -> Option<Rank> {
        let queues = self.queues.get(&agent.tenant)?;
        let first = |lanes: &Lanes| {
            let fitting = lanes.iter().filter(|(shape, _)| shape.fits(id, agent));
            fitting.filter_map(|(_, lane)| lane.first().copied()).min()
        };
        match queue {
            Some(queue) => first(queues.get(queue)?),
            None => queues.values().filter_map(first).min(),
        }
    }

    /// Whether a task stands in a lane: it could be given out.
    pub fn is_exposed(&self, task: TaskId, entry: &Entry) -> bool {
        let lanes = self.queues.get(&entry.tenant).and_then(|queues| queues.get(&entry.queue));
        let lane = lanes.and_then(|lanes| lanes.get(&entry.shape));
        lane.is_some_and(|lane| lane.contains(&entry.rank(task)))
    }

    /// The tasks that came into a lane since the last call, in the order of service.
    pub fn take_fresh(&mut self) -> BTreeSet<Rank> {
        std::mem::take(&mut self.fresh)
    }

    /// Whether anything of a tenant could be given out.
    pub fn any(&self, tenant: &TenantId) -> bool {
        self.queues.contains_key(tenant)
    }

    fn lane(
        &mut self,
        tenant: &TenantId,
        queue: &Arc<str>,
        shape: &Arc<Shape>,
    ) -> &mut BTreeSet<Rank> {
        let queues = self.queues.entry(tenant.clone()).or_default();
        queues.entry(queue.clone()).or_default().entry(shape.clone()).or_default()
    }

    fn expose(&mut self, entry: &Entry, rank: Rank) {
        self.lane(&entry.tenant, &entry.queue, &entry.shape).insert(rank);
        self.fresh.insert(rank);
    }

    /// Takes a rank out of its lane; empty lanes, queues and tenants go with it.
    fn withdraw(&mut self, tenant: &TenantId, queue: &Arc<str>, shape: &Arc<Shape>, rank: Rank) {
        self.fresh.remove(&rank);
        let Some(queues) = self.queues.get_mut(tenant) else { return };
        let Some(lanes) = queues.get_mut(queue) else { return };
        let Some(lane) = lanes.get_mut(shape) else { return };
        lane.remove(&rank);
        if lane.is_empty() {
            lanes.remove(shape);
        }
        if lanes.is_empty() {
            queues.remove(queue);
        }
        if queues.is_empty() {
            self.queues.remove(tenant);
        }
    }
}

fn heads(key: &Key) -> Vec<(LaneId, Rank)> {
    key.groups.iter().filter_map(|(place, group)| Some((place.clone(), *group.first()?))).collect()
}
