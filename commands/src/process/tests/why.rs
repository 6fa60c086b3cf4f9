//! Every state in which a task waits says why, what made it so and what would release
//! it; whoever does that sees the task move.

use std::time::Duration;

use domain::queue::{ChangeQueue, LimitPolicy, QueueCommand, RatePolicy};
use domain::task::{CompleteTask, FailTask, TaskCommand};
use domain::{Json, Status, TaskId};

use super::memory::{Memory, Running, Wire, agent_id};

/// The task that waits.
const TASK: u128 = 1;
/// The agent that asks for it in the end.
const AGENT: u128 = 1;

struct Case {
    name: &'static str,
    /// Brings it about; the managers run.
    given: fn(&Memory),
    /// What is claimed before anybody asks why.
    claimed: u32,
    codes: &'static [&'static str],
    /// What the reason says would release it.
    release: fn(&Memory),
}

fn plain(memory: &Memory) {
    memory.task(TASK, |_| {});
}

fn limited(memory: &Memory, key: &str, max: Option<u32>, rate: Option<RatePolicy>) {
    memory.policy(|policy| {
        policy.limits =
            vec![LimitPolicy { key: key.into(), max_running: max, guaranteed: 0, rate }];
    });
}

fn tell(memory: &Memory, command: fn(ChangeQueue) -> QueueCommand) {
    assert_eq!(memory.queue(command(ChangeQueue::of("default"))).status, Status::Accepted);
}

fn complete(memory: &Memory, task: u128) {
    let done = CompleteTask { lease_token: 1, result: Json::null() };
    let outcome = memory.answer(TaskCommand::Complete(done), TaskId::nth(task), agent_id(AGENT));
    assert_eq!(outcome.status, Status::Accepted);
}

fn urgent(memory: &Memory, task: u128, key: Option<&str>) {
    memory.task(task, |new| {
        new.priority = domain::values::Priority::Critical;
        new.concurrency_key = key.map(Into::into);
    });
}

fn wait(memory: &Memory) {
    memory.pass(Duration::from_secs(60));
}

const CASES: &[Case] = &[
    Case {
        name: "a time",
        given: |memory| {
            let at = memory.clock.now() + Duration::from_secs(60);
            memory.task(TASK, |new| new.run_at = Some(at));
        },
        claimed: 0,
        codes: &["run_at"],
        release: wait,
    },
    Case {
        name: "a backoff",
        given: |memory| {
            let retry = domain::task::RetryPolicy { backoff_ms: 60_000, ..Default::default() };
            memory.task(TASK, |new| new.retry = Some(retry));
            let to = domain::task::AssignTask::to(agent_id(AGENT));
            memory.tell(TaskId::nth(TASK).0, TaskCommand::Assign(to), "operator");
            let error = Json::null();
            let fail = FailTask {
                lease_token: 1,
                error,
                retryable: true,
                class: None,
                retry_after_ms: None,
            };
            memory.answer(TaskCommand::Fail(fail), TaskId::nth(TASK), agent_id(AGENT));
        },
        claimed: 0,
        codes: &["backoff"],
        release: wait,
    },
    Case {
        name: "another task",
        given: |memory| {
            urgent(memory, 2, None);
            memory.task(TASK, |new| new.depends_on = vec![TaskId::nth(2)]);
        },
        claimed: 1,
        codes: &["dependency"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "a paused queue",
        given: |memory| {
            plain(memory);
            tell(memory, QueueCommand::Pause);
        },
        claimed: 0,
        codes: &["queue_paused"],
        release: |memory| tell(memory, QueueCommand::Resume),
    },
    Case {
        name: "a draining queue",
        given: |memory| {
            tell(memory, QueueCommand::Drain);
            plain(memory);
        },
        claimed: 0,
        codes: &["queue_draining"],
        release: |memory| tell(memory, QueueCommand::Resume),
    },
    Case {
        name: "the queue's limit",
        given: |memory| {
            limited(memory, "queue", Some(1), None);
            urgent(memory, 2, None);
            plain(memory);
        },
        claimed: 1,
        codes: &["limit_full"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "the tenant's limit",
        given: |memory| {
            limited(memory, "tenant", Some(1), None);
            urgent(memory, 2, None);
            plain(memory);
        },
        claimed: 1,
        codes: &["limit_full"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "a concurrency key",
        given: |memory| {
            urgent(memory, 2, Some("db"));
            memory.task(TASK, |new| new.concurrency_key = Some("db".into()));
        },
        claimed: 1,
        codes: &["limit_full"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "an expression's limit",
        given: |memory| {
            limited(memory, "task.type", Some(1), None);
            urgent(memory, 2, None);
            plain(memory);
        },
        claimed: 1,
        codes: &["limit_full"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "a rate",
        given: |memory| {
            limited(memory, "queue", None, Some(RatePolicy { per_s: 0.1, burst: 1 }));
            urgent(memory, 2, None);
            plain(memory);
        },
        claimed: 1,
        codes: &["rate_limited"],
        release: wait,
    },
    Case {
        name: "a key's rate",
        given: |memory| {
            limited(memory, "task.type", None, Some(RatePolicy { per_s: 0.1, burst: 1 }));
            urgent(memory, 2, None);
            plain(memory);
        },
        claimed: 1,
        codes: &["rate_limited"],
        release: wait,
    },
    Case {
        name: "a missing ability",
        given: |memory| {
            memory.task(TASK, |new| new.capabilities = vec!["gpu".into()]);
        },
        claimed: 0,
        codes: &["no_agent"],
        release: |memory| {
            let able = domain::agent::UpdateAgent {
                capabilities: Some(vec!["gpu".into()]),
                ..Default::default()
            };
            let update = domain::agent::AgentCommand::Update(able);
            memory.tell(agent_id(AGENT).0, update, "operator");
        },
    },
    Case {
        name: "somebody else's hands",
        given: |memory| {
            for n in 2..=4 {
                urgent(memory, n, None);
            }
            plain(memory);
        },
        claimed: 3,
        codes: &["agents_busy"],
        release: |memory| complete(memory, 2),
    },
    Case {
        name: "nothing but a claim",
        given: plain,
        claimed: 0,
        codes: &["next_in_line"],
        release: |_| {},
    },
];

async fn claimed(memory: &Memory, running: &Running, max: u32, wait_ms: u64) -> Vec<TaskId> {
    let got = running.claim(agent_id(AGENT), max, wait_ms).await;
    for task in &got {
        let start = domain::task::StartTask { lease_token: task.lease.token };
        memory.answer(TaskCommand::Start(start), task.task_id, agent_id(AGENT));
    }
    got.into_iter().map(|task| task.task_id).collect()
}

#[tokio::test]
async fn every_waiting_task_says_why_and_moves_when_that_is_done() {
    for case in CASES {
        let memory = Memory::new();
        memory.agent(AGENT, |new| new.slots = 3);
        (case.given)(&memory);
        let running = memory.run(&Wire::default(), vec![]);
        if case.claimed > 0 {
            let got = claimed(&memory, &running, case.claimed, 0).await;
            assert_eq!(got.len(), case.claimed as usize, "{}", case.name);
            assert!(!got.contains(&TaskId::nth(TASK)), "{}", case.name);
        }
        let why = running.why(TaskId::nth(TASK)).await;
        let codes: Vec<_> = why.iter().map(|waits| waits.code).collect();
        assert_eq!(codes, case.codes, "{}: {why:?}", case.name);
        for waits in &why {
            let cause = waits.cause.expect(case.name);
            assert!(cause >= 1 && cause <= memory.events().len() as u64, "{}", case.name);
            assert!(!waits.release.is_empty() && !waits.message.is_empty(), "{}", case.name);
        }
        if case.codes[0] != "next_in_line" {
            let early = claimed(&memory, &running, 3, 0).await;
            assert!(!early.contains(&TaskId::nth(TASK)), "{}: it did not wait", case.name);
        }
        (case.release)(&memory);
        let got = claimed(&memory, &running, 3, 2_000).await;
        assert!(got.contains(&TaskId::nth(TASK)), "{}: {:?}", case.name, {
            running.why(TaskId::nth(TASK)).await
        });
        running.stop().await;
    }
}
