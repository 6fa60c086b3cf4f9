//! Agents: honest ones, and all that goes wrong with agents.

use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;
use domain::agent::{AgentCommand, RegisterAgent};
use domain::task::{
    Assignment, BlockTask, CompleteTask, ExtendTask, FailTask, ProgressTask, ReleaseTask,
    StartTask, SubmitForReview, TaskCommand,
};
use domain::{AgentId, Json, TaskId, Timestamp};

use super::minds::Claim;
use super::world::{Act, From, World};
use crate::process::tests::memory::{agent_id, tenant};
use crate::{CommandEnvelope, Observation};

/// What an agent does next.
#[derive(Debug, Clone)]
pub enum Doing {
    Claim,
    Register,
    Start { task: TaskId, token: u64 },
    Progress { task: TaskId, token: u64 },
    Extend { task: TaskId, token: u64, ms: u64 },
    Finish { task: TaskId, token: u64 },
    Forget { task: TaskId, token: u64 },
    Lie,
}

/// One agent's process.
#[derive(Debug)]
pub struct Worker {
    pub id: AgentId,
    pub slots: u32,
    pub capabilities: Vec<String>,
    /// Counts its processes.
    pub life: u64,
    pub up: bool,
    pub paused: Option<Timestamp>,
    listens: bool,
    hands: BTreeMap<TaskId, u64>,
}

impl World {
    pub fn hire(&mut self, n: u128) {
        let slots = self.dice.between(1, 4) as u32;
        let gpu = n == 1 || self.dice.chance(40);
        let capabilities = if gpu { vec!["gpu".to_owned()] } else { vec![] };
        let listens = self.dice.chance(30);
        let (id, hands) = (agent_id(n), BTreeMap::new());
        let worker =
            Worker { id, slots, capabilities, life: 0, up: false, paused: None, listens, hands };
        self.workers.push(worker);
        self.rise(self.workers.len() - 1);
    }

    /// A process of the agent begins; it knows nothing of the one before.
    pub fn rise(&mut self, agent: usize) {
        let worker = &mut self.workers[agent];
        worker.life += 1;
        worker.hands.clear();
        (worker.up, worker.paused) = (true, None);
        let life = worker.life;
        self.after(1, Act::Agent { agent, life, doing: Doing::Register });
        self.after(5, Act::Agent { agent, life, doing: Doing::Claim });
        if self.plan.lies {
            self.after(50, Act::Agent { agent, life, doing: Doing::Lie });
        }
    }

    pub fn die(&mut self, agent: usize) {
        let worker = &mut self.workers[agent];
        (worker.up, worker.life) = (false, worker.life + 1);
        let id = worker.id;
        self.note(|| format!("{id} dies"));
        // Whoever carries its claim notices, or does not.
        if self.dice.chance(50) {
            self.claims.retain(|_, claim| claim.agent != agent);
        }
    }

    pub fn pause(&mut self, agent: usize, ms: u64) {
        let until = self.now + TimeDelta::milliseconds(ms as i64);
        self.workers[agent].paused = Some(until);
        let id = self.workers[agent].id;
        self.note(|| format!("{id} stands still for {ms} ms"));
    }

    fn stands(&self, agent: usize) -> Option<Timestamp> {
        self.workers[agent].paused.filter(|until| *until > self.now)
    }

    /// Whether it listens for pushed tasks; the buffers of one that stands still take some.
    pub fn hears(&self, id: AgentId) -> bool {
        self.workers.iter().any(|worker| worker.id == id && worker.up && worker.listens)
    }

    /// The heartbeats as they have come by now.
    pub fn seen(&self) -> HashMap<AgentId, Observation> {
        let now = self.instant();
        let there = self.workers.iter().enumerate().filter(|(_, worker)| worker.up);
        let beat = |(n, worker): (usize, &Worker)| {
            let seen = Observation::seen(now, self.now);
            self.stands(n).is_none().then_some((worker.id, seen))
        };
        there.filter_map(beat).collect()
    }

    pub fn pushed(&mut self, id: AgentId, assignment: Assignment) -> bool {
        let Some(agent) = self.workers.iter().position(|worker| worker.id == id) else {
            return false;
        };
        let heard = self.hears(id) && (self.stands(agent).is_none() || self.dice.chance(50));
        if heard {
            let (life, tasks) = (self.workers[agent].life, vec![assignment]);
            let late = self.dice.between(1, 10);
            self.after(late, Act::Deliver { agent, life, tasks });
        }
        heard
    }

    /// Work comes; the agent plans what it will do, and some do not do it well.
    pub fn deliver(&mut self, agent: usize, life: u64, tasks: Vec<Assignment>) {
        if self.workers[agent].life != life {
            return;
        }
        if let Some(until) = self.stands(agent) {
            return self.at(until, Act::Deliver { agent, life, tasks });
        }
        for given in tasks {
            let (task, token) = (given.task_id, given.lease.token);
            if self.workers[agent].hands.insert(task, token) == Some(token) {
                continue;
            }
            let mut then = |ms, doing| self.after(ms, Act::Agent { agent, life, doing });
            if !given.started {
                then(2, Doing::Start { task, token });
            }
            let left = (given.lease.expires_at - self.now).num_milliseconds().max(1) as u64;
            let style = if self.quiet { 0 } else { self.dice.below(100) };
            let ends = match style {
                // In good time.
                0..72 => self.dice.between(1, left.min(3_000)),
                // It needs longer, and says so.
                72..84 => {
                    let steps = self.dice.between(2, 5);
                    for nth in 1..=steps {
                        let doing = Doing::Extend { task, token, ms: left.max(1_000) };
                        self.after(nth * left / 2, Act::Agent { agent, life, doing });
                    }
                    (steps + 1) * left / 2
                }
                // It needs longer, and does not.
                84..94 => left + self.dice.between(1, 20_000),
                // It forgets the task.
                _ => {
                    let doing = Doing::Forget { task, token };
                    self.after(left, Act::Agent { agent, life, doing });
                    continue;
                }
            };
            if self.dice.chance(20) {
                let doing = Doing::Progress { task, token };
                self.after(ends / 2, Act::Agent { agent, life, doing });
            }
            self.after(ends, Act::Agent { agent, life, doing: Doing::Finish { task, token } });
        }
    }

    pub fn act(&mut self, agent: usize, life: u64, doing: Doing) {
        if self.workers[agent].life != life {
            return;
        }
        // A process that is stopped does it all as soon as it goes on.
        if let Some(until) = self.stands(agent) {
            return self.at(until, Act::Agent { agent, life, doing });
        }
        match doing {
            Doing::Claim => self.wants_work(agent, life),
            Doing::Register => self.register(agent),
            Doing::Start { task, token } => {
                self.says(agent, task, TaskCommand::Start(StartTask { lease_token: token }));
            }
            Doing::Progress { task, token } => {
                let (percent, message, data) = (Some(50.0), None, Json::null());
                let body = ProgressTask { lease_token: token, percent, message, data };
                self.says(agent, task, TaskCommand::Progress(body));
            }
            Doing::Extend { task, token, ms } => {
                let body = ExtendTask { lease_token: token, lease_ms: Some(ms) };
                self.says(agent, task, TaskCommand::Extend(body));
            }
            Doing::Finish { task, token } => self.finishes(agent, task, token),
            Doing::Forget { task, token } => {
                let hands = &mut self.workers[agent].hands;
                if hands.get(&task) == Some(&token) {
                    hands.remove(&task);
                }
            }
            Doing::Lie => self.lies(agent, life),
        }
    }

    fn register(&mut self, agent: usize) {
        if self.dice.chance(20) {
            self.workers[agent].slots = self.dice.between(1, 4) as u32;
        }
        let worker = &self.workers[agent];
        let mut new = RegisterAgent::named(format!("agent-{agent}"));
        (new.slots, new.capabilities) = (worker.slots, worker.capabilities.clone());
        new.ttl_ms = Some(10_000);
        let (stream, actor) = (worker.id.0, format!("agent:{}", worker.id));
        self.sends(stream, AgentCommand::Register(new), &actor);
    }

    fn wants_work(&mut self, agent: usize, life: u64) {
        let worker = &self.workers[agent];
        let (id, free) = (worker.id, (worker.slots as usize).saturating_sub(worker.hands.len()));
        let wait = self.dice.between(0, 8_000);
        let again = if free == 0 { 500 } else { wait + 20 };
        self.after(again, Act::Agent { agent, life, doing: Doing::Claim });
        if free == 0 {
            return;
        }
        let queue = self.plan.queue(&mut self.dice);
        let until = self.now + TimeDelta::milliseconds(wait as i64);
        let mut claim = Claim::at(agent, life, id, queue);
        // Some ask for more than they have room for.
        claim.max = free + usize::from(self.dice.chance(20));
        claim.lease_ms = self.dice.between(1_000, 20_000);
        claim.start = self.dice.chance(50);
        let number = self.serial();
        self.claims.insert(number, claim);
        self.after(2, Act::Claim { claim: number });
        self.at(until, Act::ClaimEnds { claim: number });
    }

    fn finishes(&mut self, agent: usize, task: TaskId, lease_token: u64) {
        let kind = if self.quiet { self.dice.below(80) } else { self.dice.below(100) };
        let fail = |retryable, class: Option<&str>, retry_after_ms| {
            let (error, class) = (Json::of("no"), class.map(Into::into));
            TaskCommand::Fail(FailTask { lease_token, error, retryable, class, retry_after_ms })
        };
        let command = match kind {
            0..70 => TaskCommand::Complete(CompleteTask { lease_token, result: Json::null() }),
            70..80 => fail(true, None, None),
            80..83 => fail(true, Some("odd"), None),
            83..86 => fail(true, None, Some(self.dice.between(0, 5_000))),
            86..89 => fail(false, None, None),
            89..94 => TaskCommand::Release(ReleaseTask { lease_token, reason: None }),
            94..97 => TaskCommand::Block(BlockTask {
                reason: "it waits for somebody".into(),
                lifted_by: vec![],
                lease_token: Some(lease_token),
            }),
            _ => TaskCommand::SubmitForReview(SubmitForReview {
                lease_token: Some(lease_token),
                result: Json::null(),
            }),
        };
        self.says(agent, task, command.clone());
        // Some say it twice, under an id of its own.
        if self.goes_wrong(5) {
            self.says(agent, task, command);
        }
    }

    /// An answer for a task that it does not hold, never held, or held once.
    fn lies(&mut self, agent: usize, life: u64) {
        let again = self.dice.between(500, 4_000);
        if self.quiet {
            return;
        }
        self.after(again, Act::Agent { agent, life, doing: Doing::Lie });
        if self.submitted == 0 {
            return;
        }
        let task = TaskId::nth(1 + u128::from(self.dice.below(self.submitted as u64)));
        let Some(known) = self.checker.model.tasks.get(&task) else { return };
        // Now and then the very token of the holder: it is a small number, after all.
        let lease_token = match known.held {
            Some(held) if self.dice.chance(50) => held.token,
            _ => self.dice.between(0, known.tokens + 1),
        };
        let result = Json::null();
        let command = match self.dice.below(6) {
            0 => TaskCommand::Start(StartTask { lease_token }),
            1 => TaskCommand::Release(ReleaseTask { lease_token, reason: None }),
            2 => TaskCommand::Extend(ExtendTask { lease_token, lease_ms: Some(60_000) }),
            3 => TaskCommand::Progress(ProgressTask {
                lease_token,
                percent: None,
                message: None,
                data: Json::null(),
            }),
            _ => TaskCommand::Complete(CompleteTask { lease_token, result }),
        };
        let actor = format!("agent:{}", self.workers[agent].id);
        self.sends(task.0, command, &actor);
    }

    fn says(&mut self, agent: usize, task: TaskId, command: TaskCommand) {
        let worker = &self.workers[agent];
        let (id, life) = (worker.id, worker.life);
        let last = !matches!(
            command,
            TaskCommand::Start(_) | TaskCommand::Progress(_) | TaskCommand::Extend(_)
        );
        let actor = format!("agent:{id}");
        let command =
            CommandEnvelope::new(tenant(), task.0, command, self.dice.id(), actor.as_str());
        self.ask(command, 20, From::Agent { agent, life, task, last });
    }

    /// Its last word on a task was heard.
    pub fn answered(&mut self, agent: usize, life: u64, task: TaskId) {
        let worker = &mut self.workers[agent];
        if worker.life == life {
            worker.hands.remove(&task);
        }
    }

    pub fn sends(&mut self, stream: uuid::Uuid, command: impl Into<domain::Command>, actor: &str) {
        let command = CommandEnvelope::new(tenant(), stream, command, self.dice.id(), actor);
        self.ask(command, 5, From::Nobody);
    }
}
