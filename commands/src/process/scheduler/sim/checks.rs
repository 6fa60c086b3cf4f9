//! What must hold, checked against the model: at every decision of the processor
//! (`Checker::took`) and at every pick of a scheduler (`Turns`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::queue::RatePolicy;
use domain::task::{FailTask, TaskCommand, TaskEvent, TaskState};
use domain::{AgentId, Command, Event, Outcome, Recorded, Status, TaskId, Timestamp};
use uuid::Uuid;

use super::model::{CUSTOMER, Model, Task};
use crate::CommandEnvelope;

/// What limits count by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Tenant,
    Queue(String),
    Concurrency(String),
    Customer(String, String),
}

impl Key {
    fn covers(&self, task: &Task) -> bool {
        match self {
            Self::Tenant => true,
            Self::Queue(queue) => task.queue == *queue,
            Self::Concurrency(key) => task.key.as_ref() == Some(key),
            Self::Customer(queue, customer) => {
                task.queue == *queue && task.customer.as_ref() == Some(customer)
            }
        }
    }

    /// The limits that hold for a task, by what is known at a place in the log.
    pub fn of(model: &Model, task: &Task) -> Vec<(Self, Option<u32>, Option<RatePolicy>)> {
        let queue = model.queue(&task.queue);
        let mut all = Vec::new();
        let mut add = |key: Self, name: &str, otherwise: Option<u32>| match queue.limit(name) {
            Some(limit) => all.push((key, limit.max_running, limit.rate)),
            None => all.push((key, otherwise, None)),
        };
        add(Self::Tenant, "tenant", None);
        add(Self::Queue(task.queue.clone()), "queue", None);
        if let Some(key) = &task.key {
            // One at a time where the policy says nothing (docs/api.md, queues).
            add(Self::Concurrency(key.clone()), "task.concurrency_key", Some(1));
        }
        if let Some(customer) = &task.customer {
            add(Self::Customer(task.queue.clone(), customer.clone()), CUSTOMER, None);
        }
        all
    }
}

/// What a scheduler knew when it picked.
#[derive(Debug, Clone)]
pub struct Picked {
    /// It had folded the log up to here.
    pub folded: u64,
    pub at: Timestamp,
    pub slots: usize,
    pub limits: Vec<(Key, Option<u32>, Option<RatePolicy>)>,
}

/// Looks at everything that the processor decides.
#[derive(Default)]
pub struct Checker {
    /// The log up to its head.
    pub model: Model,
    /// By command, token of the scheduler and agent.
    pub picks: HashMap<(Uuid, i64, AgentId), Picked>,
    decided: HashMap<Uuid, Status>,
    /// When what a rate counts was picked.
    rated: BTreeMap<Key, (RatePolicy, Vec<(i64, TaskId)>)>,
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Checker {
    /// A command was decided, with these events.
    pub fn took(
        &mut self,
        command: &CommandEnvelope,
        outcome: &Outcome,
        events: &[Arc<Recorded>],
    ) -> Result<(), String> {
        let name = command.command.name();
        let id = command.command_id;
        match outcome.status {
            Status::Accepted => {
                let first = self.decided.insert(id, outcome.status).is_none();
                must(first, || format!("{name} {id} was decided twice"))?;
            }
            Status::Refused => drop(self.decided.entry(id).or_insert(Status::Refused)),
            Status::Duplicate | Status::Busy | Status::Invalid => {}
        }
        let quiet = outcome.status == Status::Accepted || events.is_empty();
        must(quiet, || format!("{name} was {:?} and left events", outcome.status))?;
        let task = TaskId(command.stream_id);
        let before = self.model.tasks.get(&task).cloned();
        if let (Command::Task(asked), Some(before)) = (&command.command, &before) {
            if outcome.status == Status::Accepted {
                answered(asked, &command.actor, before)?;
            }
            if let (TaskCommand::Fail(by), Some(first)) = (asked, events.first()) {
                retried(by, before, first)?;
            }
        }
        for event in events {
            self.model.apply(event)?;
            if let Ok(Event::Task(TaskEvent::Assigned(to))) = event.event()
                && let Some(fence) = command.fence
            {
                let picked = self.picks.get(&(id, fence, to.agent_id)).cloned();
                let picked = picked.ok_or("an assignment that no scheduler picked")?;
                self.assigned(task, to.agent_id, &picked)?;
            }
        }
        let owes = self.model.tasks.get(&task).is_some_and(Task::owes_an_event);
        must(!owes, || format!("{name} of {task} left its last attempt open"))
    }

    /// An assignment of the scheduler: the agent has the slots, and no limit is passed.
    ///
    /// What an operator did meanwhile counts as far as the scheduler had folded it.
    fn assigned(&mut self, task: TaskId, agent: AgentId, picked: &Picked) -> Result<(), String> {
        let Some(new) = self.model.tasks.get(&task) else { return Err("no such task".into()) };
        let known = |task: &&Task| {
            task.held.is_some_and(|held| {
                let seen = |position| position <= picked.folded;
                (held.ours || seen(held.since))
                    && (task.described < held.since || seen(task.described))
            })
        };
        let held: Vec<&Task> = self.model.tasks.values().filter(known).collect();
        let of_agent = held.iter().filter(|t| t.held.is_some_and(|h| h.agent == agent)).count();
        // Others were picked after it, when there were more slots.
        let slots = self.model.agents.get(&agent).map_or(0, |agent| agent.slots);
        let slots = slots.max(picked.slots);
        must(of_agent <= slots, || format!("{agent} has {slots} slots and holds {of_agent}"))?;
        let free = new.not_before().is_none_or(|at| at <= picked.at);
        must(free, || format!("{task} was picked at {}, before its time", picked.at))?;
        let by_now = Key::of(&self.model, new);
        for (key, most, rate) in &picked.limits {
            let raised = by_now.iter().find(|(other, ..)| other == key).map(|(_, most, _)| *most);
            let most = most.and_then(|most| Some(most.max(raised.unwrap_or(Some(0))?)));
            let running = held.iter().filter(|task| key.covers(task)).count();
            let fits = most.is_none_or(|most| running <= most as usize);
            must(fits, || format!("{running} of {key:?} run, {most:?} may"))?;
            if let Some(rate) = rate {
                let (_, times) = self.rated.entry(key.clone()).or_insert((*rate, vec![]));
                times.push((picked.at.timestamp_micros(), task));
            }
        }
        Ok(())
    }

    /// Rates, when all is over: picks that crossed on their way are put in order. Conforms
    /// to the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
    pub fn rates(&mut self) -> Result<usize, String> {
        let mut looked = 0;
        for (key, (rate, times)) in &mut self.rated {
            times.sort_unstable();
            let interval = rate.interval_us() as i64;
            let tolerance = interval * (i64::from(rate.burst) - 1);
            let mut arrival = i64::MIN / 2;
            for (at, task) in times {
                must(*at >= arrival - tolerance, || {
                    let early = arrival - tolerance - *at;
                    let at = Timestamp::from_timestamp_micros(*at);
                    format!("{task} of {key:?} began {early} us too early for {rate:?}, {at:?}")
                })?;
                arrival = arrival.max(*at) + interval;
                looked += 1;
            }
        }
        Ok(looked)
    }
}

/// Whoever shows a token must hold that lease, and be its holder where it is an agent.
fn answered(asked: &TaskCommand, actor: &str, before: &Task) -> Result<(), String> {
    let body: serde_json::Value = serde_json::from_slice(&asked.body()).unwrap_or_default();
    let Some(shown) = body["lease_token"].as_u64() else { return Ok(()) };
    let name = asked.name();
    let held = before.held.ok_or_else(|| format!("stale {name}: nobody holds it"))?;
    must(held.token == shown, || format!("stale {name}: {shown} shown, {} holds", held.token))?;
    let by_another = actor.starts_with("agent:") && actor != format!("agent:{}", held.agent);
    must(!by_another, || format!("{name} by {actor}, {} holds it", held.agent))
}

/// A failed attempt is tried again exactly as the task's policy says.
fn retried(by: &FailTask, before: &Task, first: &Recorded) -> Result<(), String> {
    let Ok(Event::Task(TaskEvent::AttemptFailed(failed))) = first.event() else {
        return Err("a failed attempt was not recorded".into());
    };
    let retry = &before.retry;
    let class = match (&retry.retryable, &by.class) {
        (Some(classes), Some(class)) => classes.contains(class),
        _ => true,
    };
    let again = by.retryable && class && before.attempt < retry.max_attempts;
    must(failed.retry_at.is_some() == again, || {
        format!("attempt {} of {}: again {again}", before.attempt, retry.max_attempts)
    })?;
    let Some(at) = failed.retry_at else { return Ok(()) };
    let waits = (at - first.recorded_at).num_milliseconds() as u64;
    if let Some(asked) = by.retry_after_ms {
        return must(waits == asked, || format!("{asked} ms asked for, {waits} waited"));
    }
    let most = (retry.backoff_ms << (before.attempt - 1).min(20)).min(retry.backoff_max_ms);
    must(waits <= most, || format!("a backoff of {waits} ms, {most} at most"))
}

/// Services of each other class since each class was served, by queue.
///
/// No starvation: stride scheduling serves a class of weight w that has something for
/// every agent before any class of weight v was served more than `ceil(v / w) + 1` times
/// (`share`), and a class serves its oldest first. The nth oldest task of a class hence
/// waits for at most `n * (1 + sum(ceil(v / w) + 1))` services of its queue: with the
/// usual weights 9n for `critical` and 35n for `background`. With aging, the
/// class is what the task counts as by then, so that each task comes to the first class.
/// What an operator gives out counts as a service of its class, and nobody forbids it:
/// the others may make up for each.
#[derive(Default)]
pub struct Turns {
    since: BTreeMap<String, [[u32; 5]; 5]>,
    charged: BTreeMap<(String, usize), u32>,
}

impl Turns {
    /// A policy or a state was decided.
    pub fn forget(&mut self, queue: &str) {
        self.since.remove(queue);
    }

    /// A service that nobody picked.
    pub fn charge(&mut self, queue: &str, class: usize) {
        *self.charged.entry((queue.into(), class)).or_default() += 1;
    }

    /// A scheduler picked a task; `eligible` tells what else it could have given.
    pub fn picked(
        &mut self,
        model: &Model,
        task: TaskId,
        now: Timestamp,
        eligible: impl Fn(TaskId, &Task) -> bool,
    ) -> Result<(), String> {
        let Some(picked) = model.tasks.get(&task) else { return Err("no such task".into()) };
        let queue = model.queue(&picked.queue);
        let weights = queue.policy.weights.all();
        let turns = self.since.entry(picked.queue.clone()).or_default();
        let class = queue.level(picked, now);
        let age = |task: &Task| (task.since(), task.position);
        // By priority the oldest that any agent may have: with aging, it alone says what
        // its priority counts as.
        let mut first: [Option<&Task>; 5] = [None; 5];
        for (id, other) in &model.tasks {
            let waits = other.state == TaskState::Queued && other.suits_all();
            if other.queue != picked.queue || !waits || !eligible(*id, other) {
                continue;
            }
            let oldest = &mut first[other.priority as usize];
            if oldest.is_none_or(|oldest| age(other) < age(oldest)) {
                *oldest = Some(other);
            }
            let before = age(other) < age(picked) && other.priority == picked.priority;
            must(queue.policy.aging_ms.is_some() || !other.is_plain() || !before, || {
                format!("{task} was picked before {id}, which is older and as urgent")
            })?;
        }
        let strict = queue.policy.mode == domain::queue::QueueMode::Strict;
        let mut there = [false; 5];
        for first in first
            .into_iter()
            .flatten()
            .filter(|first| first.is_plain() && first.position != picked.position)
        {
            let level = queue.level(first, now);
            there[level] = true;
            let before = age(first) < age(picked) && first.priority == picked.priority;
            must(level != class || !before, || {
                format!("{task} was picked before one that is older and as urgent: {first:?}")
            })?;
        }
        for (waiting, is_there) in there.into_iter().enumerate() {
            if !is_there || waiting == class {
                turns[waiting] = [0; 5];
                continue;
            }
            if strict {
                must(waiting > class, || format!("{task} came before a more urgent one"))?;
                continue;
            }
            turns[waiting][class] += 1;
            let share = weights[class].div_ceil(weights[waiting]);
            let class_of = (picked.queue.clone(), waiting);
            let given = [&model.by_operator, &self.charged].map(|of| of.get(&class_of));
            let given: u32 = given.into_iter().flatten().sum();
            let bound = share + 1 + share * given;
            must(turns[waiting][class] <= bound, || {
                format!(
                    "class {waiting} starves: {} of class {class} before it, {bound} may",
                    turns[waiting][class]
                )
            })?;
        }
        Ok(())
    }
}
