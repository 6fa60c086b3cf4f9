//! Queues at work: paused, drained, purged, shared by weight, limited.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::operation::{AcceptOperation, OperationCommand, Resource};
use domain::queue::{
    ChangeQueue, ConfigureQueue, LimitPolicy, QueueCommand, QueueMode, QueuePolicy, RatePolicy,
    queue_id,
};
use domain::task::{
    Assignment, ClaimTasks, CompleteTask, FailTask, ReleaseTask, RetryPolicy, StartTask,
    TaskCommand, UpdateTask,
};
use domain::values::{Labels, Priority};
use domain::{Json, Status, TaskId};

use parking_lot::Mutex;

use crate::Claims;
use crate::process::SchedulerHandle;

use super::memory::{Memory, Running, Wire, agent_id, eventually, tenant};

fn ids(assignments: &[Assignment]) -> Vec<u128> {
    assignments.iter().map(|assignment| assignment.task_id.0.as_u128()).collect()
}

fn change() -> ChangeQueue {
    ChangeQueue::of("default")
}

fn limit(key: &str, max_running: u32) -> LimitPolicy {
    LimitPolicy { key: key.into(), max_running: Some(max_running), guaranteed: 0, rate: None }
}

fn complete(memory: &Memory, task: &Assignment, agent: u128) {
    let done = CompleteTask { lease_token: task.lease.token, result: Json::null() };
    let outcome = memory.answer(TaskCommand::Complete(done), task.task_id, agent_id(agent));
    assert_eq!(outcome.status, Status::Accepted);
}

async fn codes(running: &Running, task: u128) -> Vec<&'static str> {
    running.why(TaskId::nth(task)).await.into_iter().map(|waits| waits.code).collect()
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_out_until_it_is_resumed() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 9);
    memory.queue(QueueCommand::Pause(change()));
    memory.task(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 9, 0).await), [0u128; 0]);
    assert_eq!(codes(&running, 1).await, ["queue_paused"]);
    let waiting = running.claim(agent, 9, 5_000);
    let resumed = async {
        eventually("the claim waits", || running.handle.gauges().waiting_claims == 1).await;
        memory.queue(QueueCommand::Resume(change()));
    };
    let (got, ()) = tokio::join!(waiting, resumed);
    assert_eq!(ids(&got), [1], "a waiting claim hears of it");
    running.stop().await;
}

#[tokio::test]
async fn a_resumed_queue_is_pushed_to_listeners_and_other_queues_never_stopped() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let agent = memory.agent(1, |new| new.slots = 9);
    memory.tell(agent.0, domain::agent::AgentCommand::MarkReady(Default::default()), "operator");
    wire.listen(agent);
    memory.queue(QueueCommand::Pause(change()));
    for n in 1..=3 {
        memory.task(n, |_| {});
    }
    memory.task(4, |new| new.queue = "other".into());
    let running = memory.run(&wire, vec![]);
    eventually("the other queue goes on", || wire.pushed().len() == 1).await;
    memory.queue(QueueCommand::Resume(change()));
    eventually("all are pushed", || wire.pushed().len() == 4).await;
    running.stop().await;
}

#[tokio::test]
async fn a_draining_queue_gives_out_what_waited_and_parks_what_comes() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 9);
    let running = memory.run(&Wire::default(), vec![]);
    memory.task(1, |_| {});
    memory.queue(QueueCommand::Drain(change()));
    memory.task(2, |new| new.priority = Priority::Critical);
    let first = running.claim(agent, 9, 0).await;
    assert_eq!(ids(&first), [1]);
    assert_eq!(codes(&running, 2).await, ["queue_draining"]);
    // Back in the queue it is still one that waited before.
    memory.tell(TaskId::nth(1).0, TaskCommand::Unassign(Default::default()), "operator");
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [1]);
    // A scheduler that folds the log anew knows the same.
    running.stop().await;
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(codes(&running, 2).await, ["queue_draining"]);
    memory.queue(QueueCommand::Pause(change()));
    assert_eq!(codes(&running, 2).await, ["queue_paused"]);
    memory.queue(QueueCommand::Resume(change()));
    let got = running.claim(agent, 9, 1_000).await;
    assert_eq!(ids(&got), [1, 2], "the first is only told once more, to whoever asks anew");
    running.stop().await;
}

#[tokio::test]
async fn a_command_in_a_stream_of_another_name_changes_nothing() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 9);
    memory.task(1, |_| {});
    memory.tell(queue_id(&tenant(), "other"), QueueCommand::Pause(change()), "operator");
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 9, 0).await), [1]);
    running.stop().await;
}

#[tokio::test]
async fn a_purge_cancels_what_waits_and_nothing_else() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.task(1, |_| {});
    for n in 2..=150 {
        memory.task(n, |_| {});
    }
    memory.task(151, |new| new.queue = "other".into());
    memory.task(152, |new| new.run_at = Some(memory.clock.now() + Duration::from_secs(60)));
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 1, 0).await), [1]);
    let accept = AcceptOperation {
        kind: crate::PURGE.into(),
        resource: Resource { kind: "queue".into(), id: "default".into() },
        command: None,
        input: Json::null(),
    };
    let operation = uuid::Uuid::from_u128(7_000);
    memory.tell(operation, OperationCommand::Accept(accept), "operator");
    memory.task(153, |_| {});
    eventually("the purge ends", || {
        memory.story(operation).last().is_some_and(|last| last == "succeeded")
    })
    .await;
    let ended = |n: u128| memory.story(TaskId::nth(n).0).pop();
    assert!((2..=150).chain([152]).all(|n| ended(n).as_deref() == Some("cancelled")));
    assert_eq!(ended(1).as_deref(), Some("assigned"));
    assert_eq!(ended(151).as_deref(), Some("submitted"));
    assert_eq!(ended(153).as_deref(), Some("submitted"), "it came after the purge");
    let result = memory.events().iter().rev().find(|e| e.stream_id == operation).unwrap().clone();
    let text = String::from_utf8(result.payload.to_vec()).unwrap();
    assert!(text.contains(r#""cancelled":150"#) && text.contains(r#""left":0"#), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn priorities_share_a_queue_by_their_weights_or_strictly() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 500);
    let mut n = 0;
    for priority in Priority::ALL {
        for _ in 0..100 {
            n += 1;
            memory.task(n, |new| new.priority = priority);
        }
    }
    let running = memory.run(&Wire::default(), vec![]);
    let got = running.claim(agent, 62, 0).await;
    let count = |got: &[Assignment], p| got.iter().filter(|task| task.priority == p).count();
    assert_eq!(Priority::ALL.map(|p| count(&got, p)), [32, 16, 8, 4, 2]);
    memory.policy(|policy| policy.mode = QueueMode::Strict);
    let got = running.claim(agent, 70, 0).await;
    assert_eq!(Priority::ALL.map(|p| count(&got, p)), [68, 2, 0, 0, 0]);
    running.stop().await;
}

#[tokio::test]
async fn a_task_that_waited_long_comes_before_younger_urgent_ones() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 500);
    memory.policy(|policy| {
        policy.mode = QueueMode::Strict;
        policy.aging_ms = Some(1_000);
    });
    memory.task(1, |new| new.priority = Priority::Background);
    memory.pass(Duration::from_secs(3));
    memory.task(2, |new| new.priority = Priority::Critical);
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 1, 0).await), [2]);
    memory.pass(Duration::from_secs(1));
    memory.task(3, |new| new.priority = Priority::Critical);
    assert_eq!(ids(&running.claim(agent, 9, 0).await), [1, 3]);
    running.stop().await;
}

#[tokio::test]
async fn limits_by_queue_key_and_expression_hold_and_say_who_holds_them() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 50);
    memory.policy(|policy| {
        policy.limits =
            vec![limit("queue", 3), limit("task.concurrency_key", 2), limit("task.labels.c", 1)];
    });
    for n in 1..=4 {
        memory.task(n, |new| new.concurrency_key = Some("db".into()));
    }
    for n in 5..=6 {
        let label = [("c".to_owned(), "acme".to_owned())];
        memory.task(n, |new| new.labels = Labels::Pairs(label.into()));
    }
    let running = memory.run(&Wire::default(), vec![]);
    let got = running.claim(agent, 50, 0).await;
    assert_eq!(ids(&got), [1, 2, 5]);
    let why = running.why(TaskId::nth(3)).await;
    assert_eq!(why.iter().map(|w| w.code).collect::<Vec<_>>(), ["limit_full", "limit_full"]);
    assert!(why[0].message.contains("queue default") && why[0].ids.len() == 3, "{why:?}");
    assert!(why[1].message.contains("`db`") && why[1].ids == [1, 2].map(uuid::Uuid::from_u128));
    let why = running.why(TaskId::nth(6)).await;
    assert!(why[1].message.contains("`task.labels.c` = `acme`"), "{why:?}");
    // What ends makes room for one of the same kind.
    complete(&memory, &got[2], 1);
    assert_eq!(ids(&running.claim(agent, 50, 1_000).await), [6]);
    complete(&memory, &got[0], 1);
    assert_eq!(ids(&running.claim(agent, 50, 1_000).await), [3]);
    running.stop().await;
}

#[tokio::test]
async fn a_changed_label_moves_a_task_to_another_key() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 50);
    memory.policy(|policy| policy.limits = vec![limit("task.labels.c", 1)]);
    let labels = |c: &str| Labels::Pairs([("c".to_owned(), c.to_owned())].into());
    for n in 1..=2 {
        memory.task(n, |new| new.labels = labels("acme"));
    }
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 50, 0).await), [1]);
    let other = UpdateTask { labels: Some(labels("other")), ..UpdateTask::default() };
    memory.tell(TaskId::nth(2).0, TaskCommand::Update(other), "operator");
    assert_eq!(ids(&running.claim(agent, 50, 1_000).await), [2]);
    running.stop().await;
}

#[tokio::test]
async fn a_key_below_its_guarantee_goes_first() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 50);
    memory.policy(|policy| {
        let key = "task.labels.c".into();
        policy.limits = vec![LimitPolicy { key, max_running: Some(4), guaranteed: 2, rate: None }];
    });
    let labels = |c: &str| Labels::Pairs([("c".to_owned(), c.to_owned())].into());
    for n in 1..=6 {
        memory.task(n, |new| new.labels = labels("big"));
    }
    for n in 7..=8 {
        memory.task(n, |new| {
            new.labels = labels("small");
            new.priority = Priority::Low;
        });
    }
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 4, 0).await), [1, 2, 7, 8]);
    assert_eq!(ids(&running.claim(agent, 50, 0).await), [3, 4], "and then up to the ceiling");
    running.stop().await;
}

#[tokio::test]
async fn a_rate_lets_a_burst_pass_and_says_when_the_next_one_may() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 50);
    memory.policy(|policy| {
        let rate = Some(RatePolicy { per_s: 0.1, burst: 2 });
        let key = "queue".into();
        policy.limits = vec![LimitPolicy { key, max_running: None, guaranteed: 0, rate }];
    });
    for n in 1..=4 {
        memory.task(n, |_| {});
    }
    let running = memory.run(&Wire::default(), vec![]);
    let got = running.claim(agent, 50, 0).await;
    assert_eq!(ids(&got), [1, 2]);
    for task in &got {
        let start = StartTask { lease_token: task.lease.token };
        memory.answer(TaskCommand::Start(start), task.task_id, agent);
    }
    let why = running.why(TaskId::nth(3)).await;
    assert_eq!(why[0].code, "rate_limited");
    let wait = why[0].until.unwrap() - memory.clock.now();
    assert!((9_000..=10_000).contains(&wait.num_milliseconds()), "{wait}");
    // A scheduler that folds the log anew has not forgotten.
    running.stop().await;
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 50, 0).await), [0u128; 0]);
    memory.pass(Duration::from_secs(10));
    assert_eq!(ids(&running.claim(agent, 50, 1_000).await), [3]);
    running.stop().await;
}

/// While as many run as may, nobody asks when the rate lets the next one pass: that must be
/// asked when one has ended.
#[tokio::test]
async fn a_rate_that_opens_after_a_place_was_freed_is_not_slept_through() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let agent = memory.agent(1, |new| new.slots = 9);
    memory.tell(agent.0, domain::agent::AgentCommand::MarkReady(Default::default()), "operator");
    wire.listen(agent);
    memory.policy(|policy| {
        let rate = Some(RatePolicy { per_s: 2.0, burst: 1 });
        policy.limits = vec![LimitPolicy { rate, ..limit("queue", 1) }];
    });
    memory.task(1, |_| {});
    memory.task(2, |_| {});
    let running = memory.run(&wire, vec![]);
    eventually("the first runs", || wire.pushed().len() == 1).await;
    complete(&memory, &wire.pushed()[0].1, 1);
    eventually("the second follows by its rate", || wire.pushed().len() == 2).await;
    running.stop().await;
}

/// What a worker makes of what it is given.
async fn work(memory: Memory, agent: u128, handles: Arc<Mutex<Vec<Arc<SchedulerHandle>>>>) {
    let mut turn = agent as usize;
    while memory.count("completed") < STRESS {
        turn += 1;
        let handle = {
            let handles = handles.lock();
            handles[turn % handles.len()].clone()
        };
        let by = ClaimTasks::by(agent_id(agent));
        let request = ClaimTasks { max: 4, wait_ms: 20, ..by };
        // One that lost its lease refuses, or gives nothing.
        let got = handle.claim(tenant(), "default".into(), request).await.unwrap_or_default();
        for task in got.tasks {
            tokio::time::sleep(Duration::from_millis(1)).await;
            turn += 1;
            let (lease_token, error) = (task.lease.token, Json::null());
            let answer = match turn % 8 {
                0 => TaskCommand::Fail(FailTask {
                    lease_token,
                    error,
                    retryable: true,
                    class: None,
                    retry_after_ms: None,
                }),
                1 => TaskCommand::Release(ReleaseTask { lease_token, reason: None }),
                _ => TaskCommand::Complete(CompleteTask { lease_token, result: Json::null() }),
            };
            memory.answer(answer, task.task_id, agent_id(agent));
        }
    }
}

/// Tasks of the stress test.
const STRESS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_and_with_managers_that_overlap_no_limit_is_passed() {
    let memory = Memory::new();
    memory.policy(|policy| {
        policy.limits = vec![limit("queue", 20), limit("task.concurrency_key", 3)];
    });
    for n in 1..=8 {
        memory.agent(n, |new| new.slots = 6);
    }
    for n in 1..=STRESS as u128 {
        memory.task(n, |new| {
            new.concurrency_key = Some(format!("key-{}", n % 12));
            new.priority = Priority::ALL[n as usize % 5];
            let retry = RetryPolicy { max_attempts: 100, backoff_ms: 0, ..Default::default() };
            new.retry = Some(retry);
        });
    }
    let wire = Wire::default();
    let mut managers = vec![memory.take_over(&wire)];
    let handles = Arc::new(Mutex::new(vec![managers[0].handle.clone()]));
    let workers: Vec<_> =
        (1..=8).map(|n| tokio::spawn(work(memory.clone(), n, handles.clone()))).collect();
    let all = futures::future::join_all(workers);
    let mut all = std::pin::pin!(tokio::time::timeout(Duration::from_secs(60), all));
    loop {
        tokio::select! {
            ended = &mut all => break assert!(ended.is_ok(), "the tasks come to their end"),
            () = tokio::time::sleep(Duration::from_millis(150)) => {}
        }
        if managers.len() < 5 {
            // Whoever was before goes on, and takes claims.
            managers.push(memory.take_over(&wire));
            let mut handles = handles.lock();
            handles.push(managers.last().unwrap().handle.clone());
            let behind = handles.len().saturating_sub(2);
            handles.drain(..behind);
        }
    }
    let mut running = HashMap::new();
    for event in memory.events() {
        let task = event.stream_id.as_u128();
        match &*event.event_type {
            "assigned" => drop(running.insert(task, task % 12)),
            "completed" | "attempt_failed" | "released" | "unassigned" | "lease_expired" => {
                running.remove(&task);
            }
            _ => {}
        }
        let of_key = running.values().filter(|key| **key == task % 12).count();
        assert!(running.len() <= 20 && of_key <= 3, "{} and {of_key} run", running.len());
    }
    for managers in managers {
        managers.stop().await;
    }
}

#[tokio::test]
async fn queues_share_a_listener_by_their_weights() {
    let (memory, wire) = (Memory::new(), Wire::default());
    for n in 1..=80 {
        memory.task(n, |new| new.queue = if n % 2 == 0 { "a".into() } else { "b".into() });
    }
    let policy = QueuePolicy { weight: 3, ..QueuePolicy::default() };
    let heavy = ConfigureQueue { queue: "a".into(), policy };
    memory.tell(queue_id(&tenant(), "a"), QueueCommand::Configure(heavy), "operator");
    let agent = memory.agent(1, |new| new.slots = 40);
    memory.tell(agent.0, domain::agent::AgentCommand::MarkReady(Default::default()), "operator");
    wire.listen(agent);
    let running = memory.run(&wire, vec![]);
    eventually("its hands are full", || wire.pushed().len() == 40).await;
    let of_a = wire.pushed().iter().filter(|(_, task)| task.queue == "a").count();
    assert_eq!(of_a, 30);
    running.stop().await;
}
