//! Why a task waits, from the same state that decides.

use domain::capability::Need;
use domain::queue::QueueState;
use domain::task::{Need as Wanted, On, Rejected, TaskState};
use domain::{AgentId, TaskId, TenantId, Timestamp};
use uuid::Uuid;

use super::core::Scheduler;
use super::entry::{Entry, Place};
use super::groups::GateId;
use super::matching::Near;
use super::rules::{Limit, Standing};
use super::waiting::Closed;

/// Things that a reason names at most.
const NAMED: usize = 20;

/// One reason why a task is not given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// A stable word.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Until when, where that is known.
    pub until: Option<Timestamp>,
    /// What it waits for, or what has what it waits for.
    pub ids: Vec<Uuid>,
    /// The position of the event that made it so.
    pub cause: Option<u64>,
    /// What would release it, for people.
    pub release: String,
}

impl Waits {
    fn new(code: &'static str, message: String, release: impl Into<String>) -> Self {
        let release = release.into();
        Self { code, message, until: None, ids: Vec::new(), cause: None, release }
    }

    fn caused_by(self, position: u64) -> Self {
        Self { cause: (position > 0).then_some(position), ..self }
    }

    fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    fn about(self, ids: impl IntoIterator<Item = Uuid>) -> Self {
        Self { ids: ids.into_iter().take(NAMED).collect(), ..self }
    }
}

impl Scheduler {
    /// What keeps a task from being given out, the strongest first; `None` when it is not
    /// open, or nothing of the tenant's.
    pub(super) fn why(&self, tenant: &TenantId, task: TaskId) -> Option<Vec<Waits>> {
        let entry = self.board.task(task).filter(|entry| entry.tenant == *tenant)?;
        let mut reasons = Vec::new();
        match &entry.place {
            Place::Held(agent) => reasons.push(held(entry, *agent)),
            Place::Nowhere => reasons.push(
                Waits::new(
                    "state",
                    format!("it is in state {}", entry.state.as_str()),
                    "a command that puts it into the queue",
                )
                .caused_by(entry.cause),
            ),
            Place::Dependent => {
                self.of_the_queue(entry, &mut reasons);
                self.of_its_dependencies(task, entry, &mut reasons);
            }
            Place::Timed(_) => {
                timed(entry, self.board.now(), &mut reasons);
                self.of_the_queue(entry, &mut reasons);
            }
            Place::Waiting => {
                self.of_the_queue(entry, &mut reasons);
                self.of_its_keys(task, entry, &mut reasons);
                reasons.extend(sticky(entry));
                if let Some(waits) = self.of_the_agents(entry, reasons.is_empty()) {
                    reasons.push(waits);
                }
            }
        }
        Some(reasons)
    }

    fn of_the_queue(&self, entry: &Entry, reasons: &mut Vec<Waits>) {
        let (tenant, name) = (&entry.tenant, &entry.queue);
        let Some(queue) = self.board.waiting.queue(tenant, name) else { return };
        let (rules, cause) = (&queue.rules, queue.rules.state_cause);
        if rules.state == QueueState::Paused {
            let message = format!("queue {name} is paused");
            let resume = format!("resuming the queue: POST /v1/queues/{name}/resume");
            reasons.push(Waits::new("queue_paused", message, resume).caused_by(cause));
        } else if rules.parks(entry.position) {
            let message = format!("queue {name} drains; the task came after that began");
            let resume = format!("resuming the queue: POST /v1/queues/{name}/resume");
            reasons.push(Waits::new("queue_draining", message, resume).caused_by(cause));
        }
        let (what, limit, standing) = match self.board.waiting.closed(tenant, name) {
            Some(Closed::Queue(standing)) => (format!("queue {name}"), rules.queue, standing),
            Some(Closed::Tenant(standing)) => (format!("tenant {tenant}"), rules.tenant, standing),
            Some(Closed::Paused) | None => return,
        };
        let of_queue = rules.queue == limit;
        let holders = |held: &Entry| held.tenant == *tenant && (!of_queue || held.queue == *name);
        reasons.extend(
            limit.and_then(|l| self.limited(&what, &l, standing, rules.policy_cause, holders)),
        );
    }

    /// What it waits for of other tasks: first those that can no longer give it, then what
    /// may still come, then where the chain behind that stands still.
    fn of_its_dependencies(&self, task: TaskId, entry: &Entry, reasons: &mut Vec<Waits>) {
        let Some(needs) = entry.needs.as_deref() else { return };
        let standing = |on: &TaskId| self.board.standing(&entry.tenant, *on);
        let is_lost =
            |on: &&TaskId| standing(on).is_some_and(|s| needs.mode.is_lost_by(s.state, s.archived));
        let (lost, hoped): (Vec<&TaskId>, Vec<&TaskId>) = needs.open.iter().partition(is_lost);
        // As long as another one may come, those of several that cannot hold nothing up.
        let decisive = needs.mode.need == Wanted::All || hoped.is_empty();
        for on in lost.iter().take(if decisive { NAMED } else { 0 }) {
            let Some(now) = standing(on) else { continue };
            let stands = if now.archived { "archived" } else { now.state.as_str() };
            let message = format!("task {on} is {stands} and will not be done");
            let revived = !now.archived && matches!(now.state, TaskState::Failed | TaskState::Dead);
            let revive = if revived {
                format!("requeueing task {on} (POST /v1/tasks/{on}/requeue), or ")
            } else {
                String::new()
            };
            let release = format!("{revive}other `depends_on` for this task, or cancelling it");
            let waits = Waits::new("dependency_lost", message, release);
            reasons.push(waits.about([on.0]).caused_by(now.cause));
        }
        if hoped.is_empty() {
            return;
        }
        let (what, release) = match needs.mode.on {
            On::Success => ("be done", "being done"),
            On::End => ("have ended", "coming to an end"),
        };
        let (message, release) = match needs.mode.need {
            Wanted::All => {
                (format!("{} tasks must {what} before it", hoped.len()), format!("those {release}"))
            }
            Wanted::Any => {
                let message = format!("one of {} tasks must {what} before it", hoped.len());
                (message, format!("one of those {release}"))
            }
        };
        let ids = hoped.iter().map(|id| id.0);
        reasons.push(Waits::new("dependency", message, release).about(ids).caused_by(needs.cause));
        let Some(stuck) = self.board.stuck(task) else { return };
        let head = stuck.path.first().copied().unwrap_or(task);
        if lost.contains(&&head) {
            return;
        }
        let (stands, release) = match stuck.head_state {
            None => ("was never submitted".to_owned(), format!("submitting task {head}")),
            Some(TaskState::Blocked) => ("is blocked".into(), format!("unblocking task {head}")),
            Some(TaskState::Inbox) => {
                ("is in the inbox".into(), format!("assigning or requeueing task {head}"))
            }
            Some(TaskState::Review) => ("is in review".into(), format!("a verdict on task {head}")),
            Some(state) => {
                (format!("is {}", state.as_str()), format!("requeueing or replacing task {head}"))
            }
        };
        let message = format!("what it waits for stands still: task {head} {stands}");
        let path = stuck.path.iter().rev().map(|id| id.0);
        reasons
            .push(Waits::new("chain_stuck", message, release).about(path).caused_by(stuck.cause));
    }

    fn of_its_keys(&self, task: TaskId, entry: &Entry, reasons: &mut Vec<Waits>) {
        let (tenant, name) = (&entry.tenant, &entry.queue);
        let before = reasons.len();
        let policy = self.board.waiting.queue(tenant, name).map_or(0, |q| q.rules.policy_cause);
        for gate in entry.gates() {
            let Some((limit, standing)) = self.board.waiting.gate(tenant, name, &gate) else {
                continue;
            };
            let what = match &gate {
                GateId::Key(_, key) => format!("concurrency key `{key}`"),
                GateId::Value { expression, value, .. } => format!("`{expression}` = `{value}`"),
            };
            let holders = |held: &Entry| held.gates().contains(&gate);
            reasons.extend(self.limited(&what, &limit, standing, policy, holders));
        }
        let first = self.board.waiting.is_exposed(task, entry) || reasons.len() > before;
        if !first && reasons.is_empty() {
            let message = "older or more urgent tasks of the same key come first".to_owned();
            let waits = Waits::new("key_in_line", message, "those tasks being given out");
            reasons.push(waits.caused_by(entry.position));
        }
    }

    fn limited(
        &self,
        what: &str,
        limit: &Limit,
        standing: Standing,
        policy: u64,
        holds: impl Fn(&Entry) -> bool,
    ) -> Option<Waits> {
        match standing {
            Standing::Open { .. } => None,
            Standing::Until(at) => {
                let at = Timestamp::from_timestamp_micros(at);
                let message = format!("the rate limit of {what} is used up");
                let release = "time, or another policy";
                Some(Waits::new("rate_limited", message, release).until(at).caused_by(policy))
            }
            Standing::Full => {
                let mut holders: Vec<_> =
                    self.board.held().filter(|(_, entry)| holds(entry)).collect();
                holders.sort_unstable_by_key(|(task, _)| *task);
                let most = limit.max_running.unwrap_or_default();
                let message = format!("{most} of {what} run, which is the limit");
                // The last of them made it full; the first lease to end frees a place.
                let cause = holders.iter().map(|(_, entry)| entry.cause).max();
                let ends = holders.iter().filter_map(|(_, entry)| Some(entry.lease?.expires_at));
                let release = "one of those tasks coming to its end, or another policy";
                let waits = Waits::new("limit_full", message, release).until(ends.min());
                let ids = holders.iter().map(|(task, _)| task.0);
                Some(waits.about(ids).caused_by(cause.unwrap_or(policy)))
            }
        }
    }

    /// What lies with the agents. Unless something else holds the task back, there is
    /// always an answer.
    fn of_the_agents(&self, entry: &Entry, alone: bool) -> Option<Waits> {
        let of_tenant = self.board.roster.iter().filter(|(_, a)| a.tenant == entry.tenant);
        let mut rejected = Rejected::default();
        let able: Vec<_> = of_tenant
            .filter(|(id, agent)| match entry.shape.judge(*id, agent) {
                Ok(()) => true,
                Err(why) => {
                    rejected.add(why, 1);
                    false
                }
            })
            .collect();
        let up = |id: AgentId| {
            self.board.roster.get(id).is_some_and(|a| a.state.takes_work() || a.can_be_revived())
        };
        let ready: Vec<AgentId> = able.iter().map(|(id, _)| *id).filter(|id| up(*id)).collect();
        let needs = needs(entry);
        if ready.is_empty() {
            let message = match able.len() {
                0 => format!("no agent is there{needs}{}", against(&rejected)),
                some => format!("none of the {some} agents{needs} takes work now"),
            };
            let release = format!("an agent{needs} that takes work");
            let waits = Waits::new("no_agent", message, release);
            let ids = able.iter().map(|(id, _)| id.0);
            let cause = able.iter().map(|(_, agent)| agent.since).max();
            return Some(waits.about(ids).caused_by(cause.unwrap_or(entry.position)));
        }
        let full = |id: &AgentId| {
            let slots = self.board.roster.get(*id).map_or(0, |agent| agent.slots);
            self.board.held_by(*id).len() >= slots
        };
        if ready.iter().all(full) {
            let tasks = ready.iter().flat_map(|id| self.board.held_by(*id));
            let held: Vec<_> = tasks.filter_map(|task| self.board.task(task)).collect();
            let ends = held.iter().filter_map(|entry| Some(entry.lease?.expires_at)).min();
            let cause = held.iter().map(|entry| entry.cause).max().unwrap_or(entry.position);
            let message =
                format!("all {} agents{needs} that take work have their hands full", ready.len());
            let release = "one of them ending a task, or another agent";
            let waits = Waits::new("agents_busy", message, release).until(ends);
            return Some(waits.about(ready.iter().map(|id| id.0)).caused_by(cause));
        }
        alone.then(|| {
            let free = ready.iter().filter(|id| !full(id)).map(|id| id.0);
            let message = format!(
                "an agent for it is free and has not asked for work of queue {}",
                entry.queue
            );
            let waits = Waits::new("next_in_line", message, "the agent's next claim");
            waits.about(free).caused_by(entry.cause)
        })
    }
}

fn held(entry: &Entry, agent: AgentId) -> Waits {
    let waits = match entry.lease {
        Some(lease) => {
            let message = format!("agent {agent} has it");
            let release = "the agent's answer, or the end of its lease";
            Waits::new("assigned", message, release).until(Some(lease.expires_at))
        }
        None => {
            let message = format!("it is on its way to agent {agent}");
            Waits::new("being_assigned", message, "the commit of its assignment")
        }
    };
    waits.about([agent.0]).caused_by(entry.cause)
}

/// It waits for an agent that knows the matter.
fn sticky(entry: &Entry) -> Option<Waits> {
    let near = entry.shape.near.as_ref().filter(|_| entry.shape.waits)?;
    let until = entry.sticks_until().and_then(Timestamp::from_timestamp_micros);
    let (who, ids) = match near {
        Near::Agent(agent) => (format!("agent {agent}"), vec![agent.0]),
        Near::Label(label, value) => (format!("an agent with {label} = {value}"), vec![]),
    };
    let message = format!("it is sticky and waits for {who}");
    let waits = Waits::new("sticky", message, format!("{who} having room, or time"));
    Some(waits.until(until).about(ids).caused_by(entry.cause))
}

fn timed(entry: &Entry, now: Timestamp, reasons: &mut Vec<Waits>) {
    if let Some(at) = entry.run_at.filter(|at| *at > now) {
        let message = format!("it is not to run before {}", stamp(at));
        let waits = Waits::new("run_at", message, "time, or another `run_at`");
        reasons.push(waits.until(Some(at)).caused_by(entry.position));
    }
    if let Some(at) = entry.retry_at.filter(|at| *at > now) {
        let message =
            format!("attempt {} came to nothing; the next is due at {}", entry.attempt, stamp(at));
        let waits = Waits::new("backoff", message, "time");
        reasons.push(waits.until(Some(at)).caused_by(entry.cause));
    }
}

/// `: 2 by label, 1 by cost`, for people; empty where nothing but capability spoke against
/// them, which is said already.
fn against(rejected: &Rejected) -> String {
    let Rejected { capability, assignee, label, cost, apart, sticky } = *rejected;
    let all = [
        ("capability", capability),
        ("assignee", assignee),
        ("label", label),
        ("cost", cost),
        ("being kept apart", apart),
        ("being sticky", sticky),
    ];
    let said = all.iter().filter(|(_, many)| *many > 0);
    let said: Vec<String> = said.map(|(by, many)| format!("{many} by {by}")).collect();
    match said.as_slice() {
        [] => String::new(),
        some => format!("; passed over: {}", some.join(", ")),
    }
}

/// ` that can …`, for people; empty when anybody can.
fn needs(entry: &Entry) -> String {
    let shape = &entry.shape;
    let mut text = String::new();
    if !shape.assignees.is_empty() {
        text = format!(" among {}", shape.assignees.join(", "));
    }
    if !shape.capabilities.is_empty() {
        let needs: Vec<&str> = shape.capabilities.iter().map(Need::as_str).collect();
        text = format!("{text} that can {}", needs.join(", "));
    }
    text
}

fn stamp(at: Timestamp) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
