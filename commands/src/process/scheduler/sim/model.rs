//! The queue's rules told a second time, from the log alone: what the checks hold the
//! product against. Nothing of the scheduler or of the aggregates is used here.

use std::collections::BTreeMap;

use domain::agent::{AgentEvent, AgentState, state_after};
use domain::queue::{QueueEvent, QueuePolicy, QueueState};
use domain::task::{RetryPolicy, TaskEvent, TaskState, TaskSubmitted, TaskUpdated};
use domain::values::{Labels, Priority};
use domain::{AgentId, Event, Recorded, TaskId, Timestamp};
use uuid::Uuid;

/// The expression of the limits by label.
pub const CUSTOMER: &str = "task.labels.customer";
const SCHEDULER: &str = "manager:scheduler";

/// Who may answer for a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    pub agent: AgentId,
    pub token: u64,
    pub until: Timestamp,
    /// Given by the scheduler, not by an operator.
    pub ours: bool,
    /// The position of the assignment.
    pub since: u64,
}

/// An event that must come next in a task's stream, of the same command.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Dead,
    DeadOrFailed,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub queue: String,
    pub priority: Priority,
    pub position: u64,
    pub submitted: Timestamp,
    pub run_at: Option<Timestamp>,
    pub retry_at: Option<Timestamp>,
    pub due_at: Option<Timestamp>,
    pub overdue: bool,
    pub state: TaskState,
    pub archived: bool,
    pub held: Option<Held>,
    pub tokens: u64,
    pub attempt: u32,
    pub retry: RetryPolicy,
    pub depends_on: Vec<TaskId>,
    pub capabilities: Vec<String>,
    pub assignees: Vec<String>,
    pub key: Option<String>,
    /// What the expression says of it, while a limit counts by it.
    pub customer: Option<String>,
    label: Option<String>,
    /// The queue's policy had the expression when it was submitted.
    looked_at: bool,
    /// Position of the last change of `customer`.
    pub described: u64,
    owes: Option<(Uuid, End)>,
}

impl Task {
    pub fn is_open(&self) -> bool {
        !self.archived && !matches!(self.state, TaskState::Done | TaskState::Cancelled)
    }

    /// Until when it must not be given out.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.run_at.max(self.retry_at)
    }

    /// Since when it could have run, which is what it is served by.
    pub fn since(&self) -> Timestamp {
        self.run_at.unwrap_or(Timestamp::UNIX_EPOCH).max(self.submitted)
    }

    /// Any agent may have it.
    pub fn suits_all(&self) -> bool {
        self.capabilities.is_empty() && self.assignees.is_empty()
    }

    /// The same, and no limit counts it by a value of its own.
    pub fn is_plain(&self) -> bool {
        self.suits_all() && self.key.is_none() && self.customer.is_none()
    }

    pub fn owes_an_event(&self) -> bool {
        self.owes.is_some()
    }
}

#[derive(Debug, Clone)]
pub struct Agent {
    pub slots: usize,
    pub capabilities: Vec<String>,
    pub state: AgentState,
}

#[derive(Debug, Clone, Default)]
pub struct Queue {
    pub state: QueueState,
    pub state_at: u64,
    pub policy: QueuePolicy,
}

impl Queue {
    /// Whether it gives out a task submitted at a position, limits aside.
    pub fn gives(&self, submitted: u64) -> bool {
        match self.state {
            QueueState::Active => true,
            QueueState::Paused => false,
            QueueState::Draining => submitted <= self.state_at,
        }
    }

    pub fn limit(&self, key: &str) -> Option<&domain::queue::LimitPolicy> {
        self.policy.limits.iter().find(|limit| limit.key == key)
    }

    /// The urgency that a task counts as.
    pub fn level(&self, task: &Task, now: Timestamp) -> usize {
        let Some(aging) = self.policy.aging_ms else { return task.priority as usize };
        let waited = (now - task.since()).num_milliseconds().max(0) as u64;
        (task.priority as usize).saturating_sub((waited / aging) as usize)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub tasks: BTreeMap<TaskId, Task>,
    pub agents: BTreeMap<AgentId, Agent>,
    pub queues: BTreeMap<String, Queue>,
    pub position: u64,
    /// What operators gave out, by queue and urgency: the scheduler counts it as served.
    pub by_operator: BTreeMap<(String, usize), u32>,
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Model {
    pub fn queue(&self, name: &str) -> Queue {
        self.queues.get(name).cloned().unwrap_or_default()
    }

    /// Whether all that a task waits for is done.
    pub fn is_free(&self, task: &Task) -> bool {
        let done = |id: &TaskId| self.tasks.get(id).is_some_and(|t| t.state == TaskState::Done);
        task.depends_on.iter().all(done)
    }

    /// Folds an event; says what is wrong with it.
    pub fn apply(&mut self, event: &Recorded) -> Result<(), String> {
        must(event.position == self.position + 1, || "the log has a hole".into())?;
        self.position = event.position;
        match event.event().map_err(|error| error.to_string())? {
            Event::Task(happened) => {
                self.task(event, happened).map_err(|why| format!("{}: {why}", event.stream_id))
            }
            Event::Agent(happened) => {
                self.agent(AgentId(event.stream_id), happened);
                Ok(())
            }
            Event::Queue(decided) => {
                self.decided(event.position, decided);
                Ok(())
            }
            Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Node(_)
            | Event::Profile(_) => Ok(()),
        }
    }

    fn agent(&mut self, id: AgentId, happened: &AgentEvent) {
        if let AgentEvent::Registered(said) | AgentEvent::Reconnected(said) = happened {
            let mut capabilities = said.capabilities.clone();
            capabilities.sort_unstable();
            let (slots, state) = (said.slots as usize, AgentState::Created);
            self.agents.insert(id, Agent { slots, capabilities, state });
        }
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if let AgentEvent::Updated(changes) = happened {
            agent.slots = changes.slots.map_or(agent.slots, |slots| slots as usize);
        }
        agent.state = state_after(Some(agent.state), happened).unwrap_or(agent.state);
    }

    fn decided(&mut self, position: u64, decided: &QueueEvent) {
        let queue = self.queues.entry(decided.queue().into()).or_default();
        queue.state = match decided {
            QueueEvent::Configured(new) => {
                queue.policy = new.policy.clone();
                return;
            }
            QueueEvent::Paused(_) => QueueState::Paused,
            QueueEvent::Resumed(_) => QueueState::Active,
            QueueEvent::Draining(_) => QueueState::Draining,
        };
        queue.state_at = position;
    }

    fn submitted(&self, event: &Recorded, new: &TaskSubmitted) -> Task {
        let label = customer(&new.labels);
        let looked_at = self.queue(&new.queue).limit(CUSTOMER).is_some();
        Task {
            queue: new.queue.clone(),
            priority: new.priority,
            position: event.position,
            submitted: event.recorded_at,
            run_at: new.run_at,
            retry_at: None,
            due_at: new.due_at,
            overdue: false,
            state: if new.triage { TaskState::Inbox } else { TaskState::Queued },
            archived: false,
            held: None,
            tokens: 0,
            attempt: 0,
            retry: new.retry.clone(),
            depends_on: new.depends_on.clone(),
            capabilities: new.capabilities.clone(),
            assignees: new.assignees.clone(),
            key: new.concurrency_key.clone(),
            customer: label.clone().filter(|_| looked_at),
            label,
            looked_at,
            described: 0,
            owes: None,
        }
    }

    fn task(&mut self, event: &Recorded, happened: &TaskEvent) -> Result<(), String> {
        use TaskEvent as E;
        use TaskState as S;
        let (id, now) = (TaskId(event.stream_id), event.recorded_at);
        if let E::Submitted(new) = happened {
            must(!self.tasks.contains_key(&id), || "submitted twice".into())?;
            let task = self.submitted(event, new);
            self.tasks.insert(id, task);
            return Ok(());
        }
        let known = self.tasks.get(&id).ok_or("it was never submitted")?;
        let by_expression = self.queue(&known.queue).limit(CUSTOMER).is_some();
        let (before, name) = (known.state, &event.event_type);
        let queue = self.queue(&known.queue);
        let task = self.tasks.get_mut(&id).ok_or("it was never submitted")?;
        must(!task.archived, || format!("{name} after its archiving"))?;
        if let Some((command, end)) = task.owes.take() {
            let failed = matches!(happened, E::Failed(_)) && end == End::DeadOrFailed;
            let fits = failed || matches!(happened, E::DeadLettered(_));
            must(fits && command == event.command_id, || format!("{name} instead of its end"))?;
        } else {
            let end = matches!(happened, E::Failed(_) | E::DeadLettered(_));
            must(!end, || format!("{name} out of nothing"))?;
        }
        let from =
            |states: &[S]| must(states.contains(&before), || format!("{name} in {before:?}"));
        let used_up = task.attempt >= task.retry.max_attempts;
        match happened {
            E::Updated(changes) => {
                // A requeue that changes it has this before itself.
                from(&[
                    S::Inbox,
                    S::Queued,
                    S::Assigned,
                    S::InProgress,
                    S::Blocked,
                    S::Review,
                    S::Failed,
                    S::Dead,
                ])?;
                task.updated(event.position, changes, by_expression);
            }
            E::Assigned(to) => {
                from(&[S::Inbox, S::Queued])?;
                must(task.held.is_none(), || "it has a live lease already".into())?;
                must(to.lease_token > task.tokens, || format!("token {} again", to.lease_token))?;
                must(to.attempt == task.attempt + 1, || format!("attempt {}", to.attempt))?;
                must(to.attempt <= task.retry.max_attempts, || "one attempt too many".into())?;
                must(to.lease_expires_at > now, || "a lease that has run out".into())?;
                let ours = &*event.actor == SCHEDULER;
                if !ours {
                    let level = queue.level(task, now);
                    *self.by_operator.entry((task.queue.clone(), level)).or_default() += 1;
                }
                task.held = Some(Held {
                    agent: to.agent_id,
                    token: to.lease_token,
                    until: to.lease_expires_at,
                    ours,
                    since: event.position,
                });
                (task.tokens, task.attempt, task.state) = (to.lease_token, to.attempt, S::Assigned);
                task.retry_at = None;
            }
            E::Unassigned(from_whom) | E::Released(from_whom) => {
                task.had(from_whom.agent_id)?;
                task.attempt -= 1;
                task.ends(S::Queued);
            }
            E::Started(start) => {
                from(&[S::Assigned])?;
                task.had(start.agent_id)?;
                task.state = S::InProgress;
            }
            E::Escalated(_) => {}
            E::Progressed(_) => from(&[S::InProgress])?,
            E::Blocked(_) => {
                from(&[S::InProgress])?;
                task.state = S::Blocked;
            }
            E::Unblocked(_) => {
                from(&[S::Blocked])?;
                task.state = S::InProgress;
            }
            E::ReviewRequested(_) => {
                from(&[S::InProgress])?;
                task.ends(S::Review);
            }
            E::Approved(_) => from(&[S::Review])?,
            E::Rejected(_) => {
                from(&[S::Review])?;
                task.ends(S::Queued);
                task.owes = used_up.then_some((event.command_id, End::Dead));
            }
            E::Completed(_) => {
                from(&[S::InProgress, S::Blocked, S::Review])?;
                task.ends(S::Done);
            }
            E::AttemptFailed(failed) => {
                task.had(failed.agent_id)?;
                must(failed.attempt == task.attempt, || "another attempt failed".into())?;
                must(failed.retry_at.is_none() || !used_up, || "tried again at the end".into())?;
                task.ends(S::Queued);
                task.retry_at = failed.retry_at;
                let owes = failed.retry_at.is_none();
                task.owes = owes.then_some((event.command_id, End::DeadOrFailed));
            }
            E::LeaseExtended(to) => {
                let held = task.held.as_mut().ok_or("nobody holds it")?;
                must(held.token == to.lease_token, || "another lease was extended".into())?;
                held.until = to.lease_expires_at;
            }
            E::LeaseExpired(by) => {
                let held = task.held.ok_or("nobody holds it")?;
                must(held.token == by.lease_token, || "another lease expired".into())?;
                must(held.until <= now, || "the lease ran on".into())?;
                task.ends(S::Queued);
                task.owes = used_up.then_some((event.command_id, End::Dead));
            }
            E::Failed(_) => task.ends(S::Failed),
            E::DeadLettered(end) => {
                must(end.attempts == task.attempt, || "another number of attempts".into())?;
                task.ends(S::Dead);
            }
            E::Cancelled(_) => {
                must(!before.is_final(), || format!("cancelled in {before:?}"))?;
                task.ends(S::Cancelled);
            }
            E::Requeued(_) => {
                from(&[S::Inbox, S::Failed, S::Dead])?;
                task.ends(S::Queued);
                (task.attempt, task.retry_at) = (0, None);
            }
            E::Archived(_) => {
                from(&[S::Inbox, S::Queued, S::Done, S::Failed, S::Dead, S::Cancelled])?;
                task.archived = true;
            }
            E::Overdue(late) => {
                must(late.due_at <= now && task.due_at == Some(late.due_at), || {
                    "too early".into()
                })?;
                must(!task.overdue, || "overdue twice".into())?;
                task.overdue = true;
            }
            E::Submitted(_) => {}
        }
        Ok(())
    }
}

impl Task {
    fn updated(&mut self, position: u64, changes: &TaskUpdated, by_expression: bool) {
        self.priority = changes.priority.unwrap_or(self.priority);
        self.run_at = changes.run_at.unwrap_or(self.run_at);
        if let Some(due_at) = changes.due_at {
            (self.due_at, self.overdue) = (due_at, false);
        }
        if let Some(labels) = &changes.labels {
            self.label = customer(labels);
        }
        if self.looked_at {
            let customer = self.label.clone().filter(|_| by_expression);
            if customer != self.customer {
                (self.customer, self.described) = (customer, position);
            }
        }
    }

    fn ends(&mut self, state: TaskState) {
        (self.state, self.held) = (state, None);
    }

    fn had(&self, agent: AgentId) -> Result<(), String> {
        let holder = self.held.map(|held| held.agent);
        must(holder == Some(agent), || format!("{agent} is named, {holder:?} holds it"))
    }
}

fn customer(labels: &Labels) -> Option<String> {
    match labels {
        Labels::Pairs(pairs) => pairs.get("customer").cloned(),
        Labels::Words(_) => None,
    }
}
