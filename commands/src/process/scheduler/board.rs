//! The fold: every open task and where it stands, every agent and what it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::SubsecRound as _;
use domain::agent::AgentEvent;
use domain::queue::{QueueEvent, queue_id};
use domain::task::{TaskEvent, TaskState, TaskUpdated};
use domain::{AgentId, Event, Recorded, TaskId, TenantId, Timestamp};

use super::entry::{Entry, Place, Reserved};
use super::facts;
use super::matching::{Shape, reshaped};
use super::needs::{Dependents, Standing};
use super::stuck::{Watches, may_stand_still};
use super::waiting::{Turns, Waiting};
use crate::process::roster::Roster;

/// How many tasks of a queue wait, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Could be given out now.
    pub waiting: usize,
    /// Wait for a time or a backoff.
    pub timed: usize,
    /// Wait for other tasks.
    pub dependent: usize,
    /// In an agent's hands.
    pub held: usize,
}

/// Open tasks by where they stand.
///
/// Invariant: each task stands in exactly the index that its `place` names, and
/// `place` is where [`Entry::belongs`] says.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    pub roster: Roster,
    pub waiting: Waiting,
    /// Boxed: a table has up to twice the room that it needs, and moves what is in it.
    tasks: HashMap<TaskId, Box<Entry>>,
    timed: BTreeSet<(Timestamp, TaskId)>,
    /// Sticky tasks that wait for their agent, and until when.
    sticky: BTreeSet<(i64, TaskId)>,
    /// Tasks whose place depends on who has their parent.
    children: HashMap<TaskId, BTreeSet<TaskId>>,
    held: HashMap<AgentId, BTreeSet<TaskId>>,
    /// Who waits for which other tasks.
    pub(super) dependents: Dependents,
    /// What may stand still for too long.
    pub(super) watches: Watches,
    depths: BTreeMap<(TenantId, Arc<str>), QueueDepth>,
    /// Agents who may be able to take more, or have something to be told.
    touched: BTreeSet<AgentId>,
    now: Timestamp,
    /// The last position that was folded.
    seen: u64,
    /// When what is folded or decided happens, in microseconds: what rates count by.
    at: i64,
    /// What leaves an agent's hands was never in them.
    untaken: bool,
    /// Every shape with how many tasks have it: they share one copy.
    shapes: HashMap<Arc<Shape>, usize>,
}

fn forget(shapes: &mut HashMap<Arc<Shape>, usize>, shape: &Arc<Shape>) {
    if let Some(tasks) = shapes.get_mut(shape) {
        *tasks = tasks.saturating_sub(1);
        if *tasks == 0 {
            shapes.remove(shape);
        }
    }
}

impl Board {
    /// Folds one event. `scheduler` is the actor whose assignments are our own.
    pub fn apply(&mut self, event: &Recorded, scheduler: &str) {
        self.at = event.recorded_at.timestamp_micros();
        self.seen = event.position;
        match event.event() {
            Ok(Event::Task(happened)) => self.apply_task(event, happened, scheduler),
            Ok(Event::Agent(happened)) => {
                let Some(agent) = self.roster.apply(event) else { return };
                if matches!(happened, AgentEvent::Registered(_) | AgentEvent::Reconnected(_)) {
                    self.forget_deliveries(agent);
                }
                self.touched.insert(agent);
            }
            Ok(Event::Queue(decided)) => self.apply_queue(event, decided),
            Ok(
                Event::Operation(_)
                | Event::Crew(_)
                | Event::Schedule(_)
                | Event::Node(_)
                | Event::Profile(_),
            )
            | Err(_) => {}
        }
    }

    fn apply_queue(&mut self, event: &Recorded, decided: &QueueEvent) {
        // What came into another stream decides nothing (see `Command::misplaced`).
        if event.stream_id != queue_id(&event.tenant, decided.queue()) {
            return;
        }
        for task in self.waiting.decided(&event.tenant, decided, event.position) {
            // It was parked, which no event of its own had done.
            if let Some(entry) = self.tasks.get(&task) {
                self.waiting.insert(task, entry);
            }
        }
    }

    fn apply_task(&mut self, event: &Recorded, happened: &TaskEvent, scheduler: &str) {
        let task = TaskId(event.stream_id);
        if let TaskEvent::Submitted(new) = happened {
            let mut entry = Box::new(Entry::submitted(event, new));
            if let Some((known, _)) = self.shapes.get_key_value(&entry.shape) {
                entry.shape = known.clone();
            }
            *self.shapes.entry(entry.shape.clone()).or_default() += 1;
            if let Some(kin) = &mut entry.kin {
                kin.agent = self.tasks.get(&kin.task).and_then(|parent| parent.previous);
                self.children.entry(kin.task).or_default().insert(task);
            }
            facts::submitted(&mut entry, new, self.waiting.queue(&event.tenant, &new.queue));
            self.dependents.submitted(&event.tenant, task);
            entry.needs = self.needs(event, task, &new.depends_on, new.dependency);
            self.tasks.insert(task, entry);
            self.update(task, |_| {});
            self.watch(task);
            return;
        }
        self.update(task, |entry| entry.apply(event, happened, scheduler));
        if let TaskEvent::Updated(changes) = happened {
            self.described(task, changes);
            self.linked_anew(event, task, changes);
        }
        let archived = matches!(happened, TaskEvent::Archived(_));
        let stands = self.tasks.get(&task).map(|entry| entry.standing());
        let stands = stands.map(|stands| Standing { archived, ..stands });
        // What it is off for good is dropped, and told to those who wait for it.
        let dropped = match happened {
            TaskEvent::Archived(_) | TaskEvent::Completed(_) | TaskEvent::Cancelled(_) => true,
            TaskEvent::Failed(_) | TaskEvent::DeadLettered(_) => false,
            TaskEvent::Assigned(to) => {
                self.touched.insert(to.agent_id);
                return self.tell_children(task, to.agent_id);
            }
            TaskEvent::Escalated(found) => return self.watches.escalated(task, found.since),
            TaskEvent::Submitted(_)
            | TaskEvent::Updated(_)
            | TaskEvent::Unassigned(_)
            | TaskEvent::Started(_)
            | TaskEvent::Progressed(_)
            | TaskEvent::Blocked(_)
            | TaskEvent::Unblocked(_)
            | TaskEvent::ReviewRequested(_)
            | TaskEvent::Approved(_)
            | TaskEvent::Rejected(_)
            | TaskEvent::AttemptFailed(_)
            | TaskEvent::LeaseExtended(_)
            | TaskEvent::Released(_)
            | TaskEvent::LeaseExpired(_)
            | TaskEvent::Overdue(_)
            | TaskEvent::Requeued(_) => return self.watch(task),
        };
        if dropped {
            self.drop_task(task);
        }
        if let Some(stands) = stands {
            let cause = event.position;
            self.stands(&event.tenant, task, Standing { cause, at: self.at, ..stands });
        }
    }

    /// Watches a task that may stand still from now on.
    fn watch(&mut self, task: TaskId) {
        if self.task(task).is_some_and(may_stand_still) {
            self.watches.watch(task, self.at);
        }
    }

    /// A task waits for others than before.
    fn linked_anew(&mut self, event: &Recorded, task: TaskId, changes: &TaskUpdated) {
        let (Some(depends_on), Some(mode)) = (&changes.depends_on, changes.dependency) else {
            return;
        };
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if let Some(before) = entry.needs.take() {
            self.forget_needs(&event.tenant, task, &before);
        }
        let needs = self.needs(event, task, depends_on, mode);
        self.update(task, |entry| entry.needs = needs);
    }

    /// Changes a task and moves it to the index where it belongs then.
    pub fn update(&mut self, task: TaskId, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        // Its rank or lane may change: it must leave under the old one.
        if entry.place == Place::Waiting {
            self.waiting.remove(task, entry);
        }
        let shape = entry.shape.clone();
        change(entry);
        if let Some(changed) = reshaped(entry, &self.roster, self.now.timestamp_micros()) {
            entry.shape = changed;
        }
        if entry.shape.waits
            && let Some(until) = entry.sticks_until()
        {
            self.sticky.insert((until, task));
        }
        if !Arc::ptr_eq(&shape, &entry.shape) {
            let known = self.shapes.get_key_value(&entry.shape).map(|(known, _)| known.clone());
            entry.shape = known.unwrap_or_else(|| entry.shape.clone());
            *self.shapes.entry(entry.shape.clone()).or_default() += 1;
            forget(&mut self.shapes, &shape);
        }
        let (before, after) = (entry.place.clone(), entry.belongs(self.now));
        if after == Place::Waiting {
            self.waiting.insert(task, entry);
        }
        if before == after {
            return;
        }
        let Some(mut entry) = self.tasks.remove(&task) else { return };
        self.leave(task, &entry);
        entry.place = after;
        self.enter(task, &entry);
        self.tidy(&entry);
        self.tasks.insert(task, entry);
    }

    fn tidy(&mut self, entry: &Entry) {
        if !self.depths.contains_key(&(entry.tenant.clone(), entry.queue.clone())) {
            self.waiting.tidy(&entry.tenant, &entry.queue);
        }
    }

    fn leave(&mut self, task: TaskId, entry: &Entry) {
        self.count(entry, -1);
        match &entry.place {
            // Left already, under its old rank.
            Place::Waiting | Place::Nowhere | Place::Dependent => {}
            Place::Timed(at) => drop(self.timed.remove(&(*at, task))),
            Place::Held(agent) => {
                if let Some(tasks) = self.held.get_mut(agent) {
                    tasks.remove(&task);
                    if tasks.is_empty() {
                        self.held.remove(agent);
                    }
                }
                self.touched.insert(*agent);
                self.waiting.free(entry, !std::mem::take(&mut self.untaken));
            }
        }
    }

    fn enter(&mut self, task: TaskId, entry: &Entry) {
        self.count(entry, 1);
        match &entry.place {
            // Entered already; the lanes need the entry as it is.
            Place::Waiting | Place::Nowhere | Place::Dependent => {}
            Place::Timed(at) => drop(self.timed.insert((*at, task))),
            Place::Held(agent) => {
                self.held.entry(*agent).or_default().insert(task);
                self.touched.insert(*agent);
                self.waiting.hold(task, entry, self.at);
            }
        }
    }

    fn drop_task(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.remove(&task) else { return };
        if entry.place == Place::Waiting {
            self.waiting.remove(task, &entry);
        }
        self.leave(task, &entry);
        self.tidy(&entry);
        forget(&mut self.shapes, &entry.shape);
        if let Some(kin) = &entry.kin
            && let Some(children) = self.children.get_mut(&kin.task)
        {
            children.remove(&task);
            if children.is_empty() {
                self.children.remove(&kin.task);
            }
        }
        self.watches.forget(task);
        if let Some(needs) = &entry.needs {
            self.forget_needs(&entry.tenant, task, needs);
        }
    }

    fn count(&mut self, entry: &Entry, by: isize) {
        if entry.place == Place::Nowhere {
            return;
        }
        let id = (entry.tenant.clone(), entry.queue.clone());
        let depth = self.depths.entry(id.clone()).or_default();
        let counter = match entry.place {
            Place::Nowhere => return,
            Place::Waiting => &mut depth.waiting,
            Place::Timed(_) => &mut depth.timed,
            Place::Dependent => &mut depth.dependent,
            Place::Held(_) => &mut depth.held,
        };
        *counter = counter.saturating_add_signed(by);
        if *depth == QueueDepth::default() {
            self.depths.remove(&id);
        }
    }

    /// Tasks that look at who has their parent learn of it.
    fn tell_children(&mut self, parent: TaskId, agent: AgentId) {
        let children: Vec<TaskId> =
            self.children.get(&parent).into_iter().flatten().copied().collect();
        for child in children {
            self.update(child, |entry| {
                if let Some(kin) = &mut entry.kin {
                    kin.agent = Some(agent);
                }
            });
        }
    }

    /// Lets time pass: what has come due may be given out.
    pub fn advance(&mut self, now: Timestamp) {
        // As finely as it is written down: what is decided once more goes by the same time.
        self.now = self.now.max(now.trunc_subsecs(6));
        let now = self.now.timestamp_micros();
        self.waiting.advance(now);
        while let Some((until, task)) = self.sticky.first().copied()
            && until <= now
        {
            self.sticky.pop_first();
            self.update(task, |_| {});
        }
        while let Some((at, task)) = self.timed.first().copied()
            && at <= self.now
        {
            self.update(task, |_| {});
        }
    }

    /// When the next task comes due, or a rate lets one pass.
    pub fn next_due(&self) -> Option<Timestamp> {
        let rate = self.waiting.next_due().and_then(Timestamp::from_timestamp_micros);
        let sticky = self.sticky.first().and_then(|(at, _)| Timestamp::from_timestamp_micros(*at));
        let look = self.watches.next();
        let others = rate.into_iter().chain(sticky).chain(look);
        self.timed.first().map(|(at, _)| *at).into_iter().chain(others).min()
    }

    /// The assignment of a task does not come about: its limits count it no more.
    pub fn unreserve(&mut self, task: TaskId, change: impl FnOnce(&mut Entry)) {
        self.untaken = true;
        self.update(task, change);
        self.untaken = false;
    }

    /// What waits in a queue and was submitted before a position, with its version.
    pub fn waiting_in(&self, tenant: &TenantId, queue: &str, before: u64) -> Vec<(TaskId, u64)> {
        let waits = |(_, entry): &(TaskId, &Entry)| {
            entry.tenant == *tenant
                && *entry.queue == *queue
                && entry.position < before
                && entry.state == TaskState::Queued
                && entry.reserved.is_none()
        };
        let all = self.tasks.iter().map(|(task, entry)| (*task, &**entry));
        all.filter(waits).map(|(task, entry)| (task, entry.version)).collect()
    }

    /// Brings what expressions say of a task up to date.
    fn described(&mut self, task: TaskId, changes: &TaskUpdated) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if entry.facts.is_none() {
            return;
        }
        let before = entry.values.clone();
        let queue = self.waiting.queue(&entry.tenant, &entry.queue);
        let after = facts::updated(entry, changes, queue);
        if after == before {
            return;
        }
        // It stands, or is counted, under its old values: it leaves before they change.
        let place = entry.place.clone();
        let Some(mut entry) = self.tasks.remove(&task) else { return };
        match place {
            Place::Waiting => self.waiting.remove(task, &entry),
            Place::Held(_) => self.waiting.free(&entry, true),
            Place::Nowhere | Place::Dependent | Place::Timed(_) => {}
        }
        entry.values = after;
        match place {
            Place::Waiting => self.waiting.insert(task, &entry),
            Place::Held(_) => self.waiting.hold(task, &entry, self.at),
            Place::Nowhere | Place::Dependent | Place::Timed(_) => {}
        }
        self.tasks.insert(task, entry);
    }

    /// By the database's clock, as far as it was told.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The agent's process is new: what it was told before, it does not know.
    fn forget_deliveries(&mut self, agent: AgentId) {
        for task in self.held_by(agent) {
            if let Some(entry) = self.tasks.get_mut(&task)
                && entry.reserved.is_none()
                && entry.state == TaskState::Assigned
            {
                entry.delivered = false;
            }
        }
    }

    pub fn task(&self, task: TaskId) -> Option<&Entry> {
        self.tasks.get(&task).map(|entry| &**entry)
    }

    /// Everything that is in an agent's hands, or on the way there.
    pub fn held(&self) -> impl Iterator<Item = (TaskId, &Entry)> {
        let held = self.held.values().flatten();
        held.filter_map(|task| Some((*task, &**self.tasks.get(task)?)))
    }

    /// What an agent holds, or is about to.
    pub fn held_by(&self, agent: AgentId) -> Vec<TaskId> {
        self.held.get(&agent).into_iter().flatten().copied().collect()
    }

    /// How many tasks an agent holds, or is about to.
    pub fn count_held(&self, agent: AgentId) -> usize {
        self.held.get(&agent).map_or(0, BTreeSet::len)
    }

    /// A task is on its way to an agent, as decided just now.
    pub fn reserve(&mut self, task: TaskId, reserved: Reserved) {
        self.at = self.now.timestamp_micros();
        self.update(task, |entry| entry.reserved = Some(reserved));
    }

    /// The last position that was folded.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The next tasks for an agent, of one queue or of any; none where it has no room.
    pub fn turns(&self, agent: AgentId, queue: Option<&str>) -> Turns {
        match self.roster.get(agent) {
            Some(facts) if self.free_slots(agent) > 0 => self.waiting.turns(agent, facts, queue),
            Some(_) | None => Turns::default(),
        }
    }

    /// How many more tasks an agent may have; none when it takes no work.
    pub fn free_slots(&self, agent: AgentId) -> usize {
        let Some(facts) = self.roster.get(agent) else { return 0 };
        let held = self.count_held(agent);
        if facts.state.takes_work() { facts.slots.saturating_sub(held) } else { 0 }
    }

    pub fn touch(&mut self, agent: AgentId) {
        self.touched.insert(agent);
    }

    pub fn take_touched(&mut self) -> BTreeSet<AgentId> {
        std::mem::take(&mut self.touched)
    }

    pub fn depths(&self) -> impl Iterator<Item = (&TenantId, &str, QueueDepth)> {
        self.depths.iter().map(|((tenant, queue), depth)| (tenant, &**queue, *depth))
    }
}
