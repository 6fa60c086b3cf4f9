//! Which agent gets a task: what is required, what is preferred, and who is near.

use std::time::Duration;

use domain::agent::{AgentCommand, RegisterAgent};
use domain::task::{
    Affinity, CompleteTask, FailTask, Kin, LabelTerm, Preference, RetryPolicy, Sticky, SubmitTask,
    TaskCommand,
};
use domain::values::Labels;
use domain::{AgentId, Json, TaskId};

use super::memory::{Memory, Running, Wire, agent_id, eventually};

/// Agents that listen, by what is said of each; who got which task.
struct Fleet {
    memory: Memory,
    wire: Wire,
    running: Running,
}

type Describe = fn(&mut RegisterAgent);

impl Fleet {
    fn of(agents: &[Describe]) -> Self {
        let (memory, wire) = (Memory::new(), Wire::default());
        for (nth, describe) in (1..).zip(agents) {
            let agent = memory.agent(nth, |new| {
                new.slots = 4;
                describe(new);
            });
            memory.tell(agent.0, AgentCommand::MarkReady(Default::default()), "operator");
            wire.listen(agent);
        }
        let running = memory.run(&wire, vec![]);
        Self { memory, wire, running }
    }

    /// Who is pushed a new task.
    async fn gets(&self, n: u128, change: impl FnOnce(&mut SubmitTask)) -> AgentId {
        self.memory.task(n, change);
        self.has(n).await
    }

    async fn has(&self, n: u128) -> AgentId {
        let has = || {
            let pushed = self.wire.pushed().into_iter();
            pushed.rev().find(|(_, task)| task.task_id == TaskId::nth(n)).map(|(agent, _)| agent)
        };
        eventually("it is pushed", || has().is_some()).await;
        has().unwrap()
    }

    fn answer(&self, n: u128, agent: AgentId, answer: impl FnOnce(u64) -> TaskCommand) {
        let pushed = self.wire.pushed();
        let task = pushed.iter().rev().find(|(_, task)| task.task_id == TaskId::nth(n)).unwrap();
        self.memory.answer(answer(task.1.lease.token), TaskId::nth(n), agent);
    }

    fn complete(&self, n: u128, agent: AgentId) {
        self.answer(n, agent, |lease_token| {
            TaskCommand::Complete(CompleteTask { lease_token, result: Json::null() })
        });
    }
}

fn zone(new: &mut RegisterAgent, zone: &str) {
    new.labels = Labels::Pairs([("zone".into(), zone.into())].into());
}

fn term(label: &str, values: &[&str]) -> LabelTerm {
    LabelTerm { label: label.into(), values: values.iter().map(|v| (*v).into()).collect() }
}

fn liked(label: &str, value: &str, points: i32) -> Preference {
    Preference { label: label.into(), values: vec![value.into()], points }
}

#[tokio::test]
async fn required_and_excluded_labels_versions_and_cost_decide_who_may() {
    let fleet = Fleet::of(&[
        |new| zone(new, "eu"),
        |new| zone(new, "us"),
        |new| new.labels = Labels::Words(vec!["gpu".into()]),
        |new| {
            new.capabilities = vec!["python@3.11".into()];
            new.cost = 50;
        },
    ]);
    let required = |label: &str, values: &[&str]| Affinity {
        required: vec![term(label, values)],
        ..Affinity::default()
    };
    let (eu, any) = (required("zone", &["eu", "mars"]), required("zone", &[]));
    assert_eq!(fleet.gets(1, |new| *new.affinity = eu).await, agent_id(1));
    let not_eu = Affinity { excluded: vec![term("zone", &["eu"])], ..any };
    assert_eq!(fleet.gets(2, |new| *new.affinity = not_eu).await, agent_id(2));
    assert_eq!(fleet.gets(3, |new| *new.affinity = required("gpu", &[])).await, agent_id(3));
    let python = |range: &str| vec![format!("python@{range}")];
    assert_eq!(fleet.gets(4, |new| new.capabilities = python(">=3.10, <4")).await, agent_id(4));
    // Nobody: too new, too dear.
    fleet.memory.task(5, |new| new.capabilities = python("^3.12"));
    let cheap = Affinity { max_cost: Some(49), ..Affinity::default() };
    fleet.memory.task(6, |new| {
        new.capabilities = python("3");
        *new.affinity = cheap;
    });
    for (task, words) in [(5, "python@^3.12"), (6, "cost")] {
        let why = fleet.running.why(TaskId::nth(task)).await;
        assert_eq!(why[0].code, "no_agent");
        assert!(why[0].message.contains(words), "{}", why[0].message);
    }
}

#[tokio::test]
async fn preferences_load_and_cost_decide_who_had_best() {
    let fleet = Fleet::of(&[
        |new| zone(new, "eu"),
        |new| {
            zone(new, "us");
            new.cost = 10;
        },
    ]);
    // The cheaper one, until its hands are fuller by more than the price.
    assert_eq!(fleet.gets(1, |_| {}).await, agent_id(1));
    assert_eq!(fleet.gets(2, |_| {}).await, agent_id(2));
    assert_eq!(fleet.gets(3, |_| {}).await, agent_id(1));
    // Both have one or two of four; a preference outweighs that, against as well as for.
    let us = Affinity { preferred: vec![liked("zone", "us", 100)], ..Affinity::default() };
    assert_eq!(fleet.gets(4, |new| *new.affinity = us.clone()).await, agent_id(2));
    let not_eu = Affinity { preferred: vec![liked("zone", "eu", -100)], ..Affinity::default() };
    assert_eq!(fleet.gets(5, |new| *new.affinity = not_eu).await, agent_id(2));
    // A queue may see it differently.
    fleet.memory.policy(|policy| {
        policy.scoring.preferred = 0;
        policy.scoring.cost = 100;
    });
    eventually("the policy", || fleet.memory.count("configured") == 1).await;
    assert_eq!(fleet.gets(6, |new| *new.affinity = us).await, agent_id(1));
}

#[tokio::test]
async fn a_waiting_claim_that_fits_better_goes_before_an_older_one() {
    let memory = Memory::new();
    let far = memory.agent(1, |new| zone(new, "us"));
    let near = memory.agent(2, |new| zone(new, "eu"));
    let running = memory.run(&Wire::default(), vec![]);
    let submitted = async {
        eventually("both wait", || running.handle.gauges().waiting_claims == 2).await;
        memory.task(1, |new| new.affinity.preferred = vec![liked("zone", "eu", 1)]);
        eventually("one is served", || memory.count("assigned") == 1).await;
        memory.task(2, |_| {});
    };
    let older = running.claim(far, 1, 5_000);
    let newer = async {
        eventually("the older waits", || running.handle.gauges().waiting_claims == 1).await;
        running.claim(near, 1, 5_000).await
    };
    let (older, newer, ()) = tokio::join!(older, newer, submitted);
    assert_eq!((older[0].task_id, newer[0].task_id), (TaskId::nth(2), TaskId::nth(1)));
    running.stop().await;
}

#[tokio::test]
async fn a_sticky_task_waits_for_its_parents_agent_and_then_takes_another() {
    let fleet = Fleet::of(&[|new| new.slots = 1, |new| new.cost = 90]);
    assert_eq!(fleet.gets(1, |_| {}).await, agent_id(1));
    let child = |wait_ms| {
        move |new: &mut SubmitTask| {
            new.parent_id = Some(TaskId::nth(1));
            new.affinity.sticky = Some(Sticky { to: Kin::Parent, label: None, wait_ms });
        }
    };
    fleet.memory.task(2, child(60_000));
    fleet.memory.task(3, child(10_000));
    let why = fleet.running.why(TaskId::nth(2)).await;
    assert_eq!((why[0].code, why[0].ids.clone()), ("sticky", vec![agent_id(1).0]));
    // The other one gets it only when the time is over.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fleet.wire.pushed().len(), 1);
    fleet.memory.pass(Duration::from_secs(11));
    assert_eq!(fleet.has(3).await, agent_id(2));
    fleet.complete(1, agent_id(1));
    assert_eq!(fleet.has(2).await, agent_id(1), "its hands are free again");
}

#[tokio::test]
async fn a_task_keeps_apart_from_who_failed_it() {
    let fleet = Fleet::of(&[|_| {}, |new| new.cost = 90]);
    let apart = |new: &mut SubmitTask| {
        new.affinity.apart_from = vec![Kin::Previous];
        new.retry = Some(RetryPolicy { backoff_ms: 0, ..RetryPolicy::default() });
    };
    assert_eq!(fleet.gets(1, apart).await, agent_id(1));
    fleet.answer(1, agent_id(1), |lease_token| {
        TaskCommand::Fail(FailTask {
            lease_token,
            error: Json::null(),
            retryable: true,
            class: None,
            retry_after_ms: None,
        })
    });
    eventually("the other one has it", || {
        fleet.wire.pushed().iter().any(|(agent, _)| *agent == agent_id(2))
    })
    .await;
}
