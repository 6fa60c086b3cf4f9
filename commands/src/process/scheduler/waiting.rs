//! The tasks that could be given out now, in the order of service.
//!
//! A queue has a lane per shape, so that an agent's next task is the best of a few lane
//! heads, however many tasks wait that it must not have. Tasks that a limit counts by a
//! value of their own (a concurrency key, an expression's value) form groups: only the
//! heads of a group stand in its lane, and none while a limit of theirs is reached.
//! Limits on the queue or the tenant, and a pause, are looked at when the queue is asked.
//!
//! Invariants: a rank stands in a lane exactly if it has no group, or is the first of
//! its priority in a group whose gates are open (`Groups::refresh` restores this after
//! every change); a task that came after a drain began stands in `parked` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::queue::{QueueEvent, QueueMode, Scoring};
use domain::task::{Candidate, MAX_CANDIDATES, Rejected};
use domain::{AgentId, TaskId, TenantId};

use super::entry::{Entry, Rank};
use super::groups::{GateId, Groups};
use super::matching::Shape;
use super::rules::{Limit, Meter, Rules, Standing};
use super::share::{Served, VirtualTime};
use crate::process::roster::AgentFacts;

/// Below its guarantee (0) or not (1), then the order of service.
pub(super) type Place = (u8, Rank);
pub(super) type Lane = BTreeSet<Place>;
pub(super) type QueueId = (TenantId, Arc<str>);

/// Everything that waits in a queue, and what holds for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    pub rules: Rules,
    pub lanes: BTreeMap<Arc<Shape>, Lane>,
    parked: BTreeSet<Rank>,
    pub meter: Meter,
    time: VirtualTime,
    levels: [Served; 5],
    served: Served,
}

#[derive(Debug, Clone, Default)]
struct Tenant {
    queues: BTreeMap<Arc<str>, Queue>,
    meter: Meter,
    time: VirtualTime,
    /// Queues whose policy limits what runs of the tenant.
    limited: BTreeSet<Arc<str>>,
}

/// What an agent is given next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub rank: Rank,
    /// The urgency that it counts as.
    pub level: usize,
    /// Its turn, for the record: the most comes first.
    pub score: i64,
}

/// What an agent could be given, the next first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub best: Vec<Next>,
    /// Tasks at the head of a lane, or behind one, that fit.
    pub of: usize,
    /// Tasks that do not.
    pub rejected: Rejected,
}

impl Turns {
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |next: &Next| Candidate { id: next.rank.task.0, score: next.score };
        self.best.iter().map(candidate).collect()
    }
}

/// Why a queue gives nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    Paused,
    /// Its own limit, or the tenant's.
    Queue(Standing),
    Tenant(Standing),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    tenants: BTreeMap<TenantId, Tenant>,
    groups: Groups,
    /// Came into a lane since they were last asked for.
    fresh: BTreeSet<Rank>,
    /// Give out again since they were last asked for.
    reopened: BTreeSet<QueueId>,
    /// Queues whose rate lets the next one pass at a time.
    timed: BTreeSet<(i64, QueueId)>,
    /// In microseconds.
    now: i64,
}

impl Waiting {
    pub fn insert(&mut self, task: TaskId, entry: &Entry) {
        let rank = entry.rank(task);
        let queue = queue_of(&mut self.tenants, &entry.tenant, &entry.queue);
        if queue.rules.parks(entry.position) {
            queue.parked.insert(rank);
            return;
        }
        let gates = entry.gates();
        if gates.is_empty() {
            queue.lanes.entry(entry.shape.clone()).or_default().insert((1, rank));
            self.fresh.insert(rank);
            return;
        }
        let group = self.groups.insert(entry, gates, rank);
        self.groups.refresh(&group, queue, self.now, &mut self.fresh);
    }

    pub fn remove(&mut self, task: TaskId, entry: &Entry) {
        let rank = entry.rank(task);
        self.fresh.remove(&rank);
        let queue = queue_of(&mut self.tenants, &entry.tenant, &entry.queue);
        if queue.parked.remove(&rank) {
            return;
        }
        let gates = entry.gates();
        if gates.is_empty() {
            if let Some(lane) = queue.lanes.get_mut(&entry.shape) {
                lane.remove(&(1, rank));
                if lane.is_empty() {
                    queue.lanes.remove(&entry.shape);
                }
            }
        } else {
            let group = self.groups.remove(entry, gates, rank);
            self.groups.refresh(&group, queue, self.now, &mut self.fresh);
        }
    }

    /// A task is in somebody's hands, or on the way there, since `at`.
    pub fn hold(&mut self, task: TaskId, entry: &Entry, at: i64) {
        let tenant = self.tenants.entry(entry.tenant.clone()).or_default();
        let queue = tenant.queues.entry(entry.queue.clone()).or_default();
        let level = queue.rules.level(&entry.rank(task), at);
        queue.time.serve(&mut queue.levels[level], queue.rules.weights[level]);
        tenant.time.serve(&mut queue.served, queue.rules.weight);
        tenant.meter.take(queue.rules.tenant.as_ref(), at, entry.position);
        queue.meter.take(queue.rules.queue.as_ref(), at, entry.position);
        for (limit, meter) in
            [(queue.rules.tenant, &tenant.meter), (queue.rules.queue, &queue.meter)]
        {
            if let Some(limit) = limit
                && let Standing::Until(time) = meter.standing(&limit, at)
            {
                self.timed.insert((time, (entry.tenant.clone(), entry.queue.clone())));
            }
        }
        let gates = entry.gates();
        for gate in &gates {
            self.groups.meter(gate).take(limit_of(&queue.rules, gate), at, entry.position);
        }
        for gate in gates {
            self.regroup(&gate);
        }
    }

    /// It is not any more. `taken` is false where its assignment did not come about.
    pub fn free(&mut self, entry: &Entry, taken: bool) {
        let tenant = self.tenants.entry(entry.tenant.clone()).or_default();
        // Those that were full give out again, and so may those that get a turn back.
        let full = |limit: &Option<Limit>, meter: &Meter| {
            limit.is_some_and(|limit| !taken || meter.standing(&limit, 0) == Standing::Full)
        };
        let of_tenant = tenant.limited.iter().filter(|name| {
            let queue = tenant.queues.get(*name);
            queue.is_some_and(|queue| full(&queue.rules.tenant, &tenant.meter))
        });
        self.reopened.extend(of_tenant.map(|name| (entry.tenant.clone(), name.clone())));
        let queue = tenant.queues.entry(entry.queue.clone()).or_default();
        if full(&queue.rules.queue, &queue.meter) {
            self.reopened.insert((entry.tenant.clone(), entry.queue.clone()));
        }
        tenant.meter.free();
        queue.meter.free();
        if !taken {
            tenant.meter.refund(entry.position);
            queue.meter.refund(entry.position);
        }
        let gates = entry.gates();
        for gate in &gates {
            let meter = self.groups.meter(gate);
            meter.free();
            if !taken {
                meter.refund(entry.position);
            }
        }
        for gate in gates {
            self.regroup(&gate);
        }
    }

    /// Folds what was decided about a queue; the tasks that it names must be inserted anew.
    pub fn decided(&mut self, tenant: &TenantId, event: &QueueEvent, position: u64) -> Vec<TaskId> {
        let name: Arc<str> = event.queue().into();
        let of_tenant = self.tenants.entry(tenant.clone()).or_default();
        let queue = of_tenant.queues.entry(name.clone()).or_default();
        queue.rules.apply(event, position);
        if queue.rules.tenant.is_some() {
            of_tenant.limited.insert(name.clone());
        } else {
            of_tenant.limited.remove(&name);
        }
        let parked = std::mem::take(&mut queue.parked);
        for group in self.groups.of_queue(tenant, &name) {
            self.groups.refresh(&group, queue, self.now, &mut self.fresh);
        }
        self.reopened.insert((tenant.clone(), name));
        parked.into_iter().map(|rank| rank.task).collect()
    }

    /// Lets time pass: rates let the next ones pass.
    pub fn advance(&mut self, now: i64) {
        self.now = self.now.max(now);
        while let Some((at, _)) = self.timed.first()
            && *at <= self.now
        {
            self.reopened.extend(self.timed.pop_first().map(|(_, queue)| queue));
        }
        for gate in self.groups.due(self.now) {
            self.regroup(&gate);
        }
    }

    /// When a rate lets the next one pass, in microseconds.
    pub fn next_due(&self) -> Option<i64> {
        let queue = self.timed.first().map(|(at, _)| *at);
        queue.into_iter().chain(self.groups.next_due()).min()
    }

    /// The next tasks for an agent, of one queue or of any.
    pub fn turns(&self, id: AgentId, agent: &AgentFacts, queue: Option<&str>) -> Turns {
        let mut turns = Turns::default();
        let Some(tenant) = self.tenants.get(&agent.tenant) else { return turns };
        if let Some(name) = queue {
            let Some(queue) = tenant.queues.get(name) else { return turns };
            if self.is_open(tenant, queue).is_ok() {
                queue.turns(id, agent, self.now, &mut turns);
            }
            return turns;
        }
        // The first of each queue: those below their guarantee, then by share, then by age.
        let mut firsts = Vec::new();
        for queue in tenant.queues.values().filter(|queue| !queue.lanes.is_empty()) {
            let Ok(below) = self.is_open(tenant, queue) else { continue };
            let mut of_queue = Turns { best: vec![], ..turns };
            queue.turns(id, agent, self.now, &mut of_queue);
            if let Some(next) = of_queue.best.first() {
                let tag = tenant.time.tag(queue.served, queue.rules.weight);
                let score = if below { 0 } else { -tag.pass() };
                let next = Next { score, ..*next };
                firsts.push(((!below, tag, next.level, next.rank), next));
            }
            turns = Turns { best: vec![], ..of_queue };
        }
        firsts.sort_unstable_by_key(|(order, _)| *order);
        turns.best.extend(firsts.into_iter().take(MAX_CANDIDATES).map(|(_, next)| next));
        turns
    }

    /// How much each thing counts where several agents could have a task of a queue.
    pub fn scoring(&self, tenant: &TenantId, name: &str) -> Scoring {
        self.queue(tenant, name).map_or_else(Scoring::default, |queue| queue.rules.scoring)
    }

    /// Whether a task stands in a lane of a queue that gives out.
    pub fn is_exposed(&self, task: TaskId, entry: &Entry) -> bool {
        let Some(tenant) = self.tenants.get(&entry.tenant) else { return false };
        let Some(queue) = tenant.queues.get(&entry.queue) else { return false };
        let Some(lane) = queue.lanes.get(&entry.shape) else { return false };
        let rank = entry.rank(task);
        (lane.contains(&(1, rank)) || lane.contains(&(0, rank)))
            && self.is_open(tenant, queue).is_ok()
    }

    /// The first of every lane and priority of a queue, in the order of service.
    ///
    /// Of one that its rate still closes it notes when that opens: while as many ran as
    /// may, nobody asked for that time.
    pub fn heads(&mut self, id: &QueueId) -> Vec<Rank> {
        let Some(tenant) = self.tenants.get(&id.0) else { return vec![] };
        let Some(queue) = tenant.queues.get(&id.1) else { return vec![] };
        match self.is_open(tenant, queue) {
            Ok(_) => {}
            Err(Closed::Queue(Standing::Until(at)) | Closed::Tenant(Standing::Until(at))) => {
                self.timed.insert((at, id.clone()));
                return vec![];
            }
            Err(Closed::Paused | Closed::Queue(_) | Closed::Tenant(_)) => return vec![],
        }
        let mut heads: Vec<_> = queue
            .lanes
            .values()
            .flat_map(heads)
            .map(|place| queue.order(place, self.now))
            .collect();
        heads.sort_unstable();
        heads.into_iter().map(|order| order.rank).collect()
    }

    /// The tasks that came into a lane since the last call, in the order of service.
    pub fn take_fresh(&mut self) -> BTreeSet<Rank> {
        std::mem::take(&mut self.fresh)
    }

    /// The queues that give out again since the last call.
    pub fn take_reopened(&mut self) -> BTreeSet<QueueId> {
        std::mem::take(&mut self.reopened)
    }

    /// A queue had more to give out than one pass should.
    pub fn reopen_again(&mut self, queue: QueueId) {
        self.reopened.insert(queue);
    }

    pub fn has_reopened(&self) -> bool {
        !self.reopened.is_empty()
    }

    /// Whether anything of a tenant could be given out.
    pub fn any(&self, tenant: &TenantId) -> bool {
        let queues = self.tenants.get(tenant).into_iter().flat_map(|t| t.queues.values());
        queues.into_iter().any(|queue| !queue.lanes.is_empty())
    }

    pub fn queue(&self, tenant: &TenantId, name: &str) -> Option<&Queue> {
        self.tenants.get(tenant)?.queues.get(name)
    }

    /// Why a queue gives nothing out, if it does not.
    pub fn closed(&self, tenant: &TenantId, name: &str) -> Option<Closed> {
        let tenant = self.tenants.get(tenant)?;
        self.is_open(tenant, tenant.queues.get(name)?).err()
    }

    /// Where a gate stands for the tasks of a queue, and its limit.
    pub fn gate(&self, tenant: &TenantId, name: &str, gate: &GateId) -> Option<(Limit, Standing)> {
        let limit = *limit_of(&self.queue(tenant, name)?.rules, gate)?;
        Some((limit, self.groups.standing(gate, &limit, self.now)))
    }

    /// Whether the queue gives out, and fewer of it run than are guaranteed.
    fn is_open(&self, tenant: &Tenant, queue: &Queue) -> Result<bool, Closed> {
        if queue.rules.state == domain::queue::QueueState::Paused {
            return Err(Closed::Paused);
        }
        let standing = |limit: &Option<Limit>, meter: &Meter| {
            limit.map_or(Standing::Open { below: false }, |l| meter.standing(&l, self.now))
        };
        let of_tenant = standing(&queue.rules.tenant, &tenant.meter);
        let Standing::Open { below: _ } = of_tenant else { return Err(Closed::Tenant(of_tenant)) };
        match standing(&queue.rules.queue, &queue.meter) {
            Standing::Open { below } => Ok(below),
            full @ (Standing::Until(_) | Standing::Full) => Err(Closed::Queue(full)),
        }
    }

    /// Brings all groups behind a gate up to date.
    fn regroup(&mut self, gate: &GateId) {
        for group in self.groups.behind(gate) {
            let queue = queue_of(&mut self.tenants, &group.queue.0, &group.queue.1);
            self.groups.refresh(&group, queue, self.now, &mut self.fresh);
        }
        self.groups.tidy(gate, self.now);
    }

    /// Forgets a queue that has no open task any more, and with it what it has had of its
    /// tenant's time. Not by what waits just now: that depends on the moment at which one
    /// looks, and a decision must follow from the log.
    pub fn tidy(&mut self, tenant: &TenantId, name: &str) {
        let Some(of_tenant) = self.tenants.get_mut(tenant) else { return };
        let Some(queue) = of_tenant.queues.get(name) else { return };
        let empty = queue.lanes.is_empty() && queue.parked.is_empty() && queue.meter.running == 0;
        if empty && queue.rules.is_default() {
            of_tenant.queues.remove(name);
            if of_tenant.queues.is_empty() && of_tenant.meter.running == 0 {
                self.tenants.remove(tenant);
            }
        }
    }
}

/// The order of service within a queue; the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// Below the guarantee of its key (0) or not.
    tier: u8,
    share: Option<super::share::Tag>,
    level: usize,
    since: i64,
    position: u64,
    rank: Rank,
}

impl Order {
    fn next(self) -> Next {
        let score = match self {
            Self { tier: 0, .. } => 0,
            Self { share: Some(tag), .. } => -tag.pass(),
            Self { level, .. } => -(level as i64),
        };
        Next { rank: self.rank, level: self.level, score }
    }
}

impl Queue {
    fn order(&self, (tier, rank): Place, now: i64) -> Order {
        let level = self.rules.level(&rank, now);
        let share = match self.rules.mode {
            QueueMode::Weighted => {
                Some(self.time.tag(self.levels[level], self.rules.weights[level]))
            }
            QueueMode::Strict => None,
        };
        Order { tier, share, level, since: rank.since, position: rank.position, rank }
    }

    /// The best of the heads of all lanes that fit.
    fn turns(&self, id: AgentId, agent: &AgentFacts, now: i64, turns: &mut Turns) {
        let mut best: Vec<Order> = Vec::with_capacity(MAX_CANDIDATES + 1);
        for (shape, lane) in &self.lanes {
            if let Err(why) = shape.judge(id, agent) {
                turns.rejected.add(why, lane.len());
                continue;
            }
            turns.of += lane.len();
            for order in heads(lane).map(|place| self.order(place, now)) {
                let at = best.partition_point(|known| *known <= order);
                if at < MAX_CANDIDATES {
                    best.truncate(MAX_CANDIDATES - 1);
                    best.insert(at, order);
                }
            }
        }
        turns.best.extend(best.into_iter().map(Order::next));
    }
}

/// The first of each tier and priority of a lane: the oldest, so the most aged.
fn heads(lane: &Lane) -> impl Iterator<Item = Place> {
    let after = move |(tier, rank): &Place| {
        let last = Rank {
            priority: rank.priority,
            since: i64::MAX,
            position: u64::MAX,
            task: TaskId(uuid::Uuid::max()),
        };
        lane.range((*tier, last)..).next().copied()
    };
    std::iter::successors(lane.first().copied(), after)
}

fn queue_of<'a>(
    tenants: &'a mut BTreeMap<TenantId, Tenant>,
    tenant: &TenantId,
    name: &Arc<str>,
) -> &'a mut Queue {
    if !tenants.contains_key(tenant) {
        tenants.insert(tenant.clone(), Tenant::default());
    }
    let queues = &mut tenants.entry(tenant.clone()).or_default().queues;
    queues.entry(name.clone()).or_default()
}

/// The limit that holds for a gate by the rules of a queue.
pub(super) fn limit_of<'a>(rules: &'a Rules, gate: &GateId) -> Option<&'a Limit> {
    match gate {
        GateId::Key(..) => Some(&rules.key),
        GateId::Value { expression, .. } => rules.expression(expression),
    }
}
