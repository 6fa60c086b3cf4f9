//! The scheduler at work: claims, pushes, order, restarts.

use std::time::Duration;

use domain::agent::{AgentCommand, RegisterAgent};
use domain::task::{
    ClaimTasks, CompleteTask, FailTask, RetryPolicy, StartTask, TaskCommand, UpdateTask,
};
use domain::values::Priority;
use domain::{Code, Json, Status, TaskId};

use super::memory::{Memory, Wire, agent_id, eventually, tenant};

fn ids(assignments: &[domain::task::Assignment]) -> Vec<TaskId> {
    assignments.iter().map(|assignment| assignment.task_id).collect()
}

fn done(token: u64) -> TaskCommand {
    TaskCommand::Complete(CompleteTask { lease_token: token, result: Json::null() })
}

#[tokio::test]
async fn a_claim_gets_the_most_urgent_then_the_oldest_up_to_the_slots() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 3);
    memory.task(1, |_| {});
    memory.task(2, |_| {});
    memory.task(3, |new| new.priority = Priority::High);
    memory.task(4, |new| new.priority = Priority::Critical);
    let running = memory.run(&Wire::default(), vec![]);
    let got = running.claim(agent, 10, 0).await;
    assert_eq!(ids(&got), [4, 3, 1].map(TaskId::nth));
    assert_eq!(memory.story(agent.0), ["registered", "ready"], "a claimant is there");
    assert!(running.claim(agent, 10, 0).await.is_empty(), "no slot left");
    assert_eq!(memory.answer(done(1), TaskId::nth(4), agent).status, Status::Accepted);
    assert_eq!(ids(&running.claim(agent, 10, 1_000).await), [TaskId::nth(2)]);
    running.stop().await;
}

#[tokio::test]
async fn a_waiting_claim_is_answered_when_a_task_comes() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    let later = memory.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        later.task(1, |_| {});
    });
    let got = running.claim(agent, 1, 5_000).await;
    assert_eq!(ids(&got), [TaskId::nth(1)]);
    assert_eq!(got[0].lease.token, 1);
    assert_eq!(got[0].attempt, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_claim_that_was_given_up_swallows_no_task() {
    let memory = Memory::new();
    let (first, second) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    let running = memory.run(&Wire::default(), vec![]);
    let gone = tokio::time::timeout(Duration::from_millis(50), running.claim(first, 1, 5_000));
    assert!(gone.await.is_err());
    memory.task(1, |_| {});
    assert_eq!(ids(&running.claim(second, 1, 1_000).await), [TaskId::nth(1)]);
    running.stop().await;
}

#[tokio::test]
async fn waiting_claims_are_served_in_the_order_they_came() {
    let memory = Memory::new();
    let running = memory.run(&Wire::default(), vec![]);
    let mut claims = Vec::new();
    for n in 1..=4 {
        let agent = memory.agent(n, |_| {});
        let handle = running.handle.clone();
        claims.push(tokio::spawn(async move {
            let request = ClaimTasks { wait_ms: 5_000, ..ClaimTasks::by(agent) };
            crate::Claims::claim(&*handle, tenant(), "default".into(), request).await
        }));
        let waiting = n as usize;
        eventually("the claim waits", || running.handle.gauges().waiting_claims == waiting).await;
    }
    for (n, claim) in claims.into_iter().enumerate() {
        memory.task(n as u128 + 1, |_| {});
        let got = claim.await.unwrap().unwrap();
        assert_eq!(ids(&got.tasks), [TaskId::nth(n as u128 + 1)]);
    }
    running.stop().await;
}

#[tokio::test]
async fn capabilities_and_assignees_decide_who_may() {
    let memory = Memory::new();
    let plain = memory.agent(1, |new| new.slots = 9);
    let gifted = memory.agent(2, |new| {
        new.slots = 9;
        new.capabilities = vec!["ocr".into(), "gpu".into()];
    });
    memory.task(1, |new| new.capabilities = vec!["gpu".into()]);
    memory.task(2, |new| new.assignees = vec!["agent-2".into()]);
    memory.task(3, |new| new.assignees = vec![agent_id(1).to_string()]);
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(plain, 9, 0).await), [TaskId::nth(3)]);
    assert_eq!(ids(&running.claim(gifted, 9, 0).await), [1, 2].map(TaskId::nth));
    running.stop().await;
}

#[tokio::test]
async fn times_dependencies_and_keys_hold_a_task_back() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 9);
    let soon = memory.clock.now() + Duration::from_secs(60);
    memory.task(1, |new| new.run_at = Some(soon));
    memory.task(2, |_| {});
    memory.task(3, |new| new.depends_on = vec![TaskId::nth(2)]);
    memory.task(4, |new| new.concurrency_key = Some("db".into()));
    memory.task(5, |new| new.concurrency_key = Some("db".into()));
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 9, 0).await), [2, 4].map(TaskId::nth));
    let why = running.why(TaskId::nth(5)).await;
    assert_eq!((why[0].code, &*why[0].ids), ("limit_full", &[TaskId::nth(4).0][..]), "{why:?}");
    let why = running.why(TaskId::nth(3)).await;
    assert_eq!((why[0].code, &*why[0].ids), ("dependency", &[TaskId::nth(2).0][..]), "{why:?}");
    memory.answer(done(1), TaskId::nth(2), agent);
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [TaskId::nth(3)]);
    memory.answer(done(1), TaskId::nth(4), agent);
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [TaskId::nth(5)]);
    // Done before anybody depended on it: the log is asked.
    memory.task(6, |new| new.depends_on = vec![TaskId::nth(2)]);
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [TaskId::nth(6)]);
    memory.pass(Duration::from_secs(61));
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [TaskId::nth(1)]);
    running.stop().await;
}

#[tokio::test]
async fn a_failed_attempt_waits_for_its_backoff() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let task = memory.task(1, |new| {
        let retry = RetryPolicy { backoff_ms: 60_000, ..RetryPolicy::default() };
        new.retry = Some(retry);
    });
    let running = memory.run(&Wire::default(), vec![]);
    running.claim(agent, 1, 0).await;
    let error = Json::of("no luck");
    let fail =
        FailTask { lease_token: 1, error, retryable: true, class: None, retry_after_ms: None };
    memory.answer(TaskCommand::Fail(fail), task, agent);
    assert!(running.claim(agent, 1, 100).await.is_empty());
    memory.pass(Duration::from_secs(60));
    let again = running.claim(agent, 1, 1_000).await;
    assert_eq!((again[0].attempt, again[0].lease.token), (2, 2));
    running.stop().await;
}

#[tokio::test]
async fn an_expired_lease_sends_the_task_to_another_agent_with_a_new_token() {
    let memory = Memory::new();
    let (first, second) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    let task = memory.task(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(running.claim(first, 1, 0).await[0].lease.token, 1);
    memory.answer(TaskCommand::Start(StartTask { lease_token: 1 }), task, first);
    memory.pass(Duration::from_secs(31));
    assert_eq!(running.claim(second, 1, 2_000).await[0].lease.token, 2);
    let stale = memory.answer(done(1), task, first);
    assert_eq!(stale.problem.unwrap().code(), Some(Code::StaleLease));
    assert_eq!(memory.answer(done(2), task, second).status, Status::Accepted);
    running.stop().await;
}

#[tokio::test]
async fn large_payloads_and_updates_arrive_whole() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 9);
    let large = Json::of(&"x".repeat(5_000));
    memory.task(1, |new| new.payload = large.clone());
    memory.task(2, |new| new.payload = Json::of("small"));
    let payload = Some(Json::of(&"y".repeat(5_000)));
    let update = UpdateTask { payload: payload.clone(), ..Default::default() };
    memory.tell(TaskId::nth(2).0, TaskCommand::Update(update), "operator");
    let running = memory.run(&Wire::default(), vec![]);
    let got = running.claim(agent, 9, 0).await;
    assert_eq!(got[0].payload, large);
    assert_eq!(Some(&got[1].payload), payload.as_ref());
    running.stop().await;
}

#[tokio::test]
async fn a_listener_is_pushed_to_and_a_claim_comes_before_it() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let (listener, claimant) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    wire.listen(listener);
    wire.beat(listener, None);
    let running = memory.run(&wire, vec![]);
    memory.task(1, |_| {});
    eventually("the task is pushed", || wire.pushed().len() == 1).await;
    let (to, assignment) = wire.pushed()[0].clone();
    assert_eq!((to, assignment.task_id), (listener, TaskId::nth(1)));
    memory.task(2, |_| {});
    assert_eq!(ids(&running.claim(claimant, 1, 1_000).await), [TaskId::nth(2)]);
    memory.answer(done(1), TaskId::nth(1), listener);
    memory.task(3, |_| {});
    eventually("the next one too", || wire.pushed().len() == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_listener_that_let_a_lease_run_out_is_pushed_to_once_it_shows_that_it_lives() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let (hung, claimant) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    wire.listen(hung);
    wire.beat(hung, None);
    let running = memory.run(&wire, vec![]);
    let task = memory.task(1, |_| {});
    eventually("the task is pushed", || wire.pushed().len() == 1).await;
    memory.pass(Duration::from_secs(31));
    let expired = || memory.story(task.0).contains(&"lease_expired".into());
    eventually("its lease runs out", expired).await;
    // Its subscription is there as before, and long enough for a probe.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(wire.pushed().len(), 1, "nothing more for somebody who may be dead");
    let got = running.claim(claimant, 1, 1_000).await;
    assert_eq!((got[0].task_id, got[0].lease.token), (task, 2));
    memory.task(2, |_| {});
    wire.beat(hung, None);
    eventually("it lives and is pushed to again", || wire.pushed().len() == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_task_that_comes_with_a_listener_s_free_slot_is_for_the_waiting_claim() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let (listener, claimant) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    wire.listen(listener);
    wire.beat(listener, None);
    let running = memory.run(&wire, vec![]);
    let first = memory.task(1, |_| {});
    eventually("the task is pushed", || wire.pushed().len() == 1).await;
    let claim = running.claim(claimant, 1, 5_000);
    let both = async {
        eventually("the claim waits", || running.handle.gauges().waiting_claims == 1).await;
        // Both before the managers get to look at either.
        memory.answer(done(1), first, listener);
        memory.task(2, |_| {});
    };
    let (got, ()) = tokio::join!(claim, both);
    assert_eq!(ids(&got), [TaskId::nth(2)]);
    assert_eq!(wire.pushed().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_nobody_heard_goes_back_to_the_queue() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let (deaf, claimant) = (memory.agent(1, |_| {}), memory.agent(2, |_| {}));
    wire.listen(deaf);
    wire.lose(deaf);
    wire.beat(deaf, None);
    let running = memory.run(&wire, vec![]);
    eventually("it is ready", || memory.story(deaf.0).len() == 2).await;
    let task = memory.task(1, |_| {});
    eventually("it is taken back", || memory.story(task.0).contains(&"unassigned".into())).await;
    let got = running.claim(claimant, 1, 1_000).await;
    assert_eq!((got[0].task_id, got[0].attempt), (task, 1));
    running.stop().await;
}

#[tokio::test]
async fn an_agent_that_registers_anew_is_told_again_what_it_has() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 2);
    memory.task(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(running.claim(agent, 1, 0).await.len(), 1);
    assert!(running.claim(agent, 1, 50).await.is_empty(), "told once");
    let again = RegisterAgent { slots: 2, ..RegisterAgent::named("agent-1") };
    memory.tell(agent.0, AgentCommand::Register(again), "operator");
    let got = running.claim(agent, 1, 1_000).await;
    assert_eq!((got[0].task_id, got[0].lease.token), (TaskId::nth(1), 1));
    running.stop().await;
}

#[tokio::test]
async fn an_operator_s_choice_is_delivered_through_any_queue() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let task = memory.task(1, |new| new.queue = "other".into());
    let running = memory.run(&Wire::default(), vec![]);
    let to = domain::task::AssignTask::to(agent);
    memory.tell(task.0, TaskCommand::Assign(to), "operator");
    assert_eq!(ids(&running.claim(agent, 1, 1_000).await), [task]);
    running.stop().await;
}

#[tokio::test]
async fn agents_that_are_told_to_rest_get_nothing() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    let unknown = running.try_claim(agent_id(99), 1, 0).await.unwrap_err();
    assert_eq!(unknown.code(), Some(Code::NotFound));
    let waiting = running.try_claim(agent, 1, 5_000);
    let drained = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        memory.tell(agent.0, AgentCommand::Drain(Default::default()), "operator");
    };
    let (waiting, ()) = tokio::join!(waiting, drained);
    assert_eq!(waiting.unwrap_err().code(), Some(Code::NotPossible), "also one that waits");
    running.stop().await;
}

#[test]
fn making_an_agent_ready_does_not_undo_a_drain_that_came_first() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    let mut roster = crate::process::Roster::default();
    for event in memory.events() {
        roster.apply(&event);
    }
    let facts = roster.get(agent).unwrap();
    let ready = crate::process::watchdog::ready(agent, facts, "manager:test", "it claims work");
    memory.tell(agent.0, AgentCommand::Drain(Default::default()), "operator");
    let problem = memory.decide(ready).problem.unwrap();
    assert_eq!(problem.code(), Some(Code::VersionMismatch));
    assert_eq!(memory.story(agent.0), ["registered", "draining"]);
}

#[tokio::test]
async fn a_busy_executor_only_delays() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.tell(agent.0, AgentCommand::MarkReady(Default::default()), "operator");
    memory.task(1, |_| {});
    let running = memory.run(&Wire::default(), vec![]);
    memory.busy.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(running.claim(agent, 1, 3_000).await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_everything_goes_on_and_nothing_is_given_twice() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.slots = 3);
    for n in 1..=3 {
        memory.task(n, |_| {});
    }
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(running.claim(agent, 1, 0).await.len(), 1);
    memory.answer(TaskCommand::Start(StartTask { lease_token: 1 }), TaskId::nth(1), agent);
    running.stop().await;
    let running = memory.run(&Wire::default(), vec![]);
    assert_eq!(ids(&running.claim(agent, 9, 1_000).await), [2, 3].map(TaskId::nth));
    running.stop().await;
    assert!(running_gone(&memory).await);
}

async fn running_gone(memory: &Memory) -> bool {
    let running = memory.run(&Wire::default(), vec![]);
    let handle = running.handle.clone();
    eventually("it has caught up", || handle.is_active()).await;
    running.stop().await;
    !handle.is_active()
}
