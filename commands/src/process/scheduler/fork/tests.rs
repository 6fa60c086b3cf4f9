//! Forks of logs that the scheduler's simulation made, and of a day with one agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use domain::agent::{AgentCommand, RegisterAgent};
use domain::fork::{ForkChanges, ForkClones, ForkPriority, ForkRequest, ForkRetry, ForkTasks};
use domain::queue::{QueueMode, QueuePolicy};
use domain::task::{CompleteTask, FailTask, RetryPolicy, StartTask, SubmitTask, TaskCommand};
use domain::values::Priority;
use domain::{Command, Json, Recorded, Status, TaskId, TenantId, Timestamp};
use proptest::prelude::*;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::core::{Hand, Scheduler};
use super::super::sim;
use super::super::waiters::{Terms, Waiter};
use super::observed::Ways;
use super::{ForkNotes, ForkReport};
use crate::CommandEnvelope;
use crate::process::tests::log::Log;
use crate::process::tests::memory::{agent_id, start_of_time, tenant};

fn forked(
    events: &[Arc<Recorded>],
    asked: ForkRequest,
    tenant: TenantId,
) -> Result<ForkReport, domain::Problem> {
    let to = asked.to.unwrap_or(events.len() as u64);
    let events = &events[..to as usize];
    let mut notes = ForkNotes::new(Uuid::from_u128(7), tenant, asked, to);
    events.iter().for_each(|event| notes.note(event));
    let mut fork = notes.end();
    for event in events {
        fork.apply(event)?;
    }
    fork.finish()
}

fn fork(events: &[Arc<Recorded>], from: u64, changes: ForkChanges) -> ForkReport {
    let asked = ForkRequest { from, changes, seed: 1, ..ForkRequest::default() };
    forked(events, asked, tenant()).expect("a fork")
}

/// One agent with one slot, which takes a tenth of a second between two tasks; each task
/// takes as long as its number says, in milliseconds. The task `fails` fails at first.
fn day(lengths: &[i64], fails: Option<usize>) -> Vec<Arc<Recorded>> {
    let mut log = Log::default();
    let mut scheduler = Scheduler::under(1, None);
    let (mut folded, mut id) = (0, 0u128);
    let agent = agent_id(1);
    let mut tell = |log: &mut Log, stream: Uuid, command: Command, actor: &str, now: Timestamp| {
        id += 1;
        let id = Uuid::from_u128(id);
        let command = CommandEnvelope::new(tenant(), stream, command, id, actor);
        let outcome = log.decide(&command, now);
        assert_eq!(outcome.status, Status::Accepted, "{:?}", outcome.problem);
    };
    let mut now = start_of_time();
    let new = RegisterAgent::named("ada");
    tell(&mut log, agent.0, AgentCommand::Register(new).into(), "operator", now);
    tell(&mut log, agent.0, AgentCommand::MarkReady(Default::default()).into(), "operator", now);
    for nth in 1..=lengths.len() {
        now += TimeDelta::milliseconds(10);
        let mut new: SubmitTask = serde_json::from_str(r#"{"title":"t","queue":"mail"}"#).unwrap();
        new.labels = domain::values::Labels::Words(vec![format!("nth-{nth}")]);
        new.retry = Some(RetryPolicy { backoff_ms: 0, ..RetryPolicy::default() });
        let task = TaskId::nth(nth as u128);
        tell(&mut log, task.0, TaskCommand::Submit(new).into(), "operator", now);
    }
    let mut failed = None;
    loop {
        now += TimeDelta::milliseconds(100);
        for event in &log.events[folded..] {
            scheduler.apply(event);
        }
        folded = log.events.len();
        scheduler.advance(now);
        let (answer, _nobody) = oneshot::channel();
        let (queue, terms) = ("mail".to_owned(), Terms { lease_ms: Some(3_600_000), start: false });
        let waiter = Waiter { tenant: tenant(), queue, agent, max: 1, terms, answer };
        let claim = scheduler.wait(waiter).unwrap();
        let picks: Vec<_> = scheduler
            .serve()
            .into_iter()
            .flat_map(|hand| match hand {
                Hand::Claim(_, picks) => picks,
                Hand::Push(pick) => vec![*pick],
            })
            .collect();
        scheduler.withdraw(claim);
        let Some(pick) = picks.into_iter().next() else { return log.events };
        now += TimeDelta::milliseconds(2);
        let assign = pick.assign.expect("an assignment");
        assert_eq!(log.decide(&assign, now).status, Status::Accepted);
        let actor = format!("agent:{agent}");
        now += TimeDelta::milliseconds(5);
        let token = log
            .events
            .iter()
            .filter(|event| event.stream_id == pick.task.0 && &*event.event_type == "assigned")
            .count() as u64;
        let start = StartTask { lease_token: token };
        tell(&mut log, pick.task.0, TaskCommand::Start(start).into(), &actor, now);
        let nth = pick.task.0.as_u128() as usize - 1;
        now += TimeDelta::milliseconds(lengths[nth]);
        let end = if fails == Some(nth) && failed.replace(nth).is_none() {
            let (error, class) = (Json::null(), None);
            let (retryable, retry_after_ms) = (true, None);
            TaskCommand::Fail(FailTask {
                lease_token: token,
                error,
                class,
                retryable,
                retry_after_ms,
            })
        } else {
            let result = Json::of(&serde_json::json!({ "usage": { "tokens": 10 } }));
            TaskCommand::Complete(CompleteTask { lease_token: token, result })
        };
        tell(&mut log, pick.task.0, end.into(), &actor, now);
    }
}

fn more(count: u32) -> ForkChanges {
    let mut changes = ForkChanges::default();
    let like = Some("ada".to_owned());
    changes.agents.add = vec![ForkClones { count, like, ..ForkClones::default() }];
    changes
}

#[test]
fn nothing_changed_is_identical_to_the_decision() {
    let events = day(&[400, 300, 200, 100, 50], Some(2));
    for from in [0, 2, 7, 12, events.len() as u64 - 1] {
        let report = fork(&events, from, ForkChanges::default());
        assert!(report.identical, "{from}: {report:#?}");
        assert_eq!(report.left_at, None);
        assert_eq!((report.decisions.different, report.commands.different), (0, 0));
        assert_eq!(report.happened, report.what_if);
    }
    let report = fork(&events, 0, ForkChanges::default());
    assert_eq!((report.decisions.identical, report.happened.completed), (6, 5));
    assert_eq!(report.happened.failed_attempts, 1);
    assert_eq!(report.happened.usage, BTreeMap::from([("tokens".to_owned(), 50.0)]));
    assert!(report.commands.identical >= 18, "{:?}", report.commands);
}

#[test]
fn more_agents_shorten_the_wait_and_say_who_would_have_had_what() {
    let events = day(&[1_000; 20], None);
    let report = fork(&events, 2, more(1));
    assert!(!report.identical);
    assert_eq!(report.left_at, Some(2));
    assert_eq!((report.what_if.completed, report.what_if.submitted), (20, 20));
    let (was, would) = (report.happened.wait_ms, report.what_if.wait_ms);
    assert!(would.p50 < 0.7 * was.p50 && would.max < 0.7 * was.max, "{was:?} {would:?}");
    let clone = report.agents.iter().find(|agent| agent.added).expect("the clone");
    assert_eq!((clone.name.as_str(), clone.happened.assigned), ("ada+1", 0));
    assert!((8..=12).contains(&clone.what_if.assigned), "{clone:?}");
    assert_eq!(report.assignments.same_agent + report.assignments.other_agent, 20);
    // Nothing of the model's own is in it: unchanged, it tells what happened.
    let control = report.control.expect("a control");
    assert!((control.wait_ms.p50 - was.p50).abs() < 0.05 * was.p50, "{control:?} {was:?}");
    assert_eq!(control.completed, 20);
    let code = |code: &str| report.assumptions.iter().find(|a| a.code == code).map(|a| a.count);
    assert_eq!(code("agent_added"), Some(1));
    assert_eq!(code("run_of_the_task"), Some(clone.what_if.assigned));
    assert!(report.what_if.run_ms.p50 == report.happened.run_ms.p50);
}

#[test]
fn another_order_leaves_the_record_where_it_shows() {
    let events = day(&[100; 10], None);
    let tasks =
        ForkTasks { condition: Some("'nth-9' in task.labels".into()), ..ForkTasks::default() };
    let priorities = vec![ForkPriority { tasks, priority: Priority::Critical }];
    let report = fork(&events, 0, ForkChanges { priorities, ..ForkChanges::default() });
    assert_eq!(report.what_if.completed, 10);
    let first = report.first_difference.clone().expect("a difference");
    // Of two priorities that never had a turn the submission decides, then their shares.
    assert_eq!(first.happened.map(|was| was.task_id), Some(TaskId::nth(2)));
    assert_eq!(first.what_if.map(|would| would.task_id), Some(TaskId::nth(9)));
    let mut assigned = events.iter().filter(|event| &*event.event_type == "assigned");
    let (before, at) = (assigned.next().unwrap().position, assigned.next().unwrap().position);
    assert_eq!(first.position, Some(at));
    assert!((before - 1..at).contains(&report.left_at.unwrap()), "{report:?}");
    // What changes nothing that is decided leaves the record nowhere.
    let tasks = ForkTasks { queue: Some("mail".into()), ..ForkTasks::default() };
    let priorities = vec![ForkPriority { tasks, priority: Priority::Low }];
    let report = fork(&events, 0, ForkChanges { priorities, ..ForkChanges::default() });
    assert!(report.first_difference.is_none(), "{report:#?}");
}

#[test]
fn fewer_attempts_end_as_a_dead_letter() {
    let events = day(&[100; 4], Some(1));
    let policy = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let retry = vec![ForkRetry { tasks: ForkTasks::default(), policy }];
    let report = fork(&events, 0, ForkChanges { retry, ..ForkChanges::default() });
    assert_eq!((report.happened.completed, report.happened.dead), (4, 0));
    assert_eq!((report.what_if.completed, report.what_if.dead), (3, 1));
    let failed = events.iter().find(|event| &*event.event_type == "attempt_failed").unwrap();
    assert_eq!(report.left_at, Some(failed.position - 1));
}

#[test]
fn shorter_leases_run_out_and_fewer_agents_leave_work() {
    let events = day(&[3_000; 4], None);
    let changes = ForkChanges { lease_ms: Some(1_000), ..ForkChanges::default() };
    let report = fork(&events, 2, changes);
    assert!(report.what_if.expired_leases > 0, "{report:#?}");
    assert_eq!(report.happened.expired_leases, 0);
    let mut changes = ForkChanges::default();
    changes.agents.remove = vec!["ada".into()];
    let report = fork(&events, 6, changes);
    assert_eq!((report.what_if.completed, report.what_if.waiting), (0, 4));
}

#[test]
fn names_that_were_not_there_are_refused_by_field() {
    let events = day(&[100], None);
    let mut changes = more(1);
    changes.agents.add[0].like = Some("nobody".into());
    changes.agents.remove = vec!["nobody".into()];
    changes.queues.insert("nowhere".into(), QueuePolicy::default());
    let asked = ForkRequest { changes, ..ForkRequest::default() };
    let problem = forked(&events, ForkRequest { from: 3, ..asked }, tenant()).unwrap_err();
    let pointers: Vec<&str> = problem.errors.iter().map(|fault| fault.pointer.as_str()).collect();
    let expected =
        ["/changes/queues/nowhere", "/changes/agents/remove/0", "/changes/agents/add/0/like"];
    assert_eq!(pointers, expected);
}

#[test]
fn a_policy_of_a_queue_counts_in_place_of_what_was_set() {
    let events = day(&[200; 8], None);
    let policy = QueuePolicy { mode: QueueMode::Strict, ..QueuePolicy::default() };
    let queues = BTreeMap::from([("mail".to_owned(), policy)]);
    let report = fork(&events, 2, ForkChanges { queues, ..ForkChanges::default() });
    // Nothing but the order of priorities, and there is one: the same in another way.
    assert_eq!(report.assignments.same_agent, 8);
    assert_eq!(report.what_if.completed, 8);
}

#[test]
fn an_agent_asks_the_queue_first_that_it_took_from_while_others_had_tasks() {
    let queues: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
    let mut ways = Ways::default();
    ways.queues.extend(queues.iter().cloned());
    ways.took("c", &queues[..2]);
    ways.took("b", &queues[..1]);
    ways.took("a", &[]);
    let order: Vec<_> = ways.in_order().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["c", "b", "a"]);
}

/// An hour of a fleet: agents with four slots that ask a tenth of a second after each task,
/// tasks of three priorities that take five seconds on average.
fn hour(tasks: usize, agents: usize) -> Vec<Arc<Recorded>> {
    let mut log = Log::default();
    let mut scheduler = Scheduler::under(1, None);
    let (mut folded, mut serial, mut id) = (0, 0u64, 0u128);
    let mut agenda: BTreeMap<(Timestamp, u64), Plan> = BTreeMap::new();
    let start = start_of_time();
    let mut tell = |log: &mut Log, stream: Uuid, command: Command, actor: &str, now: Timestamp| {
        id += 1;
        let id = Uuid::from_u128(id);
        let command = CommandEnvelope::new(tenant(), stream, command, id, actor);
        let outcome = log.decide(&command, now);
        assert_eq!(outcome.status, Status::Accepted, "{:?}", outcome.problem);
    };
    let ms = TimeDelta::milliseconds;
    let mut plan = |agenda: &mut BTreeMap<_, _>, at: Timestamp, what: Plan| {
        serial += 1;
        agenda.insert((at, serial), what);
    };
    for n in 1..=agents as u128 {
        let agent = agent_id(n).0;
        let mut new = RegisterAgent::named(format!("agent-{n}"));
        new.slots = 4;
        tell(&mut log, agent, AgentCommand::Register(new).into(), "operator", start);
        tell(
            &mut log,
            agent,
            AgentCommand::MarkReady(Default::default()).into(),
            "operator",
            start,
        );
        (0..4).for_each(|_| plan(&mut agenda, start + ms(n as i64), Plan::Ask(n)));
    }
    for n in 1..=tasks as u128 {
        let at = start + ms(1_000 + (3_600_000 * n / tasks as u128) as i64);
        plan(&mut agenda, at, Plan::Submit(n));
    }
    while let Some(((now, _), what)) = agenda.pop_first() {
        match what {
            Plan::Submit(n) => {
                let mut new: SubmitTask = serde_json::from_str(r#"{"title":"t"}"#).unwrap();
                new.priority = [Priority::High, Priority::Normal, Priority::Low][n as usize % 3];
                new.kind = format!("kind-{}", n % 5);
                let task = TaskId::nth(n);
                tell(&mut log, task.0, TaskCommand::Submit(new).into(), "operator", now);
            }
            Plan::Ask(n) => {
                let (answer, _nobody) = oneshot::channel();
                let (queue, terms) = ("default".to_owned(), Terms::default());
                let agent = agent_id(n);
                let waiter = Waiter { tenant: tenant(), queue, agent, max: 1, terms, answer };
                scheduler.wait(waiter).unwrap();
            }
            Plan::End(n, task) => {
                let actor = format!("agent:{}", agent_id(n));
                let done = CompleteTask { lease_token: 1, result: Json::null() };
                tell(&mut log, task.0, TaskCommand::Complete(done).into(), &actor, now);
                plan(&mut agenda, now + ms(100), Plan::Ask(n));
            }
            Plan::Land(n, assign) => {
                let task = TaskId(assign.stream_id);
                assert_eq!(log.decide(&assign, now).status, Status::Accepted);
                let actor = format!("agent:{}", agent_id(n));
                let start = StartTask { lease_token: 1 };
                tell(&mut log, task.0, TaskCommand::Start(start).into(), &actor, now + ms(1));
                let takes = 2_500 + (task.0.as_u128() * 7_919 % 5_000) as i64;
                plan(&mut agenda, now + ms(takes), Plan::End(n, task));
            }
        }
        log.events[folded..].iter().for_each(|event| scheduler.apply(event));
        folded = log.events.len();
        scheduler.advance(now);
        for hand in scheduler.serve() {
            let picks = match hand {
                Hand::Claim(_, picks) => picks,
                Hand::Push(pick) => vec![*pick],
            };
            for pick in picks {
                let n = pick.agent.0.as_u128() - agent_id(0).0.as_u128();
                let assign = Box::new(pick.assign.expect("an assignment"));
                plan(&mut agenda, now + ms(2), Plan::Land(n, assign));
            }
        }
    }
    log.events
}

enum Plan {
    Submit(u128),
    Ask(u128),
    Land(u128, Box<CommandEnvelope>),
    End(u128, TaskId),
}

/// `TAFFRAIL_FORK_TASKS=100000` and a release build tell how long an hour takes.
#[test]
fn an_hour_of_a_fleet_is_identical_and_told_with_fewer_agents() {
    let tasks = std::env::var("TAFFRAIL_FORK_TASKS").ok().and_then(|n| n.parse().ok());
    let tasks = tasks.unwrap_or(1_000);
    let agents = (tasks / 2_500).max(1);
    let events = hour(tasks, agents);
    let timed = |what: &str, changes: ForkChanges| {
        let begin = std::time::Instant::now();
        let report = fork(&events, 0, changes);
        eprintln!("{what}: {} events in {:?}", events.len(), begin.elapsed());
        report
    };
    let baseline = timed("baseline", ForkChanges::default());
    assert!(baseline.identical);
    assert_eq!(baseline.decisions.identical, tasks as u64);
    assert_eq!(baseline.happened.completed, tasks as u64);
    let mut fewer = ForkChanges::default();
    fewer.agents.slots = (1..=agents).map(|n| (format!("agent-{n}"), 1)).collect();
    fewer.agents.slots = fewer.agents.slots.into_iter().take(64).collect();
    let report = timed("a quarter of the slots", fewer);
    let (was, would) = (report.happened.wait_ms, report.what_if.wait_ms);
    assert!(would.mean > 2.0 * was.mean + 10.0, "{was:?} {would:?}");
    let control = report.control.expect("a control");
    let (was, model) = (report.happened.wait_ms.p50, control.wait_ms.p50);
    assert!((was - model).abs() <= 0.1 * was + 20.0, "{was} {model}");
    let tasks = ForkTasks { kind: Some("kind-3".into()), ..ForkTasks::default() };
    let priorities = vec![ForkPriority { tasks, priority: Priority::Critical }];
    let report = timed("priorities", ForkChanges { priorities, ..ForkChanges::default() });
    assert_eq!(report.what_if.submitted, baseline.happened.submitted);
}

/// The fork's own files name nothing that could reach outside: what is not in scope cannot be
/// called.
#[test]
fn no_file_of_a_fork_names_a_writer_an_executor_or_a_wire() {
    let files = [
        include_str!("agents.rs"),
        include_str!("changes.rs"),
        include_str!("mod.rs"),
        include_str!("observed.rs"),
        include_str!("redo.rs"),
        include_str!("report.rs"),
        include_str!("tally.rs"),
        include_str!("world.rs"),
    ];
    let reaching =
        ["Executor", "Session", "store::", "broker", "nats", "AgentWire", "spawn", "async "];
    for file in files {
        let code = file.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            assert!(!reaching.iter().any(|word| line.contains(word)), "{line}");
        }
    }
    let files =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/process/scheduler/fork"));
    // Those, the dice and this one.
    assert_eq!(files.unwrap().count(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Crashes, lost answers, agents that lie, operators, limits: whatever the simulation did.
    #[test]
    fn a_fork_without_changes_is_what_happened(seed in 0u64..100_000, from in 0.0..0.99f64) {
        let events = sim::log_of(seed);
        let from = (events.len() as f64 * from) as u64;
        let report = fork(&events, from, ForkChanges::default());
        prop_assert_eq!(report.decisions.different, 0);
        prop_assert_eq!(report.commands.different, 0, "seed {} from {}", seed, from);
        prop_assert!(report.identical);
        prop_assert_eq!(&report.happened, &report.what_if);
        // And with changes it comes to an end, the same each time.
        let changed = || {
            let mut changes = ForkChanges::default();
            changes.agents.add = vec![ForkClones { count: 2, slots: Some(2), ..ForkClones::default() }];
            let report = fork(&events, from, changes);
            (serde_json::to_string(&report).unwrap(), report.what_if.submitted)
        };
        let once = changed();
        prop_assert_eq!(&once, &changed());
        prop_assert_eq!(once.1, report.happened.submitted);
    }
}
