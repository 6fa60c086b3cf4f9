//! The projection engine alone, on a real database: KRN-8, KRN-11, D29-D34.

use std::time::Duration;

use domain::task::{SubmitTask, TaskCommand, TaskState};
use domain::{Aggregate, Command, Event, Facts, StreamType, TaskId, TenantId, Timestamp};
use projections::audit::{AuditFilter, Bound};
use projections::engine::{Folder, Schema, Storage, run_all};
use projections::metrics::MetricsFilter;
use projections::tasks::{TaskFilter, Tasks};
use projections::{Model, Progress, Queries};
use store::{Log, Reader};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{self, SOON, TestDb};

/// Events of one task, decided by its own rules.
pub fn history(commands: &[(&str, &str)]) -> Vec<Event> {
    let facts = Facts::new(Timestamp::UNIX_EPOCH, "test");
    let mut state = Aggregate::new(StreamType::Task);
    let mut all = Vec::new();
    for (name, body) in commands {
        let command = Command::parse(StreamType::Task, name, body.as_bytes()).unwrap();
        let events = state.decide(&command, &facts).unwrap();
        events.iter().for_each(|event| state.apply(event));
        all.extend(events);
    }
    all
}

pub fn submitted(title: &str) -> Vec<Event> {
    let command = Command::from(TaskCommand::Submit(SubmitTask::titled(title)));
    history(&[("submit", std::str::from_utf8(&command.body()).unwrap())])
}

/// A whole life: submitted, assigned, started, completed.
pub fn done(title: &str) -> Vec<Event> {
    history(&[
        ("submit", &format!(r#"{{"title":"{title}","queue":"work","labels":{{"zone":"eu"}}}}"#)),
        ("assign", r#"{"agent_id":"00000000-0000-0000-0000-000000000007"}"#),
        ("start", r#"{"lease_token":1}"#),
        ("complete", r#"{"lease_token":1,"result":{"ok":true}}"#),
    ])
}

/// Every read model, following the log.
pub struct Running {
    pub progress: Progress,
    stop: CancellationToken,
    engine: JoinHandle<()>,
}

impl Running {
    pub async fn on(log: &Log) -> Self {
        let reader: Reader = support::reader(log).await;
        let (progress, stop) = (Progress::default(), CancellationToken::new());
        let engine =
            tokio::spawn(run_all(log.pool().clone(), reader, progress.clone(), stop.clone()));
        Self { progress, stop, engine }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.engine).await.unwrap().unwrap();
    }
}

/// Queries that know nothing of the engine's process.
pub fn queries(db: &TestDb) -> Queries {
    Queries::new(store::connect_pool(&db.gateway_url, 4).unwrap(), Progress::default())
}

pub async fn caught_up(queries: &Queries, position: u64) {
    queries.wait_for_all(&Model::ALL, position, SOON).await.unwrap();
}

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

#[tokio::test]
async fn what_is_appended_becomes_rows_that_say_which_position_they_reflect() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let id = Uuid::new_v4();
    support::append(&log, vec![(id, done("carry water"))]).await;
    let queries = queries(&db);
    // A read by id waits by itself until the model has passed the head.
    let found = queries.task(&tenant(), TaskId(id), SOON).await.unwrap();
    assert!(found.position >= 1);
    caught_up(&queries, 4).await;
    let found = queries.task(&tenant(), TaskId(id), SOON).await.unwrap();
    let task = found.value.unwrap();
    assert_eq!((task.title.as_str(), task.version, found.position), ("carry water", 4, 4));
    assert_eq!((task.state.as_str(), found.lag_ms), ("done", 0));
    let missing = queries.task(&tenant(), TaskId(Uuid::new_v4()), SOON).await.unwrap();
    assert_eq!(missing.value, None);

    let numbers = queries.metrics(&tenant(), &Default::default()).await.unwrap().value;
    assert_eq!(numbers.queues["work"].counters.completed, 1);
    assert_eq!(numbers.tasks_by_state["done"], 1);
    let lines = queries.audit(&tenant(), &Default::default(), 50, None).await.unwrap().value;
    assert_eq!(lines.items.len(), 4);
    assert_eq!(lines.items[0].kind, "task.completed");
    running.stop().await;
}

#[tokio::test]
async fn lists_page_without_losing_or_repeating_while_tasks_arrive() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    let some = |n| (0..n).map(|_| (Uuid::new_v4(), submitted("one of many"))).collect();
    let first = support::append(&log, some(45)).await.last().unwrap().position;
    caught_up(&queries, first).await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let filter = TaskFilter { q: Some("OF many".into()), ..TaskFilter::default() };
        let page = queries.tasks(&tenant(), &filter, 10, cursor.as_deref()).await.unwrap().value;
        seen.extend(page.items.iter().map(|task| task.position));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        let last = support::append(&log, some(3)).await.last().unwrap().position;
        caught_up(&queries, last).await;
    }
    assert_eq!(seen, (1..=45).rev().collect::<Vec<_>>());
    let garbled = queries.tasks(&tenant(), &TaskFilter::default(), 10, Some("garbled")).await;
    assert!(matches!(garbled, Err(projections::QueryError::Cursor)));
    running.stop().await;
}

#[tokio::test]
async fn rows_and_checkpoint_move_together_or_not_at_all() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, vec![(Uuid::new_v4(), submitted("whole"))]).await;
    let events = log.read(0, 10).await.unwrap();
    let mut client = log.pool().get().await.unwrap();
    let storage = Storage::<Tasks>::new(Schema::Live);
    let (at, _) = storage.checkpoint(&client).await.unwrap();
    let mut folder = Folder::new(Tasks, storage, at, Default::default(), 0);
    let folded = folder.fold(&client, &events).await.unwrap().unwrap();
    let state = "SELECT (SELECT count(*) FROM read.tasks) || '/' || position
                 FROM read.checkpoints WHERE model = 'tasks'";

    // The connection dies after the statement and before the commit.
    let transaction = client.transaction().await.unwrap();
    let wrote = folder.storage().write_within(&transaction, at, &folded).await.unwrap();
    assert!(wrote);
    let pid: i32 = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    db.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    assert!(transaction.commit().await.is_err());
    assert_eq!(db.sql(state).await.as_deref(), Some("0/0"));

    let mut client = log.pool().get().await.unwrap();
    let storage = folder.storage();
    assert!(storage.write(&mut client, at, &folded).await.unwrap());
    assert_eq!(db.sql(state).await.as_deref(), Some("1/1"));
    // Whoever comes second with the same batch changes nothing.
    let again = storage.write(&mut client, at, &folded).await;
    assert!(!again.unwrap());
    assert_eq!(db.sql(state).await.as_deref(), Some("1/1"));
}

#[tokio::test]
async fn two_engines_at_once_double_nothing() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let (one, two) = (Running::on(&log).await, Running::on(&log).await);
    let queries = queries(&db);
    let mut last = 0;
    for round in 0..20 {
        let tasks = (0..10).map(|n| (Uuid::new_v4(), done(&format!("{round}.{n}"))));
        last = support::append(&log, tasks.collect()).await.last().unwrap().position;
    }
    caught_up(&queries, last).await;
    let numbers = queries.metrics(&tenant(), &Default::default()).await.unwrap().value;
    assert_eq!(numbers.total.counters.submitted, 200);
    assert_eq!(numbers.total.counters.completed, 200);
    assert_eq!(numbers.total.submit_to_start_ms.count, 200);
    for model in Model::ALL {
        assert_eq!(replay::compare(model, &log).await.unwrap().differing, vec![], "{model}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn numbers_and_pages_that_many_ask_for_are_never_older_than_the_question() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    for n in 1..=20 {
        let tasks = vec![(Uuid::new_v4(), submitted("one more"))];
        let last = support::append(&log, tasks).await.last().unwrap().position;
        caught_up(&queries, last).await;
        let ask = async |_| {
            let filter = TaskFilter { states: vec![TaskState::Queued], ..TaskFilter::default() };
            let numbers = queries.metrics(&tenant(), &Default::default()).await.unwrap();
            let page = queries.tasks(&tenant(), &filter, 50, None).await.unwrap();
            assert!(numbers.position >= last && page.position >= last);
            assert_eq!(numbers.value.total.counters.submitted, n);
            assert_eq!(numbers.value.tasks_by_state["queued"], n);
            assert_eq!(page.value.items.len() as u64, n);
        };
        futures::future::join_all((0..4).map(ask)).await;
    }
    // Another queue's numbers are another question.
    let none = MetricsFilter { queue: Some("none".into()) };
    let numbers = queries.metrics(&tenant(), &none).await.unwrap().value;
    assert_eq!((numbers.total.counters.submitted, numbers.queues.len()), (0, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_poisoned_stream_is_parked_and_the_others_go_on() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let (good, bad) = (Uuid::new_v4(), Uuid::new_v4());
    support::append(&log, vec![(bad, submitted("bad")), (good, submitted("good"))]).await;
    // What no release of ours ever writes.
    db.sql(
        "INSERT INTO events SELECT 3, epoch, tenant, stream_type, stream_id, 2, 'cancelled', 1,
                gen_random_uuid(), gen_random_uuid(), actor, NULL, NULL, NULL, occurred_at,
                recorded_at, 'not json', hash FROM events WHERE position = 1;
         UPDATE log_head SET position = 3",
    )
    .await;
    let cancel: Vec<Event> =
        history(&[("submit", r#"{"title":"x"}"#), ("cancel", "{}")]).split_off(1);
    let last = support::append(&log, vec![(bad, cancel.clone()), (good, cancel)]).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    caught_up(&queries, last.last().unwrap().position).await;
    let task = async |id| queries.task(&tenant(), TaskId(id), SOON).await.unwrap().value.unwrap();
    assert_eq!(task(good).await.state.as_str(), "cancelled");
    assert_eq!((task(bad).await.state.as_str(), task(bad).await.version), ("queued", 1));
    let parked = "SELECT stream_id || '/' || position || '/' || skipped
                  FROM read.parked WHERE model = 'tasks'";
    assert_eq!(db.sql(parked).await, Some(format!("{bad}/3/1")));
    let counted = running.progress.counters(Model::Tasks).read();
    assert_eq!((counted.parked, counted.skipped), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn the_engine_outlives_its_connections() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    for round in 0..5 {
        let last = support::append(&log, vec![(Uuid::new_v4(), done("again"))]).await;
        db.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = 'taffrail_service'",
        )
        .await;
        let position = last.last().unwrap().position;
        let wait = queries.wait_for(Model::Tasks, position, Duration::from_secs(20));
        assert_eq!(wait.await, Ok(()), "round {round}");
    }
    for model in Model::ALL {
        assert_eq!(replay::compare(model, &log).await.unwrap().differing, vec![], "{model}");
    }
    running.stop().await;
}

#[tokio::test]
async fn audit_lines_are_found_by_whatever_names_them() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let first = support::append(&log, vec![(one, done("one"))]).await;
    let cancelled = history(&[("submit", r#"{"title":"two"}"#), ("cancel", "{}")]);
    let second = support::append(&log, vec![(two, cancelled)]).await;
    caught_up(&queries, 6).await;
    let find = async |filter: AuditFilter| -> Vec<u64> {
        let page = queries.audit(&tenant(), &filter, 50, None).await.unwrap().value;
        page.items.iter().map(|line| line.position).collect()
    };
    let (some, time) = (AuditFilter::default, |at: Timestamp| Some(Bound::Time(at)));
    let (before, after) = (first[0].recorded_at, second[0].recorded_at);
    let agent = domain::AgentId::nth(7);
    for (filter, expected) in [
        (some(), vec![6, 5, 4, 3, 2, 1]),
        (AuditFilter { task: Some(TaskId(one)), ..some() }, vec![4, 3, 2, 1]),
        (AuditFilter { agent: Some(agent), ..some() }, vec![4, 3, 2]),
        (AuditFilter { crew: Some(domain::CrewId(one)), ..some() }, vec![]),
        (AuditFilter { kind: Some("task.started".into()), ..some() }, vec![3]),
        (AuditFilter { kind: Some("task.cancelled".into()), ..some() }, vec![6]),
        (AuditFilter { actor: Some("test".into()), ..some() }, vec![6, 5, 4, 3, 2, 1]),
        (AuditFilter { actor: Some("manager:scheduler".into()), ..some() }, vec![]),
        (AuditFilter { from: Some(Bound::Position(5)), ..some() }, vec![6, 5]),
        (AuditFilter { from: time(after), ..some() }, vec![6, 5]),
        (AuditFilter { from: time(before), to: time(before), ..some() }, vec![4, 3, 2, 1]),
        (AuditFilter { to: time(Timestamp::UNIX_EPOCH), ..some() }, vec![]),
    ] {
        assert_eq!(find(filter.clone()).await, expected, "{filter:?}");
    }
    // What the line says comes from the event itself.
    let page = queries.audit(&tenant(), &some(), 1, None).await.unwrap().value;
    assert_eq!((page.items[0].summary.as_str(), page.items[0].version), ("cancelled", 2));
    let rest = queries.audit(&tenant(), &some(), 1, page.next.as_deref()).await.unwrap().value;
    assert_eq!(rest.items[0].position, 5);
    running.stop().await;
}

#[tokio::test]
async fn a_model_whose_checkpoint_is_held_hinders_no_other() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    // As the last step of a rebuild holds it.
    let mut client = log.pool().get().await.unwrap();
    let hold = client.transaction().await.unwrap();
    let lock = "SELECT FROM read.checkpoints WHERE model = 'audit' FOR UPDATE";
    hold.query_one(lock, &[]).await.unwrap();
    let last = support::append(&log, vec![(Uuid::new_v4(), done("meanwhile"))]).await;
    let position = last.last().unwrap().position;
    for model in Model::ALL.into_iter().filter(|model| *model != Model::Audit) {
        queries.wait_for(model, position, SOON).await.unwrap();
    }
    assert_eq!(running.progress.position(Model::Audit), 0);
    hold.rollback().await.unwrap();
    caught_up(&queries, position).await;
    running.stop().await;
}

#[tokio::test]
async fn a_model_that_is_ahead_of_the_log_is_folded_anew() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, vec![(Uuid::new_v4(), done("kept"))]).await;
    db.sql("UPDATE read.checkpoints SET position = 900").await;
    let running = Running::on(&log).await;
    support::until("the models are made anew", async || {
        db.sql("SELECT min(position) || '/' || max(position) FROM read.checkpoints").await
            == Some("4/4".into())
    })
    .await;
    assert_eq!(db.sql("SELECT count(*) FROM read.audit").await.as_deref(), Some("4"));
    running.stop().await;
}

#[tokio::test]
async fn the_gateway_reads_its_own_tenant_alone() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let other = TenantId::parse("other").unwrap();
    let (ours, theirs) = (Uuid::new_v4(), Uuid::new_v4());
    support::append(&log, vec![(ours, done("ours"))]).await;
    let last = support::append_as(&log, &other, vec![(theirs, done("theirs"))]).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    caught_up(&queries, last.last().unwrap().position).await;

    let page = queries.tasks(&tenant(), &TaskFilter::default(), 50, None).await.unwrap().value;
    assert_eq!(page.items.iter().map(|task| task.id.0).collect::<Vec<_>>(), vec![ours]);
    assert_eq!(queries.task(&tenant(), TaskId(theirs), SOON).await.unwrap().value, None);
    let lines = queries.audit(&other, &Default::default(), 50, None).await.unwrap().value;
    assert!(lines.items.iter().all(|line| line.stream_id == theirs));
    let events = queries.events(&other, &Default::default(), 0, 50).await.unwrap().value.events;
    assert!(events.len() == 4 && events.iter().all(|event| event.tenant == other));

    // Without a tenant, or with a filter of its own making, the role sees nothing else.
    let (client, connection) =
        tokio_postgres::connect(&db.gateway_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for model in Model::ALL {
        let count = format!("SELECT count(*) FROM read.{model}");
        assert_eq!(client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0), 0, "{model}");
        for change in [
            format!("DELETE FROM read.{model}"),
            format!("UPDATE read.{model} SET doc = ''"),
            format!("SELECT * FROM rebuild.{model}"),
        ] {
            assert!(client.execute(&change, &[]).await.is_err(), "{change} passed");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn queues_dead_letters_and_filters_find_what_they_name() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    let agent = "00000000-0000-0000-0000-000000000007";
    let assign = format!(r#"{{"agent_id":"{agent}"}}"#);
    let parent = Uuid::new_v4();
    let child = format!(
        r#"{{"title":"Child","queue":"q","priority":"high","parent_id":"{parent}",
            "capabilities":["rust"],"labels":["gpu"],"due_at":"2030-01-01T00:00:00Z"}}"#
    );
    let failed = history(&[
        ("submit", r#"{"title":"Broken","queue":"q","labels":{"zone":"eu"}}"#),
        ("assign", &assign),
        ("fail", r#"{"lease_token":1,"error":"no","retryable":false}"#),
    ]);
    let held = history(&[("submit", r#"{"title":"Held","queue":"q"}"#), ("assign", &assign)]);
    let (child_id, failed_id, held_id) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let last = support::append(
        &log,
        vec![
            (parent, history(&[("submit", r#"{"title":"Parent","queue":"q"}"#)])),
            (child_id, history(&[("submit", &child)])),
            (failed_id, failed),
            (held_id, held),
        ],
    )
    .await;
    caught_up(&queries, last.last().unwrap().position).await;

    let find = async |filter: TaskFilter| -> Vec<Uuid> {
        let page = queries.tasks(&tenant(), &filter, 50, None).await.unwrap().value;
        page.items.iter().map(|task| task.id.0).collect()
    };
    let some = TaskFilter::default;
    use domain::task::TaskState as S;
    let agent_id = domain::AgentId(agent.parse().unwrap());
    let due = Some(Timestamp::UNIX_EPOCH + chrono::Duration::days(365 * 70));
    for (filter, expected) in [
        (TaskFilter { states: vec![S::Assigned], ..some() }, vec![held_id]),
        (TaskFilter { states: vec![S::Failed, S::Assigned], ..some() }, vec![held_id, failed_id]),
        (TaskFilter { agent: Some(agent_id), ..some() }, vec![held_id, failed_id]),
        (TaskFilter { label: Some("gpu".into()), ..some() }, vec![child_id]),
        (TaskFilter { label: Some("zone".into()), ..some() }, vec![failed_id]),
        (TaskFilter { label: Some("zone=eu".into()), ..some() }, vec![failed_id]),
        (TaskFilter { label: Some("zone=us".into()), ..some() }, vec![]),
        (TaskFilter { capability: Some("rust".into()), ..some() }, vec![child_id]),
        (TaskFilter { parent: Some(TaskId(parent)), ..some() }, vec![child_id]),
        (TaskFilter { due_before: due, ..some() }, vec![child_id]),
        (TaskFilter { priorities: vec![domain::values::Priority::High], ..some() }, vec![child_id]),
        (TaskFilter { queue: Some("none".into()), ..some() }, vec![]),
        (TaskFilter { archived: true, ..some() }, vec![]),
    ] {
        assert_eq!(find(filter.clone()).await, expected, "{filter:?}");
    }
    let dead = queries.dead_letters(&tenant(), &some(), 50, None).await.unwrap().value;
    assert_eq!(dead.items.iter().map(|task| task.id.0).collect::<Vec<_>>(), vec![failed_id]);
    let parent = queries.task(&tenant(), TaskId(parent), SOON).await.unwrap().value.unwrap();
    assert_eq!(parent.children, vec![TaskId(child_id)]);

    let queue = queries.queue(&tenant(), "q", SOON).await.unwrap().value.unwrap();
    assert_eq!((queue.depth, queue.by_priority["high"], queue.by_priority["low"]), (2, 1, 0));
    assert_eq!((queue.by_state["assigned"], queue.by_state["failed"]), (1, 1));
    assert!(queue.oldest_queued_at.is_some());
    assert_eq!(queries.queues(&tenant()).await.unwrap().value.len(), 1);
    assert_eq!(queries.queue(&tenant(), "none", SOON).await.unwrap().value, None);
    running.stop().await;
}
