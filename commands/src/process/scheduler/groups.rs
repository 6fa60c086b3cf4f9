//! Tasks that a limit counts together, by a value of their own.
//!
//! A *gate* is one key of a limit: it opens and closes with what runs of it. A *group*
//! is what waits in one lane behind the same gates. A gate that opens or closes costs a
//! look at each group behind it, however many tasks they have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use domain::{TaskId, TenantId};

use super::entry::{Entry, Rank};
use super::matching::Shape;
use super::rules::{Limit, Meter, Standing};
use super::waiting::{Place, Queue, QueueId, limit_of};

/// One key of a limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum GateId {
    /// A concurrency key, in whichever queue.
    Key(TenantId, Arc<str>),
    /// The value of an expression, in one queue.
    Value { tenant: TenantId, queue: Arc<str>, expression: Arc<str>, value: Arc<str> },
}

/// What names a group.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId {
    pub queue: QueueId,
    shape: Arc<Shape>,
    gates: Vec<GateId>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    ranks: BTreeSet<Rank>,
    /// Those that stand in the lane.
    exposed: Vec<Place>,
}

#[derive(Debug, Clone, Default)]
struct Gate {
    meter: Meter,
    groups: BTreeSet<Arc<GroupId>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    groups: BTreeMap<Arc<GroupId>, Group>,
    gates: HashMap<GateId, Gate>,
    /// Gates that a rate opens at a time, in microseconds.
    timed: BTreeSet<(i64, GateId)>,
}

impl Groups {
    /// Takes a rank in; the group must be refreshed afterwards.
    pub fn insert(&mut self, entry: &Entry, gates: Vec<GateId>, rank: Rank) -> Arc<GroupId> {
        let id = group_id(entry, gates);
        let id = match self.groups.get_key_value(&id) {
            Some((known, _)) => known.clone(),
            None => Arc::new(id),
        };
        for gate in &id.gates {
            self.gates.entry(gate.clone()).or_default().groups.insert(id.clone());
        }
        self.groups.entry(id.clone()).or_default().ranks.insert(rank);
        id
    }

    /// Takes a rank out; the group must be refreshed afterwards.
    pub fn remove(&mut self, entry: &Entry, gates: Vec<GateId>, rank: Rank) -> Arc<GroupId> {
        let id = Arc::new(group_id(entry, gates));
        if let Some(group) = self.groups.get_mut(&id) {
            group.ranks.remove(&rank);
        }
        id
    }

    /// Has exactly those of a group stand in its lane that may.
    pub fn refresh(
        &mut self,
        id: &Arc<GroupId>,
        queue: &mut Queue,
        now: i64,
        fresh: &mut BTreeSet<Rank>,
    ) {
        let (mut open, mut below, mut opens) = (true, false, None);
        for gate in &id.gates {
            let Some(limit) = limit_of(&queue.rules, gate) else { continue };
            match self.standing(gate, limit, now) {
                Standing::Open { below: this } => below |= this,
                Standing::Until(at) => {
                    open = false;
                    opens = opens.max(Some((at, gate.clone())));
                }
                Standing::Full => open = false,
            }
        }
        let Some(group) = self.groups.get_mut(id) else { return };
        let tier = u8::from(!below);
        let wanted: Vec<Place> = if open {
            first_of_each(&group.ranks).map(|rank| (tier, rank)).collect()
        } else {
            vec![]
        };
        if wanted != group.exposed {
            let lane = queue.lanes.entry(id.shape.clone()).or_default();
            for gone in group.exposed.iter().filter(|place| !wanted.contains(place)) {
                lane.remove(gone);
                if !wanted.iter().any(|(_, rank)| *rank == gone.1) {
                    fresh.remove(&gone.1);
                }
            }
            for new in wanted.iter().filter(|place| !group.exposed.contains(place)) {
                lane.insert(*new);
                fresh.insert(new.1);
            }
            if lane.is_empty() {
                queue.lanes.remove(&id.shape);
            }
        }
        group.exposed = wanted;
        if group.ranks.is_empty() {
            self.groups.remove(id);
            for gate in &id.gates {
                if let Some(known) = self.gates.get_mut(gate) {
                    known.groups.remove(id);
                }
                self.tidy(gate, now);
            }
        } else if let Some(opens) = opens {
            self.timed.insert(opens);
        }
    }

    pub fn meter(&mut self, gate: &GateId) -> &mut Meter {
        &mut self.gates.entry(gate.clone()).or_default().meter
    }

    pub fn standing(&self, gate: &GateId, limit: &Limit, now: i64) -> Standing {
        let none = Meter::default();
        self.gates.get(gate).map_or(&none, |gate| &gate.meter).standing(limit, now)
    }

    /// The groups behind a gate.
    pub fn behind(&self, gate: &GateId) -> Vec<Arc<GroupId>> {
        self.gates.get(gate).into_iter().flat_map(|gate| gate.groups.iter().cloned()).collect()
    }

    /// The groups of a queue.
    pub fn of_queue(&self, tenant: &TenantId, name: &Arc<str>) -> Vec<Arc<GroupId>> {
        let of_queue = |id: &&Arc<GroupId>| id.queue.0 == *tenant && id.queue.1 == *name;
        self.groups.keys().filter(of_queue).cloned().collect()
    }

    /// The gates that a rate opens by now.
    pub fn due(&mut self, now: i64) -> Vec<GateId> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.timed.first()
            && *at <= now
        {
            due.extend(self.timed.pop_first().map(|(_, gate)| gate));
        }
        due
    }

    pub fn next_due(&self) -> Option<i64> {
        self.timed.first().map(|(at, _)| *at)
    }

    /// Forgets a gate that nothing waits behind, nothing runs of and no rate remembers.
    pub fn tidy(&mut self, gate: &GateId, now: i64) {
        let Some(known) = self.gates.get(gate) else { return };
        if known.meter.running > 0 || !known.groups.is_empty() {
            return;
        }
        let until = known.meter.remembered_until();
        if until > now {
            self.timed.insert((until, gate.clone()));
        } else {
            self.gates.remove(gate);
        }
    }
}

fn group_id(entry: &Entry, gates: Vec<GateId>) -> GroupId {
    GroupId {
        queue: (entry.tenant.clone(), entry.queue.clone()),
        shape: entry.shape.clone(),
        gates,
    }
}

/// The first of each priority.
fn first_of_each(ranks: &BTreeSet<Rank>) -> impl Iterator<Item = Rank> {
    let after = move |rank: &Rank| {
        let last =
            Rank { since: i64::MAX, position: u64::MAX, task: TaskId(uuid::Uuid::max()), ..*rank };
        ranks.range(last..).next().copied()
    };
    std::iter::successors(ranks.first().copied(), after)
}
