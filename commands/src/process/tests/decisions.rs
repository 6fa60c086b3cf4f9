//! The scheduler's decisions made once more from the log, whole and altered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::queue::{LimitPolicy, RatePolicy};
use domain::task::{CompleteTask, FailTask, RetryPolicy, TaskCommand, TaskEvent};
use domain::values::{Labels, Priority};
use domain::{Event, Json, Recorded};
use serde_json::{Value, json};

use super::memory::{Memory, Wire, agent_id, eventually};
use crate::process::{DecisionReport, Decisions};

type Change<'a> = &'a dyn Fn(&mut Value);

/// All decisions of a log made once more.
pub fn verified(events: &[Arc<Recorded>]) -> DecisionReport {
    let mut decisions = Decisions::default();
    events.iter().for_each(|event| decisions.note(event));
    let mut follower = decisions.follow();
    events.iter().for_each(|event| follower.apply(event));
    follower.finish()
}

fn assigned(event: &Recorded) -> bool {
    matches!(event.event(), Ok(Event::Task(TaskEvent::Assigned(_))))
}

/// The log with one event's payload changed.
fn altered(
    events: &[Arc<Recorded>],
    position: u64,
    change: impl Fn(&mut Value),
) -> Vec<Arc<Recorded>> {
    let alter = |event: &Arc<Recorded>| {
        if event.position != position {
            return event.clone();
        }
        let mut payload: Value = serde_json::from_slice(&event.payload).unwrap();
        change(&mut payload);
        let payload = serde_json::to_vec(&payload).unwrap().into();
        Arc::new(Recorded { payload, decoded: Default::default(), ..(**event).clone() })
    };
    events.iter().map(alter).collect()
}

/// A fleet that claims and is pushed, with limits, failures, busy answers and a takeover.
async fn busy_day() -> Memory {
    let (memory, wire) = (Memory::new(), Wire::default());
    for n in 1..=4 {
        let agent = memory.agent(n, |new| {
            new.slots = n as u32;
            new.cost = 3 * n as u32;
            new.capabilities = if n % 2 == 0 { vec!["py@3.11".into()] } else { vec![] };
            new.labels = Labels::Pairs([("zone".into(), (n % 3).to_string())].into());
        });
        let ready = domain::agent::AgentCommand::MarkReady(Default::default());
        memory.tell(agent.0, ready, "operator");
        if n > 2 {
            wire.listen(agent);
        }
    }
    memory.policy(|policy| {
        policy.aging_ms = Some(700);
        policy.scoring.cost = 2;
        policy.limits = vec![
            LimitPolicy {
                key: "task.concurrency_key".into(),
                max_running: Some(2),
                guaranteed: 1,
                rate: Some(RatePolicy { per_s: 5.0, burst: 2 }),
            },
            LimitPolicy { key: "queue".into(), max_running: Some(7), guaranteed: 0, rate: None },
        ];
    });
    let mut submitted = 0;
    for _session in 0..2 {
        let running = memory.take_over(&wire);
        for _ in 0..30 {
            submitted += 1;
            memory.task(submitted, |new| {
                new.priority = Priority::ALL[submitted as usize % 5];
                new.concurrency_key = (submitted % 3 == 0).then(|| format!("k{}", submitted % 2));
                new.capabilities =
                    if submitted % 4 == 0 { vec!["py@^3.10".into()] } else { vec![] };
                new.retry = Some(RetryPolicy { max_attempts: 9, ..RetryPolicy::default() });
            });
            if submitted % 7 == 0 {
                memory.busy.store(9, Ordering::SeqCst);
            }
            let agent = agent_id(submitted % 2 + 1);
            let claimed = running.claim(agent, 3, 0).await;
            memory.busy.store(0, Ordering::SeqCst);
            for task in claimed {
                let lease_token = task.lease.token;
                let answer = if submitted % 5 == 0 {
                    TaskCommand::Fail(FailTask {
                        lease_token,
                        error: Json::null(),
                        retryable: true,
                        class: None,
                        retry_after_ms: None,
                    })
                } else {
                    TaskCommand::Complete(CompleteTask { lease_token, result: Json::null() })
                };
                memory.answer(answer, task.task_id, agent);
            }
            for (agent, task) in wire.take_pushed() {
                let lease_token = task.lease.token;
                let done = CompleteTask { lease_token, result: Json::null() };
                memory.answer(TaskCommand::Complete(done), task.task_id, agent);
            }
            memory.pass(Duration::from_millis(150));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        running.stop().await;
    }
    memory
}

#[tokio::test]
async fn decisions_come_out_the_same_and_an_altered_one_is_named() {
    let memory = busy_day().await;
    let events = memory.events();
    let report = verified(&events);
    assert_eq!(report.faults, [], "{report:?}");
    assert!(report.identical > 40, "{report:?}");
    assert!(report.unknown * 10 < report.decisions, "{report:?}");

    let all: Vec<u64> = events.iter().filter(|e| assigned(e)).map(|e| e.position).collect();
    let middle = all[all.len() / 3];
    let first = |change: Change<'_>| {
        verified(&altered(&events, middle, change)).faults.first().map(|fault| fault.position)
    };
    let changes: [(&str, Change<'_>); 6] = [
        ("another agent", &|p| p["agent_id"] = json!(agent_id(9))),
        ("another score", &|p| p["decision"]["candidates"][0]["score"] = json!(-77_777)),
        ("another candidate", &|p| p["decision"]["candidates"][0]["id"] = json!(agent_id(3))),
        ("another reason", &|p| p["reason"] = json!("because")),
        ("no record", &|p| p["decision"] = Value::Null),
        ("an earlier view", &|p| p["decision"]["seen"] = json!(3)),
    ];
    for (what, change) in changes {
        assert_eq!(first(change), Some(middle), "{what}");
    }
}

#[tokio::test]
async fn only_the_scheduler_says_how_it_decided() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let task = memory.task(1, |_| {});
    let running = memory.take_over(&Wire::default());
    eventually("a decision", || memory.count("submitted") == 1).await;
    assert_eq!(running.claim(agent, 1, 0).await.len(), 1);
    running.stop().await;
    let decision = |event: &Arc<Recorded>| match event.event() {
        Ok(Event::Task(TaskEvent::Assigned(to))) => Some(to.decision.clone()),
        Ok(_) | Err(_) => None,
    };
    let made = memory.events().iter().find_map(decision).flatten();
    let made = made.expect("the scheduler writes down how it decided");
    assert_eq!((made.nth, made.of, made.candidates.len()), (1, 1, 1));
    // An operator who sends the same is not believed.
    let other = memory.task(2, |_| {});
    let to =
        domain::task::AssignTask { decision: Some(made), ..domain::task::AssignTask::to(agent) };
    memory.tell(other.0, TaskCommand::Assign(to), "operator");
    let last = memory.events().iter().rev().find_map(decision);
    assert_eq!(last, Some(None));
    assert_ne!(task, other);
}
