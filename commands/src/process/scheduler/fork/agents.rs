//! The agents of a world that has left the record: they ask for work as they did, and do each
//! task as it was done.

use std::sync::Arc;

use domain::task::{
    BlockTask, CompleteTask, ExtendTask, FailTask, Reason, ReleaseTask, StartTask, SubmitForReview,
    TaskCommand,
};
use domain::{AgentId, Code, Command, Outcome, Problem, Status, TaskId};
use tokio::sync::oneshot;

use super::super::core::{ACTOR, Hand, Pick};
use super::super::waiters::{Terms, Waiter};
use super::observed::{Ended, Run, Step, Ways};
use super::world::World;
use crate::CommandEnvelope;

/// Draws for a run that is at least as long as one that was cut.
const DRAWS: usize = 8;

/// What happens at a time.
#[derive(Debug)]
pub(super) enum Act {
    /// A decision is committed.
    Land(Box<Pick>),
    /// The next step of a run.
    Step { task: TaskId, token: u64, run: (TaskId, usize), nth: usize, began_us: i64 },
    /// An agent asks for work with one slot more.
    Ask(AgentId),
    /// An agent is there from now on.
    Arrive(AgentId),
}

/// An agent that asks for work.
#[derive(Debug, Default)]
pub(super) struct Worker {
    ways: Ways,
    here: bool,
    /// Free slots that it does not ask for yet.
    resting: usize,
    /// Its claims that wait: their numbers and queues.
    claims: Vec<(u64, Arc<str>)>,
}

impl Run {
    /// Whether its failure was worth another attempt.
    pub fn is_retryable(&self) -> bool {
        let last = self.steps.last().map(|done| &done.step);
        !matches!(last, Some(Step::Fail { retryable: false, .. }))
    }

    fn length_us(&self) -> i64 {
        self.steps.last().map_or(0, |done| done.after_us)
    }
}

impl World {
    /// Everybody who is known to ask for work does so.
    pub fn hire(&mut self) {
        let observed = self.observed.clone();
        let mut here: Vec<(i64, AgentId)> = Vec::new();
        for (id, ways) in &observed.ways {
            let Some(from) = ways.from_us else { continue };
            let mut ways = ways.clone();
            if !ways.listens && ways.queues.is_empty() {
                ways = observed.usual();
                ways.from_us = Some(from);
                self.assumed.unknown_ways += 1;
            }
            let worker = Worker { ways, here: from <= self.now, ..Worker::default() };
            self.workers.insert(*id, worker);
            if from <= self.now {
                here.push((from, *id));
            } else {
                self.at(from, Act::Arrive(*id));
            }
        }
        for twin in self.twins.clone() {
            let known = twin.like.and_then(|id| observed.ways.get(&id));
            let known = known.filter(|ways| ways.listens || !ways.queues.is_empty());
            if known.is_none() {
                self.assumed.unknown_ways += 1;
            }
            let ways = known.cloned().unwrap_or_else(|| observed.usual());
            self.workers.insert(twin.id, Worker { ways, here: true, ..Worker::default() });
            here.push((self.now, twin.id));
        }
        // Who was there first asked first.
        here.sort_unstable();
        for (_, agent) in here {
            self.listen(agent);
            self.ask(agent);
        }
    }

    fn listen(&mut self, agent: AgentId) {
        let listens = self.workers.get(&agent).is_some_and(|w| w.here && w.ways.listens);
        if listens && !self.scheduler.listens(agent) {
            let now = self.moment().instant;
            self.scheduler.heard(agent, true, now);
        }
    }

    /// What is known of it has changed: it may ask anew.
    pub fn came_or_went(&mut self, agent: AgentId) {
        if self.workers.contains_key(&agent) {
            self.listen(agent);
            self.ask(agent);
        }
    }

    /// Has an agent ask for all the slots that it has free.
    fn ask(&mut self, agent: AgentId) {
        let free = self.scheduler.board.free_slots(agent);
        let Some(worker) = self.workers.get_mut(&agent) else { return };
        for (claim, _) in std::mem::take(&mut worker.claims) {
            self.scheduler.withdraw(claim);
        }
        let max = free.saturating_sub(worker.resting);
        if !worker.here || worker.ways.queues.is_empty() || max == 0 {
            return;
        }
        let start = worker.ways.start;
        for queue in worker.ways.in_order() {
            let lease_ms = self.lease_of(agent);
            let (answer, _nobody_waits) = oneshot::channel();
            let waiter = Waiter {
                tenant: self.tenant.clone(),
                queue: queue.as_ref().into(),
                agent,
                max,
                terms: Terms { lease_ms, start },
                answer,
            };
            let claim = self.scheduler.wait(waiter);
            if let (Some(claim), Some(worker)) = (claim, self.workers.get_mut(&agent)) {
                worker.claims.push((claim, queue));
            }
        }
    }

    /// A slot is free again; its agent pauses as it used to, then asks.
    pub fn freed(&mut self, agent: AgentId) {
        let Some(worker) = self.workers.get_mut(&agent) else { return };
        worker.resting += 1;
        let pause = self.dice.one_of(&worker.ways.pauses).unwrap_or_default();
        self.at(self.now + pause, Act::Ask(agent));
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Land(pick) => self.land(&pick),
            Act::Step { task, token, run, nth, began_us } => {
                self.step(task, token, run, nth, began_us);
            }
            Act::Ask(agent) => {
                if let Some(worker) = self.workers.get_mut(&agent) {
                    worker.resting = worker.resting.saturating_sub(1);
                }
                self.listen(agent);
                self.ask(agent);
            }
            Act::Arrive(agent) => {
                if let Some(worker) = self.workers.get_mut(&agent) {
                    worker.here = true;
                }
                self.listen(agent);
                self.ask(agent);
            }
        }
    }

    /// Gives out what can be given out, as the scheduler's own process does.
    pub fn serve(&mut self) {
        self.look_up();
        self.scheduler.advance(self.time());
        loop {
            for hand in self.scheduler.serve() {
                match hand {
                    Hand::Claim(waiter, picks) => {
                        let agent = waiter.agent;
                        let queue = waiter.queue;
                        if let Some(worker) = self.workers.get_mut(&agent) {
                            worker.claims.retain(|(_, of)| **of != *queue);
                        }
                        let empty = picks.is_empty();
                        picks.into_iter().for_each(|pick| self.lands(pick));
                        // An empty answer says that it takes no work: it asks when that changes.
                        if !empty {
                            self.ask(agent);
                        }
                    }
                    Hand::Push(pick) => self.lands(*pick),
                }
            }
            if !self.scheduler.is_unfinished() {
                return;
            }
        }
    }

    /// A decision is on its way to the log of this world.
    fn lands(&mut self, pick: Pick) {
        // What is only told once more its agent works on already.
        if pick.assign.is_some() {
            let late = self.observed.landing_us();
            self.at(self.now + late, Act::Land(Box::new(pick)));
        }
    }

    fn land(&mut self, pick: &Pick) {
        let Some(envelope) = &pick.assign else { return };
        let Command::Task(TaskCommand::Assign(to)) = &envelope.command else { return };
        let mut to = to.clone();
        to.lease_ms = self.changed.lease_ms().or(to.lease_ms);
        let assign = TaskCommand::Assign(to);
        if let Err(problem) = self.try_decide(pick.task, &assign, ACTOR, envelope.expected_version)
        {
            let changed = problem.code() == Some(Code::VersionMismatch);
            self.scheduler.put_back(pick, !changed);
        }
    }

    /// A run begins: it goes as the task's run of that number went, or as another one did.
    pub fn runs(&mut self, task: TaskId, token: u64) {
        let begun = self.begun.entry(task).or_default();
        let nth = *begun;
        *begun += 1;
        let recorded = self.observed.runs.get(&task).and_then(|runs| runs.get(nth));
        let holder = self.tasks.get(&task).and_then(|(task, _)| task.lease);
        let run = match recorded.map(|run| (run.ended, run.agent)) {
            Some((Ended::Itself | Ended::Silent, agent)) => {
                let other = holder.is_some_and(|lease| lease.agent_id != agent);
                self.assumed.other_agent += u64::from(other);
                Some((task, nth))
            }
            Some((Ended::Cut { after_us }, _)) => {
                self.assumed.cut += 1;
                self.draw(task, after_us)
            }
            None => {
                self.assumed.drawn += 1;
                self.draw(task, 0)
            }
        };
        match run {
            Some(run) => self.next_step(task, token, run, 0, self.now),
            None => self.assumed.nothing_to_draw += 1,
        }
    }

    /// A whole run of a task of the same queue and type, else of any.
    fn draw(&mut self, task: TaskId, least_us: i64) -> Option<(TaskId, usize)> {
        let observed = self.observed.clone();
        let same = observed.kind_of(task).and_then(|kind| observed.of_kind.get(&kind));
        let from = same.filter(|runs| !runs.is_empty()).unwrap_or(&observed.whole);
        let mut drawn = None;
        for _ in 0..DRAWS {
            drawn = self.dice.one_of(from);
            let run = drawn.and_then(|(task, nth)| observed.runs.get(&task)?.get(nth));
            if run.is_none_or(|run| run.length_us() >= least_us) {
                break;
            }
        }
        drawn
    }

    /// A run that had begun when the record was left goes on.
    pub fn goes_on(&mut self, task: TaskId, position: u64) {
        let Some(lease) = self.tasks.get(&task).and_then(|(task, _)| task.lease) else { return };
        let nth = self.begun.get(&task).map_or(0, |begun| begun.saturating_sub(1));
        let observed = self.observed.clone();
        let Some(run) = observed.runs.get(&task).and_then(|runs| runs.get(nth)) else { return };
        if matches!(run.ended, Ended::Cut { .. }) {
            let passed = self.now - run.at_us();
            self.assumed.cut += 1;
            if let Some(drawn) = self.draw(task, passed) {
                let nth = observed.runs.get(&drawn.0).and_then(|runs| runs.get(drawn.1));
                let nth = nth.map_or(0, |run| {
                    run.steps.iter().filter(|done| done.after_us < passed).count()
                });
                self.next_step(task, lease.token, drawn, nth, run.at_us());
            }
            return;
        }
        let done = run.steps.iter().filter(|done| done.position <= position).count();
        self.next_step(task, lease.token, (task, nth), done, run.at_us());
    }

    fn next_step(
        &mut self,
        task: TaskId,
        token: u64,
        run: (TaskId, usize),
        nth: usize,
        began_us: i64,
    ) {
        let known = self.observed.runs.get(&run.0).and_then(|runs| runs.get(run.1));
        let Some(done) = known.and_then(|run| run.steps.get(nth)) else { return };
        let at = (began_us + done.after_us).max(self.now);
        self.at(at, Act::Step { task, token, run, nth, began_us });
    }

    fn step(&mut self, task: TaskId, token: u64, run: (TaskId, usize), nth: usize, began_us: i64) {
        let holder = self.tasks.get(&task).and_then(|(task, _)| task.lease);
        let Some(holder) = holder.filter(|lease| lease.token == token) else { return };
        let known = self.observed.runs.get(&run.0).and_then(|runs| runs.get(run.1));
        let Some(done) = known.and_then(|run| run.steps.get(nth)) else { return };
        let lease_token = token;
        let command = match done.step.clone() {
            Step::Start => TaskCommand::Start(StartTask { lease_token }),
            Step::Extend(ms) => TaskCommand::Extend(ExtendTask { lease_token, lease_ms: Some(ms) }),
            Step::Block { reason } => {
                let lease_token = Some(lease_token);
                TaskCommand::Block(BlockTask { reason, lifted_by: vec![], lease_token })
            }
            Step::Unblock => TaskCommand::Unblock(Reason::default()),
            Step::Review { result } => {
                let lease_token = Some(lease_token);
                TaskCommand::SubmitForReview(SubmitForReview { lease_token, result })
            }
            Step::Release => TaskCommand::Release(ReleaseTask { lease_token, reason: None }),
            Step::Complete { result } => {
                TaskCommand::Complete(CompleteTask { lease_token, result })
            }
            Step::Fail { error, class, retryable, wait_ms } => {
                // Under another policy it waits as that says.
                let retry_after_ms = wait_ms.filter(|_| !self.changed.retries());
                TaskCommand::Fail(FailTask { lease_token, error, retryable, class, retry_after_ms })
            }
        };
        let actor = format!("agent:{}", holder.agent_id);
        self.decide(task, &command, &actor, None);
        self.next_step(task, token, run, nth + 1, began_us);
    }

    /// What a deadline's command comes to, as the processor would say it.
    pub fn outcome(
        &mut self,
        task: TaskId,
        asked: &TaskCommand,
        actor: &str,
        expected: Option<u64>,
        command: &CommandEnvelope,
    ) -> Outcome {
        let (id, stream) = (command.command_id, command.stream_id);
        match self.try_decide(task, asked, actor, expected) {
            Ok(()) => Outcome {
                status: Status::Accepted,
                command_id: id,
                stream_id: stream,
                version: 0,
                position: 0,
                events: vec![],
                problem: None,
                original: None,
                retry_after_ms: None,
            },
            Err(problem) => refused(id, stream, problem),
        }
    }
}

fn refused(id: uuid::Uuid, stream: uuid::Uuid, problem: Problem) -> Outcome {
    Outcome::undecided(Status::Refused, id, stream, problem)
}
