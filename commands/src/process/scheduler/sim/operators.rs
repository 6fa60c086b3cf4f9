//! Those who submit tasks and decide about them, and the misfortunes of a run.

use chrono::TimeDelta;
use domain::agent::{AgentCommand, AgentState};
use domain::queue::{
    ChangeQueue, ConfigureQueue, LimitPolicy, QueueCommand, QueueMode, QueuePolicy, RatePolicy,
    Weights, queue_id,
};
use domain::task::{
    AssignTask, RequeueTask, RetryPolicy, SubmitTask, TaskCommand, TaskState, UpdateTask,
};
use domain::values::{Labels, Priority};
use domain::{AgentId, TaskId};

use super::dice::Dice;
use super::model::CUSTOMER;
use super::world::{Act, World};
use crate::CommandEnvelope;
use crate::process::tests::memory::tenant;

/// How long things go wrong, in milliseconds.
const STORMY: u64 = 60_000;

/// What one seed looks like.
#[derive(Debug, Clone)]
pub struct Plan {
    pub tasks: u128,
    pub agents: u128,
    queues: Vec<&'static str>,
    pub lies: bool,
    operators: bool,
    /// Policies change on the way.
    decides: bool,
    mode: QueueMode,
    aging_ms: Option<u64>,
    rate: Option<RatePolicy>,
    guaranteed: u32,
    /// The same in each queue, as what they count runs in any: another queue's looser
    /// limit would let more of them run.
    keyed: u64,
    tenant: Option<u64>,
    /// Nothing stands in the way of shares: who is served next can be checked.
    pub shares: bool,
    /// A queue stays paused to the end.
    stays_paused: bool,
}

impl Plan {
    pub fn drawn(dice: &mut Dice) -> Self {
        let guaranteed = if dice.chance(25) { 1 } else { 0 };
        let rate = |dice: &mut Dice| RatePolicy {
            per_s: dice.between(2, 20) as f64,
            burst: dice.between(1, 3) as u32,
        };
        Self {
            tasks: dice.between(20, 70).into(),
            agents: dice.between(2, 5).into(),
            queues: if dice.chance(50) { vec!["default"] } else { vec!["default", "side"] },
            lies: dice.chance(60),
            operators: dice.chance(70),
            decides: dice.chance(60),
            mode: if dice.chance(25) { QueueMode::Strict } else { QueueMode::Weighted },
            aging_ms: dice.chance(40).then(|| dice.between(500, 10_000)),
            rate: dice.chance(30).then(|| rate(dice)),
            guaranteed,
            keyed: dice.between(1, 2),
            tenant: dice.chance(30).then(|| dice.between(3, 8)),
            shares: guaranteed == 0,
            stays_paused: dice.chance(15),
        }
    }

    pub fn queue(&self, dice: &mut Dice) -> String {
        (*dice.of_all(&self.queues).unwrap_or(&"default")).into()
    }

    fn policy(&self, dice: &mut Dice) -> QueuePolicy {
        let limit = |key: &str, max: u64, rate, guaranteed| LimitPolicy {
            key: key.into(),
            max_running: Some(max as u32),
            guaranteed,
            rate,
        };
        let mut limits = vec![limit("task.concurrency_key", self.keyed, None, 0)];
        // The rate stays the same through a run, so that its picks can be counted.
        limits.push(limit("queue", dice.between(3, 6), self.rate, 0));
        if dice.chance(70) {
            limits.push(limit(CUSTOMER, dice.between(1, 2), None, self.guaranteed));
        }
        if let Some(most) = self.tenant {
            limits.push(limit("tenant", most, None, 0));
        }
        let mut weights = Weights::default();
        if dice.chance(50) {
            weights.background = dice.between(1, 8) as u32;
            weights.critical = dice.between(1, 32) as u32;
        }
        let (mode, aging_ms) = (self.mode, self.aging_ms);
        QueuePolicy { mode, weights, aging_ms, limits, ..QueuePolicy::default() }
    }
}

impl World {
    /// The agents, the queues and the first scheduler.
    pub fn open(&mut self) {
        for queue in self.plan.queues.clone() {
            let policy = self.plan.policy(&mut self.dice);
            let new = ConfigureQueue { queue: queue.into(), policy };
            let (stream, id) = (queue_id(&tenant(), queue), self.dice.id());
            let command = QueueCommand::Configure(new);
            self.settle(&CommandEnvelope::new(tenant(), stream, command, id, "operator"));
        }
        for n in 1..=self.plan.agents {
            self.hire(n);
        }
        self.take_over();
        for act in [Act::Submit, Act::Operate, Act::Misfortune] {
            self.after(20, act);
        }
        self.after(STORMY, Act::Quiet);
    }

    fn configure(&mut self, queue: &str) {
        let policy = self.plan.policy(&mut self.dice);
        self.queue(queue, QueueCommand::Configure(ConfigureQueue { queue: queue.into(), policy }));
    }

    fn queue(&mut self, queue: &str, command: QueueCommand) {
        self.sends(queue_id(&tenant(), queue), command, "operator");
    }

    pub fn submit(&mut self) {
        // In bursts: what comes at once is what shares are about.
        let burst = if self.dice.chance(30) { self.dice.between(5, 15) } else { 1 };
        for _ in 0..burst {
            if self.submitted < self.plan.tasks {
                self.submit_one();
            }
        }
        if self.submitted < self.plan.tasks {
            let next = self.dice.between(1, 2 * STORMY / self.plan.tasks as u64);
            self.after(next, Act::Submit);
        }
    }

    fn submit_one(&mut self) {
        self.submitted += 1;
        let (n, now) = (self.submitted, self.now);
        let dice = &mut self.dice;
        let mut new = SubmitTask::titled(format!("task {n}"));
        new.queue = self.plan.queue(dice);
        new.priority = Priority::ALL[dice.below(5) as usize];
        if dice.chance(20) {
            new.concurrency_key = Some(format!("key-{}", dice.below(2)));
        }
        if dice.chance(20) {
            let customer = ("customer".to_owned(), format!("c{}", dice.below(2)));
            new.labels = Labels::Pairs([customer].into());
        }
        if dice.chance(15) {
            new.capabilities = vec!["gpu".into()];
        }
        if dice.chance(5) {
            new.assignees = vec![crate::process::tests::memory::agent_id(1).to_string()];
        }
        if dice.chance(15) && n > 1 {
            new.depends_on = vec![TaskId::nth(1 + u128::from(dice.below(n as u64 - 1)))];
        }
        let later = |ms: u64| Some(now + TimeDelta::milliseconds(ms as i64));
        if dice.chance(10) {
            new.run_at = later(dice.between(1, 20_000));
        }
        if dice.chance(15) {
            new.due_at = later(dice.between(1, 30_000));
        }
        new.triage = dice.chance(4);
        if dice.chance(80) {
            let retryable = dice.chance(30).then(|| vec!["usual".to_owned()]);
            new.retry = Some(RetryPolicy {
                max_attempts: dice.between(1, 6) as u32,
                backoff_ms: dice.between(0, 2_000),
                backoff_max_ms: dice.between(0, 8_000),
                retryable,
            });
        }
        self.sends(TaskId::nth(n).0, TaskCommand::Submit(new), "operator");
    }

    fn some_task(&mut self, states: &[TaskState]) -> Option<TaskId> {
        let tasks = self.checker.model.tasks.iter();
        let fit = tasks.filter(|(_, t)| !t.archived && states.contains(&t.state));
        let fit: Vec<TaskId> = fit.map(|(id, _)| *id).collect();
        self.dice.of_all(&fit).copied()
    }

    /// An operator decides something; at the end somebody sees to what waits for a word.
    pub fn operate(&mut self) {
        use TaskState as S;
        let next = self.dice.between(50, 2_500);
        self.after(next, Act::Operate);
        self.attend();
        if self.quiet {
            return self.ready_all();
        }
        if !self.plan.operators {
            return;
        }
        let agent: Option<AgentId> = self.dice.of_all(&self.workers).map(|worker| worker.id);
        let Some(agent) = agent else { return };
        let held = [S::Assigned, S::InProgress, S::Blocked];
        let (task, command) = match self.dice.below(12) {
            0 => (self.some_task(&[S::Queued]), TaskCommand::Cancel(Default::default())),
            1 => (self.some_task(&held), TaskCommand::Cancel(Default::default())),
            2 => (self.some_task(&[S::Queued]), TaskCommand::Assign(AssignTask::to(agent))),
            3 => (self.some_task(&held), TaskCommand::Reassign(AssignTask::to(agent))),
            4 => (self.some_task(&held), TaskCommand::Unassign(Default::default())),
            5 => (self.some_task(&[S::Dead]), TaskCommand::Discard(Default::default())),
            6 => (self.some_task(&[S::Queued]), TaskCommand::Archive(Default::default())),
            7 | 8 => {
                let changes = self.change();
                (self.some_task(&[S::Queued, S::InProgress]), TaskCommand::Update(changes))
            }
            9 if self.plan.decides => return self.decide_about_a_queue(),
            10 => {
                let command = if self.dice.chance(50) {
                    AgentCommand::Drain(Default::default())
                } else {
                    AgentCommand::MarkReady(Default::default())
                };
                return self.sends(agent.0, command, "operator");
            }
            _ => return,
        };
        if let Some(task) = task {
            self.sends(task.0, command, "operator");
        }
    }

    /// A drain that was long under way may come after the calm.
    fn ready_all(&mut self) {
        let drains = |id: &AgentId| {
            let agent = self.checker.model.agents.get(id);
            agent.is_some_and(|agent| agent.state == AgentState::Draining)
        };
        let ids = self.workers.iter().map(|worker| worker.id).filter(drains);
        for id in ids.collect::<Vec<_>>() {
            self.sends(id.0, AgentCommand::MarkReady(Default::default()), "operator");
        }
    }

    fn change(&mut self) -> UpdateTask {
        let (dice, now) = (&mut self.dice, self.now);
        let mut changes = UpdateTask::default();
        match dice.below(4) {
            0 => changes.priority = Some(Priority::ALL[dice.below(5) as usize]),
            1 => {
                let at = now + TimeDelta::milliseconds(dice.between(0, 5_000) as i64);
                changes.run_at = Some(dice.chance(70).then_some(at));
            }
            2 => {
                let customer = ("customer".to_owned(), format!("c{}", dice.below(2)));
                changes.labels = Some(Labels::Pairs([customer].into()));
            }
            _ => {
                let at = now + TimeDelta::milliseconds(dice.between(0, 5_000) as i64);
                changes.due_at = Some(Some(at));
            }
        }
        changes
    }

    fn decide_about_a_queue(&mut self) {
        let queue = self.plan.queue(&mut self.dice);
        let change = ChangeQueue::of(queue.as_str());
        match self.dice.below(6) {
            0 => self.configure(&queue),
            1 => self.queue(&queue, QueueCommand::Pause(change)),
            2 => self.queue(&queue, QueueCommand::Drain(change)),
            _ => self.queue(&queue, QueueCommand::Resume(change)),
        }
    }

    /// Somebody lifts blocks, gives verdicts, looks at dead letters and at the inbox.
    fn attend(&mut self) {
        use TaskState as S;
        let waits = [S::Inbox, S::Blocked, S::Review, S::Dead, S::Failed];
        let Some(task) = self.some_task(&waits) else { return };
        let state = self.checker.model.tasks.get(&task).map(|task| task.state);
        let command = match state {
            Some(S::Inbox) => TaskCommand::Requeue(RequeueTask::default()),
            Some(S::Blocked) => TaskCommand::Unblock(Default::default()),
            Some(S::Review) if self.dice.chance(50) => TaskCommand::Approve(Default::default()),
            Some(S::Review) => TaskCommand::Reject(Default::default()),
            // Not for ever: a task may fail each time.
            _ if self.quiet => return,
            _ => TaskCommand::Requeue(RequeueTask::default()),
        };
        self.sends(task.0, command, "operator");
    }

    /// Something goes wrong with an agent, or with the scheduler.
    pub fn misfortune(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.dice.between(200, 6_000);
        self.after(next, Act::Misfortune);
        let agent = self.dice.below(self.workers.len() as u64) as usize;
        match self.dice.below(10) {
            0..3 if self.workers[agent].up => self.die(agent),
            0..6 if !self.workers[agent].up => self.rise(agent),
            3..7 => {
                let ms = self.dice.between(500, 45_000);
                self.pause(agent, ms);
            }
            7 => {
                // Its process is killed, or only cut off for a while.
                if self.dice.chance(50) {
                    self.gone(self.leader);
                }
                self.take_over();
            }
            _ => {}
        }
    }

    /// From here on everything works; what was submitted must come to its end.
    pub fn calm(&mut self) {
        self.quiet = true;
        self.note(|| "quiet".into());
        for agent in 0..self.workers.len() {
            self.workers[agent].paused = None;
            if !self.workers[agent].up {
                self.rise(agent);
            }
            let id = self.workers[agent].id;
            self.sends(id.0, AgentCommand::MarkReady(Default::default()), "operator");
        }
        if !self.minds.contains_key(&self.leader) {
            self.take_over();
        }
        for (nth, queue) in self.plan.queues.clone().into_iter().enumerate() {
            let change = ChangeQueue::of(queue);
            if nth == 0 && self.plan.stays_paused {
                self.queue(queue, QueueCommand::Pause(change));
            } else {
                self.queue(queue, QueueCommand::Resume(change));
            }
        }
    }
}
