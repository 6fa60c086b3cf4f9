//! Counts what happens in a stretch, as it happened or as it would have.

use std::collections::{BTreeMap, HashMap};

use domain::task::TaskEvent;
use domain::{AgentId, Event, Recorded, TaskId};
use serde::Serialize;

use super::observed::told_usage;
use crate::process::roster::Roster;

/// Different names of usage that are added up.
const MOST_USAGE: usize = 32;

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Spread {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    pub mean: f64,
}

impl Spread {
    /// Of times in microseconds; nearest rank.
    fn of(times: &mut [i64]) -> Self {
        times.sort_unstable();
        let ms = |us: i64| us as f64 / 1_000.0;
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().map_or(0.0, ms)
        };
        let sum: i64 = times.iter().sum();
        let mean = if times.is_empty() { 0.0 } else { ms(sum) / times.len() as f64 };
        let (p50, p90, p99, max) = (at(50), at(90), at(99), at(100));
        Self { count: times.len() as u64, p50, p90, p99, max, mean: (mean * 1e3).round() / 1e3 }
    }
}

/// What became of the tasks of a stretch.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Tasks that came in.
    pub submitted: u64,
    /// Tasks that were done.
    pub completed: u64,
    /// Tasks that ended by an error.
    pub failed: u64,
    /// Tasks whose attempts were used up.
    pub dead: u64,
    /// Tasks that were called off.
    pub cancelled: u64,
    /// Tasks that had not ended at the end; those that waited, and those in hands.
    pub open: u64,
    /// Of the open ones: in nobody's hands.
    pub waiting: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Leases that ran out.
    pub expired_leases: u64,
    /// Assignments.
    pub assigned: u64,
    /// From when a task could run to its assignment, each attempt. What a task waited for
    /// other tasks counts.
    pub wait_ms: Spread,
    /// From the start of an attempt to its end.
    pub run_ms: Spread,
    /// Tasks done per second of the stretch.
    pub throughput_per_s: f64,
    /// What results tell under `usage`, numbers added up by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub usage: BTreeMap<String, f64>,
}

/// How busy an agent was.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AgentNumbers {
    /// Assignments that it got.
    pub assigned: u64,
    /// Time of its slots in which they held a task, in milliseconds.
    pub busy_ms: u64,
    /// Time of its slots while it took work, in milliseconds.
    pub slot_ms: u64,
    /// The one by the other, 0 to 1; more where an operator gave it more than its slots.
    pub utilisation: f64,
}

/// One assignment, in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    pub position: u64,
    pub task: TaskId,
    pub agent: AgentId,
    pub at_us: i64,
}

#[derive(Debug, Default)]
struct Counts {
    numbers: Numbers,
    waits: Vec<i64>,
    runs: Vec<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    queue: u32,
    ready_us: i64,
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    agent: AgentId,
    since_us: i64,
    started_us: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    count: i64,
    since_us: i64,
    slot_us: i64,
    busy_us: i64,
    assigned: u64,
}

/// All counts of a world.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Counts what happens from here on, in microseconds; `None` until the stretch begins.
    began_us: Option<i64>,
    names: Vec<String>,
    queues: Vec<Counts>,
    ids: HashMap<String, u32>,
    open: HashMap<TaskId, Open>,
    roster: Roster,
    agents: BTreeMap<AgentId, Slots>,
    usage: BTreeMap<String, f64>,
    pub(super) given: Vec<Given>,
    now_us: i64,
}

/// The outcome of a tally.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub all: Numbers,
    pub queues: BTreeMap<String, Numbers>,
    pub agents: BTreeMap<AgentId, (String, AgentNumbers)>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            began_us: None,
            names: Vec::new(),
            queues: Vec::new(),
            ids: HashMap::new(),
            open: HashMap::new(),
            roster: Roster::default(),
            agents: BTreeMap::new(),
            usage: BTreeMap::new(),
            given: Vec::new(),
            now_us: 0,
        }
    }

    /// The stretch begins at this instant.
    pub fn begin(&mut self, now_us: i64) {
        self.began_us = Some(now_us);
        self.agents.values_mut().for_each(|slots| {
            (slots.slot_us, slots.busy_us, slots.assigned) = (0, 0, 0);
            slots.since_us = now_us;
        });
    }

    pub fn apply(&mut self, event: &Recorded) {
        self.now_us = self.now_us.max(event.recorded_at.timestamp_micros());
        match event.event() {
            Ok(Event::Task(happened)) => self.apply_task(event, happened),
            Ok(Event::Agent(_)) => {
                let Some(id) = self.roster.apply(event) else { return };
                let now = self.now_us;
                let takes = self.roster.get(id).filter(|facts| facts.state.takes_work());
                let count = takes.map_or(0, |facts| facts.slots as i64);
                let slots = self.agents.entry(id).or_default();
                slots.slot_us += slots.count * (now - slots.since_us);
                (slots.count, slots.since_us) = (count, now);
            }
            Ok(
                Event::Operation(_)
                | Event::Crew(_)
                | Event::Schedule(_)
                | Event::Queue(_)
                | Event::Node(_)
                | Event::Profile(_),
            )
            | Err(_) => {}
        }
    }

    fn queue(&mut self, name: &str) -> u32 {
        if let Some(known) = self.ids.get(name) {
            return *known;
        }
        let next = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.queues.push(Counts::default());
        self.ids.insert(name.to_owned(), next);
        next
    }

    fn apply_task(&mut self, event: &Recorded, happened: &TaskEvent) {
        use TaskEvent as E;
        let (task, now) = (TaskId(event.stream_id), event.recorded_at.timestamp_micros());
        let counted = self.began_us.is_some();
        if let E::Submitted(new) = happened {
            let queue = self.queue(&new.queue);
            let ready_us = now.max(new.run_at.map_or(0, |at| at.timestamp_micros()));
            self.open.insert(task, Open { queue, ready_us, held: None });
            self.queues[queue as usize].numbers.submitted += u64::from(counted);
            return;
        }
        if let E::Requeued(ended) = happened
            && !self.open.contains_key(&task)
        {
            let queue = self.queue(&ended.queue);
            self.open.insert(task, Open { queue, ready_us: now, held: None });
        }
        let Some(open) = self.open.get_mut(&task) else { return };
        let counts = &mut self.queues[open.queue as usize];
        let one = u64::from(counted);
        let numbers = &mut counts.numbers;
        let mut ended = false;
        match happened {
            E::Assigned(to) => {
                Self::free(&mut self.agents, self.began_us, open, counts, now);
                counts.numbers.assigned += one;
                if counted {
                    counts.waits.push((now - open.ready_us).max(0));
                    let (position, agent) = (event.position, to.agent_id);
                    self.given.push(Given { position, task, agent, at_us: now });
                    self.agents.entry(agent).or_default().assigned += 1;
                }
                let (agent, since_us) = (to.agent_id, now);
                open.held = Some(Held { agent, since_us, started_us: None });
                return;
            }
            E::Started(_) => {
                if let Some(held) = &mut open.held {
                    held.started_us = Some(now);
                }
                return;
            }
            E::Completed(done) => {
                numbers.completed += one;
                if counted && told_usage(&done.result) {
                    add_usage(&mut self.usage, &done.result);
                }
                ended = true;
            }
            E::Cancelled(_) => {
                numbers.cancelled += one;
                ended = true;
            }
            E::Archived(_) => ended = true,
            E::Failed(_) => {
                numbers.failed += one;
                ended = true;
            }
            E::DeadLettered(_) => {
                numbers.dead += one;
                ended = true;
            }
            E::AttemptFailed(failed) => {
                numbers.failed_attempts += one;
                open.ready_us = failed.retry_at.map_or(now, |at| at.timestamp_micros());
            }
            E::LeaseExpired(_) => {
                numbers.expired_leases += one;
                open.ready_us = now;
            }
            E::Unassigned(_)
            | E::Released(_)
            | E::ReviewRequested(_)
            | E::Rejected(_)
            | E::Requeued(_) => open.ready_us = now,
            E::Updated(changes) => {
                if let Some(Some(at)) = changes.run_at {
                    open.ready_us = open.ready_us.max(at.timestamp_micros());
                }
                return;
            }
            E::Submitted(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::Approved(_)
            | E::LeaseExtended(_)
            | E::Overdue(_)
            | E::Escalated(_) => return,
        }
        Self::free(&mut self.agents, self.began_us, open, counts, now);
        if ended {
            self.open.remove(&task);
        }
    }

    /// A slot is free again; what counts of it lies in the stretch.
    fn free(
        agents: &mut BTreeMap<AgentId, Slots>,
        began: Option<i64>,
        open: &mut Open,
        counts: &mut Counts,
        now: i64,
    ) {
        let (Some(held), Some(began)) = (open.held.take(), began) else { return };
        counts.runs.push((now - held.started_us.unwrap_or(held.since_us)).max(0));
        agents.entry(held.agent).or_default().busy_us += now - held.since_us.max(began);
    }

    /// Counts up to an instant.
    pub fn tell(&mut self, end_us: i64) -> Told {
        let began = self.began_us.unwrap_or(end_us);
        for open in self.open.values() {
            let numbers = &mut self.queues[open.queue as usize].numbers;
            numbers.open += 1;
            numbers.waiting += u64::from(open.held.is_none());
            if let Some(held) = open.held {
                let busy = &mut self.agents.entry(held.agent).or_default().busy_us;
                *busy += (end_us - held.since_us.max(began)).max(0);
            }
        }
        let seconds = ((end_us - began) as f64 / 1e6).max(1e-6);
        let rate = |done: u64| (done as f64 / seconds * 1e3).round() / 1e3;
        let mut told = Told::default();
        let (mut waits, mut runs) = (Vec::new(), Vec::new());
        for (name, counts) in self.names.iter().zip(&mut self.queues) {
            let numbers = &mut counts.numbers;
            numbers.wait_ms = Spread::of(&mut counts.waits);
            numbers.run_ms = Spread::of(&mut counts.runs);
            numbers.throughput_per_s = rate(numbers.completed);
            told.all.add(numbers);
            waits.append(&mut counts.waits);
            runs.append(&mut counts.runs);
            if numbers.submitted + numbers.assigned + numbers.open + numbers.completed > 0 {
                told.queues.insert(name.clone(), numbers.clone());
            }
        }
        told.all.wait_ms = Spread::of(&mut waits);
        told.all.run_ms = Spread::of(&mut runs);
        told.all.throughput_per_s = rate(told.all.completed);
        told.all.usage.clone_from(&self.usage);
        for (id, slots) in &mut self.agents {
            slots.slot_us += slots.count * (end_us - slots.since_us).max(0);
            if slots.slot_us <= 0 && slots.busy_us <= 0 {
                continue;
            }
            let name = self.roster.get(*id).map_or_else(|| id.to_string(), |a| a.name.clone());
            let share = slots.busy_us as f64 / slots.slot_us.max(1) as f64;
            let numbers = AgentNumbers {
                assigned: slots.assigned,
                busy_ms: (slots.busy_us / 1_000).unsigned_abs(),
                slot_ms: (slots.slot_us / 1_000).unsigned_abs(),
                utilisation: if slots.slot_us > 0 { (share * 1e4).round() / 1e4 } else { 0.0 },
            };
            told.agents.insert(*id, (name, numbers));
        }
        told
    }
}

impl Numbers {
    fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.completed += other.completed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.open += other.open;
        self.waiting += other.waiting;
        self.failed_attempts += other.failed_attempts;
        self.expired_leases += other.expired_leases;
        self.assigned += other.assigned;
    }
}

/// Adds the numbers that stand directly under `usage`.
fn add_usage(all: &mut BTreeMap<String, f64>, result: &domain::Json) {
    let Ok(value) = result.read::<serde_json::Value>() else { return };
    let Some(usage) = value.get("usage").and_then(serde_json::Value::as_object) else { return };
    for (name, number) in usage {
        if let Some(number) = number.as_f64()
            && (all.contains_key(name) || all.len() < MOST_USAGE)
        {
            *all.entry(name.chars().take(64).collect()).or_default() += number;
        }
    }
}
