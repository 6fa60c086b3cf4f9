//! Read models made anew beside the live ones: KRN-8, D35.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use commands::{Boxed, CommandEnvelope, Errand, Executor, Work};
use domain::operation::{OperationAccepted, Resource};
use domain::{Json, TaskId, TenantId};
use projections::{Model, ProjectionError};
use replay::RebuildWork;
use uuid::Uuid;

use crate::engine::{Running, caught_up, done, queries, submitted};
use crate::support::{self, SOON};

#[tokio::test]
async fn a_rebuild_equals_the_live_rows_while_events_keep_arriving() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    let first = Uuid::new_v4();
    let tasks = (0..200).map(|n| (if n == 0 { first } else { Uuid::new_v4() }, done("t")));
    let last = support::append(&log, tasks.collect()).await;
    caught_up(&queries, last.last().unwrap().position).await;

    let over = Arc::new(AtomicBool::new(false));
    let arriving = tokio::spawn({
        let (log, over) = (log.clone(), over.clone());
        async move {
            while !over.load(Ordering::Relaxed) {
                support::append(&log, vec![(Uuid::new_v4(), done("meanwhile"))]).await;
            }
        }
    });
    // Readers never see less than before.
    let reading = tokio::spawn({
        let (queries, over) = (queries.clone(), over.clone());
        async move {
            let (tenant, mut reached, mut reads) = (TenantId::default_tenant(), 0, 0);
            while !over.load(Ordering::Relaxed) {
                let found = queries.task(&tenant, TaskId(first), SOON).await.unwrap();
                assert!(found.value.is_some(), "a reader saw the table empty");
                assert!(found.position >= reached, "the model stepped back");
                (reached, reads) = (found.position, reads + 1);
            }
            reads
        }
    });
    for model in Model::ALL {
        let report = replay::rebuild(model, &log, |_, _| {}).await.unwrap();
        let empty = !matches!(model, Model::Tasks | Model::Audit | Model::Metrics);
        assert!(report.events >= 800 && (report.rows == 0) == empty, "{report:?}");
        assert_eq!((report.differing, report.parked), (Some(0), 0), "{report:?}");
    }
    over.store(true, Ordering::Relaxed);
    arriving.await.unwrap();
    assert!(reading.await.unwrap() > 0);
    // The live engine went on behind the rebuild.
    let head = log.head().await.unwrap().position;
    caught_up(&queries, head).await;
    for model in Model::ALL {
        let compared = replay::compare(model, &log).await.unwrap();
        assert_eq!((compared.position, compared.differing), (head, vec![]), "{model}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_rebuild_mends_rows_that_are_wrong_missing_or_too_many() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let (wrong, missing) = (Uuid::new_v4(), Uuid::new_v4());
    let last = support::append(&log, vec![(wrong, done("a")), (missing, done("b"))]).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    caught_up(&queries, last.last().unwrap().position).await;
    let extra = Uuid::new_v4();
    db.sql(&format!(
        "INSERT INTO read.tasks SELECT tenant, '{extra}', doc, 77, number, state, queue, priority,
                agent_id, holder, parent_id, due_at, queued_at, archived, capabilities, labels, search,
                percent, escalated_at, at
                FROM read.tasks WHERE key = '{wrong}';
         UPDATE read.tasks SET doc = replace(doc, '\"title\":\"a\"', '\"title\":\"z\"')
                WHERE key = '{wrong}';
         DELETE FROM read.tasks WHERE key = '{missing}';
         INSERT INTO read.parked VALUES ('tasks', 'default', '{wrong}', 3, 'it was a bug', 1)"
    ))
    .await;
    let compared = replay::compare(Model::Tasks, &log).await.unwrap();
    let mut differing: Vec<_> = compared.differing.iter().map(|row| row.key.clone()).collect();
    differing.sort();
    let mut expected = vec![wrong.to_string(), missing.to_string(), extra.to_string()];
    expected.sort();
    assert_eq!(differing, expected);

    let report = replay::rebuild(Model::Tasks, &log, |_, _| {}).await.unwrap();
    assert_eq!((report.differing, report.rows), (Some(3), 2));
    assert_eq!(replay::compare(Model::Tasks, &log).await.unwrap().differing, vec![]);
    assert_eq!(db.sql("SELECT count(*) FROM read.parked").await.as_deref(), Some("0"));
    // The engine notices that the rows were replaced below it, and goes on.
    let more = support::append(&log, vec![(Uuid::new_v4(), submitted("more"))]).await;
    caught_up(&queries, more[0].position).await;
    assert_eq!(replay::compare(Model::Tasks, &log).await.unwrap().differing, vec![]);
    running.stop().await;
}

#[tokio::test]
async fn one_rebuild_of_a_model_at_a_time_and_it_needs_no_live_engine() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, (0..300).map(|_| (Uuid::new_v4(), done("t"))).collect()).await;
    // Somebody else is at it, for as long as the connection lives.
    let (rival, connection) =
        tokio_postgres::connect(&db.service_url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let lock = "SELECT pg_advisory_lock(hashtextextended('taffrail rebuild audit', 0))";
    rival.execute(lock, &[]).await.unwrap();
    let refused = replay::rebuild(Model::Audit, &log, |_, _| {}).await;
    assert!(matches!(refused, Err(ProjectionError::Busy { model: "audit", operation: None })));
    drop(rival);
    connection.await.unwrap().unwrap();

    // The live rows are behind and cannot be compared; the new ones are put in place.
    let mut told = Vec::new();
    let report = replay::rebuild(Model::Audit, &log, |at, of| told.push((at, of))).await.unwrap();
    assert_eq!((report.rows, report.differing), (1_200, None));
    assert_eq!(told.last(), Some(&(1_200, 1_200)));
    assert_eq!(db.sql("SELECT count(*) FROM read.audit").await.as_deref(), Some("1200"));
    // A second one finds nothing to do.
    let report = replay::rebuild(Model::Audit, &log, |_, _| {}).await.unwrap();
    assert_eq!((report.rows, report.differing), (1_200, Some(0)));
}

/// A rebuild needs no command decided.
struct Nobody;

impl Executor for Nobody {
    fn execute(&self, _: CommandEnvelope) -> Boxed<domain::Outcome> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_rebuild_runs_as_an_operation() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, vec![(Uuid::new_v4(), done("t"))]).await;
    let work = RebuildWork::new(log);
    assert!(work.takes("projection.rebuild") && !work.takes("agent.drain"));
    let accepted = |model: &str| OperationAccepted {
        kind: "projection.rebuild".into(),
        resource: Resource { kind: "projection".into(), id: model.into() },
        command: None,
        input: Json::parse(&format!(r#"{{"model":"{model}"}}"#)).unwrap(),
    };
    let errand = |accepted| Errand {
        actor: "test".into(),
        id: Uuid::new_v4(),
        tenant: TenantId::default_tenant(),
        position: 1,
        accepted,
        progress: tokio::sync::mpsc::channel(8).0,
        executor: Arc::new(Nobody),
    };
    let result = work.run(errand(accepted("agents"))).await.unwrap();
    assert!(result.as_str().contains(r#""events":4"#), "{}", result.as_str());
    let problem = work.run(errand(accepted("tusks"))).await.unwrap_err();
    assert_eq!(problem.code(), Some(domain::Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_by_the_command_line_finds_no_difference() {
    let product = support::product().await;
    for model in Model::ALL {
        let output = product.cli(&["rebuild", model.as_str(), "-o", "json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{model}: {said}");
        let operation: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(operation["state"], "succeeded", "{operation}");
        assert_eq!(operation["result"]["differing"], 0, "{operation}");
    }
}
