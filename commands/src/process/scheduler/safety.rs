//! Whatever happens in whatever order: no task in two hands, never more than the slots,
//! and every decision comes out the same when it is made once more from the log.

use std::collections::HashMap;
use std::time::Duration;

use domain::task::{
    Affinity, AssignTask, CompleteTask, FailTask, Kin, LabelTerm, Preference, ReleaseTask,
    RetryPolicy, Sticky, TaskCommand, TaskEvent,
};
use domain::values::Labels;
use domain::{AgentId, Event, Json, Status, TaskId};
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::core::{Hand, Pick, Scheduler};
use super::needs::Standing;
use super::waiters::{Terms, Waiter};
use crate::process::tests::decisions::verified;
use crate::process::tests::memory::{Memory, agent_id, tenant};

const AGENTS: u128 = 3;
const SLOTS: u32 = 2;

#[derive(Debug, Clone)]
enum Step {
    Submit {
        key: bool,
        depends: bool,
        gpu: bool,
        affinity: u8,
    },
    Claim {
        agent: u128,
        max: usize,
    },
    /// The log is folded up to its end.
    Fold,
    /// The oldest pick under way is decided; its claimant may have gone.
    Decide {
        told: bool,
    },
    /// The oldest decided pick is told to its agent.
    Settle,
    Complete {
        nth: usize,
    },
    Fail {
        nth: usize,
    },
    Release {
        nth: usize,
    },
    Expire,
    Operator {
        task: u128,
        agent: u128,
    },
    /// The scheduler dies and folds the log anew; picks under way may still be decided.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<(bool, bool, bool, u8)>()
            .prop_map(|(key, depends, gpu, affinity)| Step::Submit { key, depends, gpu, affinity }),
        4 => (1..=AGENTS, 1..4usize).prop_map(|(agent, max)| Step::Claim { agent, max }),
        4 => Just(Step::Fold),
        4 => any::<bool>().prop_map(|told| Step::Decide { told }),
        4 => Just(Step::Settle),
        2 => (0..4usize).prop_map(|nth| Step::Complete { nth }),
        1 => (0..4usize).prop_map(|nth| Step::Fail { nth }),
        1 => (0..4usize).prop_map(|nth| Step::Release { nth }),
        1 => Just(Step::Expire),
        1 => (1..8u128, 1..=AGENTS).prop_map(|(task, agent)| Step::Operator { task, agent }),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..120)
}

/// None at all for most.
fn affinity(kind: u8) -> Affinity {
    let label = || "zone".to_owned();
    match kind {
        0..20 => Affinity { apart_from: vec![Kin::Previous], ..Affinity::default() },
        20..40 => Affinity {
            sticky: Some(Sticky { to: Kin::Parent, label: None, wait_ms: 1_500 }),
            ..Affinity::default()
        },
        40..60 => Affinity {
            preferred: vec![Preference { label: label(), values: vec!["1".into()], points: 70 }],
            max_cost: Some(2),
            ..Affinity::default()
        },
        60..80 => Affinity {
            excluded: vec![LabelTerm { label: label(), values: vec!["1".into()] }],
            ..Affinity::default()
        },
        _ => Affinity::default(),
    }
}

struct World {
    memory: Memory,
    scheduler: Scheduler,
    session: u64,
    folded: usize,
    submitted: u128,
    under_way: Vec<Pick>,
    /// Where, whether accepted, whether the claimant is still there.
    decided: Vec<(Pick, u64, bool, bool)>,
    claims: Vec<oneshot::Receiver<Vec<domain::task::Assignment>>>,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        for n in 1..=AGENTS {
            memory.agent(n, |new| {
                new.slots = SLOTS;
                new.cost = n as u32;
                new.labels = Labels::Pairs([("zone".into(), (n % 2).to_string())].into());
                new.capabilities = if n == 1 { vec!["gpu".into()] } else { vec![] };
            });
            let ready = domain::agent::AgentCommand::MarkReady(Default::default());
            memory.tell(agent_id(n).0, ready, "operator");
        }
        Self {
            memory,
            scheduler: Scheduler::under(1, None),
            session: 1,
            folded: 0,
            submitted: 0,
            under_way: vec![],
            decided: vec![],
            claims: vec![],
        }
    }

    fn fold(&mut self) {
        for event in self.memory.events().iter().skip(self.folded) {
            self.scheduler.apply(event);
            self.folded += 1;
        }
        self.scheduler.advance(self.memory.clock.now());
        for (tenant, task) in self.scheduler.board.take_lookups(100) {
            if self.memory.story(task.0).contains(&"completed".to_owned()) {
                let state = domain::task::TaskState::Done;
                let done = Standing { state, archived: false, cause: 1, at: 0 };
                self.scheduler.looked_up(&tenant, task, Some(done));
            }
        }
        self.serve();
    }

    fn serve(&mut self) {
        for hand in self.scheduler.serve() {
            match hand {
                Hand::Claim(_, picks) => self.under_way.extend(picks),
                Hand::Push(_) => panic!("nobody listens"),
            }
        }
    }

    /// What the log says each agent holds, and under which token.
    fn held(&self) -> Vec<(TaskId, AgentId, u64, bool)> {
        let mut held = HashMap::new();
        for event in self.memory.events() {
            let Ok(Event::Task(happened)) = event.event() else { continue };
            let task = TaskId(event.stream_id);
            if let TaskEvent::Assigned(to) = happened {
                let ours = event.actor.starts_with("manager:");
                held.insert(task, (to.agent_id, to.lease_token, ours));
            } else if matches!(
                happened,
                TaskEvent::Unassigned(_)
                    | TaskEvent::Released(_)
                    | TaskEvent::Completed(_)
                    | TaskEvent::AttemptFailed(_)
                    | TaskEvent::LeaseExpired(_)
            ) {
                held.remove(&task);
            }
        }
        let mut held: Vec<_> = held
            .into_iter()
            .map(|(task, (agent, token, ours))| (task, agent, token, ours))
            .collect();
        held.sort_unstable();
        held
    }

    fn take(&mut self, step: Step) {
        let nth_held = |world: &Self, nth: usize| world.held().get(nth).copied();
        match step {
            Step::Submit { key, depends, gpu, affinity: kind } => {
                self.submitted += 1;
                let n = self.submitted;
                self.memory.task(n, |new| {
                    new.concurrency_key = key.then(|| "k".into());
                    // Only one agent can do the others: what keeps it away would do so for ever.
                    *new.affinity = if gpu { Affinity::default() } else { affinity(kind) };
                    if kind % 2 == 1 && n > 1 {
                        new.parent_id = Some(TaskId::nth(n - 1));
                    }
                    new.capabilities = if gpu { vec!["gpu".into()] } else { vec![] };
                    let retry =
                        RetryPolicy { max_attempts: 100, backoff_ms: 0, ..RetryPolicy::default() };
                    new.retry = Some(retry);
                    if depends && n > 1 {
                        new.depends_on = vec![TaskId::nth(n - 1)];
                    }
                });
            }
            Step::Claim { agent, max } => {
                let (answer, answered) = oneshot::channel();
                self.claims.push(answered);
                let agent = agent_id(agent);
                let queue = "default".into();
                let waiter =
                    Waiter { tenant: tenant(), queue, agent, max, terms: Terms::default(), answer };
                self.scheduler.wait(waiter);
                self.serve();
            }
            Step::Fold => self.fold(),
            Step::Decide { told } if !self.under_way.is_empty() => {
                let pick = self.under_way.remove(0);
                let (position, accepted) = match &pick.assign {
                    Some(command) => {
                        let outcome = self.memory.decide(command.clone());
                        let decision = outcome.decision();
                        (decision.position, decision.status == Status::Accepted)
                    }
                    None => (0, true),
                };
                self.decided.push((pick, position, accepted, told));
            }
            Step::Settle if !self.decided.is_empty() => {
                let (pick, position, accepted, told) = self.decided.remove(0);
                if (self.folded as u64) < position {
                    self.fold();
                }
                if !accepted {
                    self.scheduler.put_back(&pick, false);
                } else if let Some(assignment) = self.scheduler.assignment(&pick, Json::null())
                    && !told
                {
                    let token = assignment.lease.token;
                    if let Some(back) = self.scheduler.undeliverable(pick.task, token, "gone") {
                        self.memory.decide(back);
                    }
                }
                self.serve();
            }
            Step::Complete { nth } => {
                if let Some((task, agent, lease_token, _)) = nth_held(self, nth) {
                    let body = CompleteTask { lease_token, result: Json::null() };
                    self.memory.answer(TaskCommand::Complete(body), task, agent);
                }
            }
            Step::Fail { nth } => {
                if let Some((task, agent, lease_token, _)) = nth_held(self, nth) {
                    let error = Json::null();
                    let body = FailTask {
                        lease_token,
                        error,
                        retryable: true,
                        class: None,
                        retry_after_ms: None,
                    };
                    self.memory.answer(TaskCommand::Fail(body), task, agent);
                }
            }
            Step::Release { nth } => {
                if let Some((task, agent, lease_token, _)) = nth_held(self, nth) {
                    let body = ReleaseTask { lease_token, reason: None };
                    self.memory.answer(TaskCommand::Release(body), task, agent);
                }
            }
            Step::Expire => {
                self.memory.pass(Duration::from_secs(31));
                for (task, _, lease_token, _) in self.held() {
                    let body = domain::task::ExpireLease { lease_token };
                    self.memory.tell(task.0, TaskCommand::ExpireLease(body), "manager:leases");
                }
            }
            Step::Operator { task, agent } => {
                let agent_id = agent_id(agent);
                let body = AssignTask::to(agent_id);
                self.memory.tell(TaskId::nth(task).0, TaskCommand::Assign(body), "operator");
            }
            Step::Crash => {
                // What it was told by the executor dies with it; what it had sent does not.
                self.decided.clear();
                for pick in std::mem::take(&mut self.under_way) {
                    if let Some(command) = pick.assign {
                        self.memory.decide(command);
                    }
                }
                self.claims.clear();
                self.session += 1;
                self.scheduler = Scheduler::under(self.session, None);
                self.folded = 0;
                self.fold();
            }
            Step::Decide { .. } | Step::Settle => {}
        }
    }

    /// By the log alone. An operator may overfill an agent; the scheduler may not.
    fn check(&self) {
        let held = self.held();
        let mut by_agent: HashMap<AgentId, (u32, bool)> = HashMap::new();
        for (_, agent, _, ours) in &held {
            let (count, only_ours) = by_agent.entry(*agent).or_insert((0, true));
            *count += 1;
            *only_ours &= *ours;
        }
        for (agent, (count, only_ours)) in by_agent {
            assert!(count <= SLOTS || !only_ours, "{agent} holds {count}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_task_is_in_two_hands_and_no_agent_over_its_slots(steps in steps()) {
        let mut world = World::new();
        world.fold();
        for step in steps {
            world.take(step);
            world.check();
        }
        // Nothing is lost: when all that is under way has ended and somebody asks for
        // everything, every task is held, waits for a slot, or for another task.
        while !world.under_way.is_empty() || !world.decided.is_empty() {
            world.take(Step::Decide { told: true });
            world.take(Step::Settle);
        }
        for _ in 0..200 {
            world.memory.pass(Duration::from_secs(2));
            world.fold();
            for agent in 1..=AGENTS {
                world.take(Step::Claim { agent, max: 256 });
            }
            while !world.under_way.is_empty() || !world.decided.is_empty() {
                world.take(Step::Decide { told: true });
                world.take(Step::Settle);
            }
            if world.held().is_empty() {
                break;
            }
            world.take(Step::Complete { nth: 0 });
        }
        world.fold();
        for n in 1..=world.submitted {
            let story = world.memory.story(TaskId::nth(n).0);
            prop_assert_eq!(story.last().map(String::as_str), Some("completed"), "task {}", n);
        }
        let report = verified(&world.memory.events());
        prop_assert_eq!(&report.faults, &vec![]);
        // What cannot be known is what a crash took along, or what only the next decision
        // would have told.
        let told = world.session == 1 && !world.scheduler.keeps_a_loss();
        prop_assert!(!told || report.identical == report.decisions, "{:?}", report);
    }
}

/// An operator was quicker than the scheduler, which learns of it after its last decision.
#[test]
fn a_lost_decision_is_unknown_until_the_next_one_tells_of_it() {
    let submit = || Step::Submit { key: false, depends: false, gpu: false, affinity: 80 };
    let mut world = World::new();
    world.fold();
    let steps = [
        submit(),
        Step::Claim { agent: 1, max: 2 },
        submit(),
        Step::Fold,
        Step::Operator { task: 1, agent: 1 },
        Step::Decide { told: true },
        Step::Settle,
        Step::Decide { told: true },
        Step::Settle,
    ];
    steps.into_iter().for_each(|step| world.take(step));
    let counts = |world: &World| {
        let report = verified(&world.memory.events());
        (report.decisions, report.identical, report.unknown, report.different)
    };
    assert_eq!(counts(&world), (1, 0, 1, 0));
    assert!(world.scheduler.keeps_a_loss());
    world.take(submit());
    world.take(Step::Fold);
    world.take(Step::Claim { agent: 2, max: 1 });
    world.take(Step::Decide { told: true });
    world.take(Step::Settle);
    assert_eq!(counts(&world), (2, 2, 0, 0));
    assert!(!world.scheduler.keeps_a_loss());
}
