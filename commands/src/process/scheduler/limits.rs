//! Whatever happens in whatever order: of a key with a limit of k never k+1 run.
//!
//! Two schedulers take turns and overlap, each with its own fold of the log; the one
//! that lost the lease goes on sending until the fence stops it, as the processor does
//! (`crate::fence`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use domain::queue::LimitPolicy;
use domain::task::{CompleteTask, FailTask, ReleaseTask, RetryPolicy, TaskCommand, TaskEvent};
use domain::values::{Labels, Priority};
use domain::{AgentId, Event, Json, Status, TaskId};
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::core::{Hand, Pick, Scheduler};
use super::waiters::{Terms, Waiter};
use crate::process::tests::memory::{Memory, agent_id, tenant};

const AGENTS: u128 = 3;
/// By key: the queue, a concurrency key, a label.
const LIMITS: [(&str, u32); 3] =
    [("queue", 5), ("task.concurrency_key", 2), ("task.labels.customer", 1)];

#[derive(Debug, Clone)]
enum Step {
    Submit {
        key: u8,
        customer: u8,
        urgency: usize,
    },
    Claim {
        by: usize,
        agent: u128,
        max: usize,
    },
    Fold {
        by: usize,
    },
    /// The oldest pick of a scheduler reaches the processor.
    Decide {
        by: usize,
    },
    /// … and the scheduler hears what became of it.
    Settle {
        by: usize,
    },
    Answer {
        nth: usize,
        how: u8,
    },
    Expire,
    /// The other scheduler takes the lease.
    TakeOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let by = 0..2usize;
    let step = prop_oneof![
        4 => (0..3u8, 0..3u8, 0..5usize)
            .prop_map(|(key, customer, urgency)| Step::Submit { key, customer, urgency }),
        4 => (by.clone(), 1..=AGENTS, 1..5usize)
            .prop_map(|(by, agent, max)| Step::Claim { by, agent, max }),
        4 => by.clone().prop_map(|by| Step::Fold { by }),
        6 => by.clone().prop_map(|by| Step::Decide { by }),
        4 => by.prop_map(|by| Step::Settle { by }),
        4 => (0..8usize, 0..4u8).prop_map(|(nth, how)| Step::Answer { nth, how }),
        1 => Just(Step::Expire),
        1 => Just(Step::TakeOver),
    ];
    prop::collection::vec(step, 0..160)
}

#[derive(Default)]
struct Mind {
    scheduler: Scheduler,
    folded: usize,
    token: u64,
    /// Nothing is decided before this position is folded (the barrier's).
    barrier: u64,
    under_way: Vec<Pick>,
    decided: Vec<(Pick, u64, bool)>,
    claims: Vec<oneshot::Receiver<Vec<domain::task::Assignment>>>,
}

struct World {
    memory: Memory,
    minds: [Mind; 2],
    /// The newest token, as the processor knows it.
    fence: u64,
    submitted: u128,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        memory.policy(|policy| {
            let limit = |(key, max): (&str, u32)| LimitPolicy {
                key: key.into(),
                max_running: Some(max),
                guaranteed: 0,
                rate: None,
            };
            policy.limits = LIMITS.map(limit).into();
        });
        for n in 1..=AGENTS {
            memory.agent(n, |new| new.slots = 8);
            let ready = domain::agent::AgentCommand::MarkReady(Default::default());
            memory.tell(agent_id(n).0, ready, "operator");
        }
        let minds = [Mind { token: 1, ..Mind::default() }, Mind::default()];
        Self { memory, minds, fence: 1, submitted: 0 }
    }

    fn fold(&mut self, by: usize) {
        let mind = &mut self.minds[by];
        for event in self.memory.events().iter().skip(mind.folded) {
            mind.scheduler.apply(event);
            mind.folded += 1;
        }
        mind.scheduler.advance(self.memory.clock.now());
        self.serve(by);
    }

    fn serve(&mut self, by: usize) {
        let mind = &mut self.minds[by];
        // Before the barrier is folded the door is closed and nothing is decided.
        if mind.token == 0 || (mind.folded as u64) < mind.barrier {
            return;
        }
        for hand in mind.scheduler.serve() {
            match hand {
                Hand::Claim(_, picks) => mind.under_way.extend(picks),
                Hand::Push(_) => panic!("nobody listens"),
            }
        }
    }

    fn held(&self) -> Vec<(TaskId, AgentId, u64)> {
        let mut held = HashMap::new();
        for event in self.memory.events() {
            let Ok(Event::Task(happened)) = event.event() else { continue };
            let task = TaskId(event.stream_id);
            if let TaskEvent::Assigned(to) = happened {
                held.insert(task, (to.agent_id, to.lease_token));
            } else if matches!(
                happened,
                TaskEvent::Unassigned(_)
                    | TaskEvent::Released(_)
                    | TaskEvent::Completed(_)
                    | TaskEvent::AttemptFailed(_)
                    | TaskEvent::LeaseExpired(_)
                    | TaskEvent::DeadLettered(_)
            ) {
                held.remove(&task);
            }
        }
        let mut held: Vec<_> = held.into_iter().map(|(task, (a, t))| (task, a, t)).collect();
        held.sort_unstable();
        held
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit { key, customer, urgency } => {
                self.submitted += 1;
                self.memory.task(self.submitted, |new| {
                    new.concurrency_key = (key > 0).then(|| format!("key-{key}"));
                    if customer > 0 {
                        let label = ("customer".to_owned(), format!("c{customer}"));
                        new.labels = Labels::Pairs([label].into());
                    }
                    new.priority = Priority::ALL[urgency];
                    let retry =
                        RetryPolicy { max_attempts: 100, backoff_ms: 0, ..Default::default() };
                    new.retry = Some(retry);
                });
            }
            Step::Claim { by, agent, max } => {
                let (answer, answered) = oneshot::channel();
                self.minds[by].claims.push(answered);
                let (agent, queue) = (agent_id(agent), "default".into());
                let terms = Terms::default();
                let waiter = Waiter { tenant: tenant(), queue, agent, max, terms, answer };
                self.minds[by].scheduler.wait(waiter);
                self.serve(by);
            }
            Step::Fold { by } => self.fold(by),
            Step::Decide { by } => self.decide(by),
            Step::Settle { by } if !self.minds[by].decided.is_empty() => {
                let (pick, position, accepted) = self.minds[by].decided.remove(0);
                if (self.minds[by].folded as u64) < position {
                    self.fold(by);
                }
                if accepted {
                    self.minds[by].scheduler.assignment(&pick, Json::null());
                } else {
                    self.minds[by].scheduler.put_back(&pick, false);
                }
                self.serve(by);
            }
            Step::Settle { .. } => {}
            Step::Answer { nth, how } => {
                let Some((task, agent, lease_token)) = self.held().get(nth).copied() else {
                    return;
                };
                let command = match how {
                    0 => TaskCommand::Release(ReleaseTask { lease_token, reason: None }),
                    1 => TaskCommand::Fail(FailTask {
                        lease_token,
                        error: Json::null(),
                        retryable: true,
                        class: None,
                        retry_after_ms: None,
                    }),
                    _ => TaskCommand::Complete(CompleteTask { lease_token, result: Json::null() }),
                };
                self.memory.answer(command, task, agent);
            }
            Step::Expire => {
                self.memory.pass(Duration::from_secs(31));
                for (task, _, lease_token) in self.held() {
                    let body = domain::task::ExpireLease { lease_token };
                    self.memory.tell(task.0, TaskCommand::ExpireLease(body), "manager:leases");
                }
            }
            Step::TakeOver => {
                let next = if self.minds[0].token == self.fence { 1 } else { 0 };
                self.fence += 1;
                // A new process folds from the start; the barrier's outcome names the head.
                let (token, barrier) = (self.fence, self.memory.events().len() as u64);
                self.minds[next] = Mind { token, barrier, ..Mind::default() };
            }
        }
    }

    fn decide(&mut self, by: usize) {
        if self.minds[by].under_way.is_empty() {
            return;
        }
        let pick = self.minds[by].under_way.remove(0);
        let (mut position, mut accepted) = (0, true);
        if let Some(command) = &pick.assign {
            accepted = false;
            if self.minds[by].token == self.fence {
                let outcome = self.memory.decide(command.clone());
                let decision = outcome.decision();
                (position, accepted) = (decision.position, decision.status == Status::Accepted);
            }
        }
        self.minds[by].decided.push((pick, position, accepted));
    }

    /// By the log alone.
    fn check(&self) {
        let held: HashSet<_> = self.held().into_iter().map(|(task, ..)| task).collect();
        let (mut keys, mut customers) = (HashMap::new(), HashMap::new());
        for event in self.memory.events() {
            let Ok(Event::Task(TaskEvent::Submitted(new))) = event.event() else { continue };
            if !held.contains(&TaskId(event.stream_id)) {
                continue;
            }
            if let Some(key) = &new.concurrency_key {
                *keys.entry(key.clone()).or_insert(0) += 1;
            }
            if let Labels::Pairs(pairs) = &new.labels {
                *customers.entry(pairs["customer"].clone()).or_insert(0) += 1;
            }
        }
        assert!(held.len() <= LIMITS[0].1 as usize, "{} run", held.len());
        assert!(keys.values().all(|n| *n <= LIMITS[1].1), "{keys:?}");
        assert!(customers.values().all(|n| *n <= LIMITS[2].1), "{customers:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn of_a_limit_of_k_never_more_than_k_run_and_all_come_to_their_turn(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
        let by = usize::from(world.minds[0].token != world.fence);
        for _ in 0..2_000 {
            world.memory.pass(Duration::from_secs(2));
            world.fold(by);
            for agent in 1..=AGENTS {
                world.take(Step::Claim { by, agent, max: 8 });
            }
            while !world.minds[by].under_way.is_empty() || !world.minds[by].decided.is_empty() {
                world.take(Step::Decide { by });
                world.take(Step::Settle { by });
                world.check();
            }
            if world.held().is_empty() {
                break;
            }
            world.take(Step::Answer { nth: 0, how: 3 });
        }
        for n in 1..=world.submitted {
            let story = world.memory.story(TaskId::nth(n).0);
            prop_assert_eq!(story.last().map(String::as_str), Some("completed"), "task {}", n);
        }
    }
}
