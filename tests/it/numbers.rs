//! Numbers of tasks for people (`TASK-7`): counted from the log alone, whatever happens to
//! whoever counts. QUE-1.

use domain::task::TaskNumber;
use domain::{Event, TenantId};
use projections::Model;
use projections::tasks::TaskFilter;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::engine::{Running, caught_up, done, queries, submitted};
use crate::http::{Api, header, queue};
use crate::support::{self, SOON, TestDb, run_dir, start_product, unique};

/// `tenant number position` of every task, in the order of the log.
async fn counted(db: &TestDb) -> String {
    let rows = "SELECT string_agg(tenant || ' ' || number || ' ' || created, ',' ORDER BY created)
                FROM read.tasks";
    db.sql(rows).await.unwrap_or_default()
}

async fn equal_to_the_log(log: &store::Log) {
    let compared = replay::compare(Model::Tasks, log).await.unwrap();
    assert_eq!(compared.differing, vec![]);
}

#[tokio::test]
async fn numbers_follow_the_log_through_restarts_and_a_rebuild_and_what_cannot_be_read() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let other = TenantId::parse("other").unwrap();
    let some = |n: usize| (0..n).map(|_| (Uuid::new_v4(), submitted("t"))).collect::<Vec<_>>();
    support::append(&log, some(2)).await;
    support::append_as(&log, &other, some(1)).await;
    // The first event of a stream, as no release of ours writes it: counted all the same.
    db.sql(
        "INSERT INTO events SELECT 4, epoch, tenant, stream_type, gen_random_uuid(), 1,
                event_type, 1, gen_random_uuid(), gen_random_uuid(), actor, NULL, NULL, NULL,
                occurred_at, recorded_at, 'not json', hash FROM events WHERE position = 1;
         UPDATE log_head SET position = 4",
    )
    .await;
    let queries = queries(&db);
    let running = Running::on(&log).await;
    caught_up(&queries, 4).await;
    running.stop().await;
    // Nothing of it is in memory any more, and the last number of all is in no row.
    support::append(&log, some(1)).await;
    let running = Running::on(&log).await;
    caught_up(&queries, 5).await;
    let expected = "default 1 1,default 2 2,other 1 3,default 4 5";
    assert_eq!(counted(&db).await, expected);
    let report = replay::rebuild(Model::Tasks, &log, |_, _| {}).await.unwrap();
    assert_eq!((report.differing, report.rows, report.parked), (Some(0), 4, 1));
    // The engine counts on from what the rebuild left.
    support::append(&log, vec![(Uuid::new_v4(), done("t"))]).await;
    support::append_as(&log, &other, some(1)).await;
    caught_up(&queries, 10).await;
    assert_eq!(counted(&db).await, format!("{expected},default 5 6,other 2 10"));
    equal_to_the_log(&log).await;
    running.stop().await;
}

#[tokio::test]
async fn a_task_is_found_by_its_number_among_thousands_archived_or_not() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let running = Running::on(&log).await;
    let queries = queries(&db);
    let tenant = TenantId::default_tenant();
    let archived: Vec<Event> = crate::engine::history(&[
        ("submit", r#"{"title":"t"}"#),
        ("cancel", "{}"),
        ("archive", "{}"),
    ]);
    let mut ids = Vec::new();
    for batch in 0..4u128 {
        let streams: Vec<_> = (0..500u128)
            .map(|n| {
                let events = if n % 3 == 0 { archived.clone() } else { submitted("t") };
                (Uuid::from_u128(1 + batch * 500 + n), events)
            })
            .collect();
        ids.extend(streams.iter().map(|(id, _)| *id));
        support::append(&log, streams).await;
        support::append_as(
            &log,
            &TenantId::parse("other").unwrap(),
            vec![(Uuid::new_v4(), submitted("t"))],
        )
        .await;
    }
    let head = log.head().await.unwrap().position;
    caught_up(&queries, head).await;
    for number in [1, 2, 3, 4, 499, 500, 501, 1_000, 1_999, 2_000] {
        let found = queries.task_numbered(&tenant, TaskNumber(number), SOON).await.unwrap();
        assert_eq!(found.value.map(|id| id.0), Some(ids[number as usize - 1]), "{number}");
        let task = queries.task(&tenant, found.value.unwrap(), SOON).await.unwrap().value.unwrap();
        assert_eq!(task.number, TaskNumber(number));
    }
    for number in [0, 2_001, i64::MAX as u64] {
        let found = queries.task_numbered(&tenant, TaskNumber(number), SOON).await.unwrap();
        assert_eq!(found.value, None, "{number}");
    }
    let nobody = TenantId::parse("nobody").unwrap();
    let found = queries.task_numbered(&nobody, TaskNumber(1), SOON).await.unwrap();
    assert_eq!(found.value, None, "another tenant's numbers are its own");
    let page = queries.tasks(&tenant, &TaskFilter::default(), 1, None).await.unwrap().value;
    assert!(page.items[0].as_str().contains(r#""number":"TASK-2000""#));
    running.stop().await;
}

#[tokio::test]
async fn a_number_stands_for_the_id_in_every_address() {
    let api = Api::new().await;
    let queue = queue();
    let made = api
        .submit(json!({ "title": "parent", "queue": queue, "capabilities": ["nobody-has"] }))
        .await;
    let id = made["id"].as_str().unwrap();
    let task = api.get(&format!("/v1/tasks/{id}")).await;
    let number = task["number"].as_str().unwrap().to_owned();
    assert!(number.parse::<TaskNumber>().is_ok(), "{number}");
    let small = number.to_lowercase();
    let child = api
        .submit(json!({ "title": "part", "queue": queue, "parent_id": id,
                                    "capabilities": ["nobody-has"] }))
        .await;
    let position = child["position"].as_u64().unwrap();

    assert_eq!(api.get(&format!("/v1/tasks/{number}")).await["id"], id);
    assert_eq!(api.get(&format!("/v1/tasks/{small}/why")).await["task_id"], id);
    let events = api.get(&format!("/v1/tasks/{small}/events")).await;
    assert_eq!(events["items"][0]["type"], "dev.taffrail.task.submitted.v1");
    let lists = [
        format!("/v1/tasks/{number}/children"),
        format!("/v1/tasks?parent={small}"),
        format!("/v1/dead-letters?parent={small}"),
        format!("/v1/audit?task={number}"),
        format!("/v1/events?stream={number}"),
    ];
    for (path, items) in lists.iter().zip([1, 1, 0, 1, 1]) {
        let ask = api.ask(Method::GET, path).header("taffrail-min-position", position);
        let page: Value = ask.send().await.unwrap().json().await.unwrap();
        assert_eq!(page["items"].as_array().map(Vec::len), Some(items), "{path}: {page}");
    }
    let change = api.ask(Method::PATCH, &format!("/v1/tasks/{number}"));
    let changed = change.json(&json!({ "title": "new" })).send().await.unwrap();
    assert_eq!((changed.status().as_u16(), header(&changed, "etag")), (200, "\"2\""));
    let cancelled = api.post(&format!("/v1/tasks/{small}/cancel"), json!({})).await;
    assert_eq!(cancelled.json::<Value>().await.unwrap()["id"], id);
    let archived = api.ask(Method::DELETE, &format!("/v1/tasks/{number}")).send().await.unwrap();
    assert_eq!(archived.status(), 200);
    // It keeps its number.
    assert_eq!(api.get(&format!("/v1/tasks/{number}")).await["id"], id);

    for (path, status) in [
        ("/v1/tasks/TASK-999999999", 404),
        ("/v1/tasks/TASK-999999999/why", 404),
        ("/v1/tasks?parent=TASK-999999999", 404),
        ("/v1/tasks/TASK-0", 400),
        ("/v1/tasks/7", 400),
        ("/v1/audit?task=7", 400),
    ] {
        let answer = api.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert!(problem["detail"].is_string(), "{problem}");
    }
    let refused = api.post("/v1/tasks/TASK-999999999/cancel", json!({})).await;
    assert_eq!(refused.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_numbers_and_shows_them() {
    let product = support::product().await;
    let said = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = product.cli(&arguments);
        let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let queue = queue();
    let id = said(words(&format!("task submit first --queue {queue}"))).await.trim().to_owned();
    let task: Value =
        serde_json::from_str(&said(words(&format!("task get {id} -o json"))).await).unwrap();
    let number = task["number"].as_str().unwrap();
    assert!(said(words(&format!("task get {number}"))).await.contains(&id));
    let part = format!("task submit part --queue {queue} --parent {number} --depends-on {number}");
    let part = said(words(&part)).await.trim().to_owned();
    let shown: Value =
        serde_json::from_str(&said(words(&format!("task get {part} -o json"))).await).unwrap();
    assert_eq!((&shown["parent_id"], &shown["depends_on"]), (&json!(id), &json!([id])));
    assert!(said(words(&format!("task why {number}"))).await.starts_with("queued"));
    let list = said(words(&format!("task list --queue {queue}"))).await;
    assert!(list.starts_with("NUMBER") && list.contains(number), "{list}");
    said(words(&format!("task cancel {}", number.to_lowercase()))).await;
    let gone = product.cli(&["task", "get", "TASK-999999999"]).output().unwrap();
    assert!(!gone.status.success());
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no such task"));
}

/// Tasks come in by batches while everything is killed outright, some three times: the
/// numbers of what was taken have no hole, no double, and the order of the log.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_survive_kill_minus_nine_in_mid_batch() {
    let dir = run_dir().join(format!("numbers-{}", unique()));
    for round in 0..3 {
        let folder = dir.clone();
        let mut product =
            tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap();
        let api = support::Api::new(&product.http, &product.token);
        let items: Vec<Value> = (0..200).map(|n| json!({ "title": format!("t{n}") })).collect();
        let flood = tokio::spawn({
            let api = api.clone();
            async move {
                loop {
                    let sent = api.request(Method::POST, "/v1/tasks/batch");
                    if sent.json(&json!({ "items": items })).send().await.is_err() {
                        return;
                    }
                }
            }
        });
        // In the middle of it: some batches are taken, the read model is at work.
        support::until("tasks are counted", async || {
            let (_, page) = api.get("/v1/tasks?limit=1").await;
            let number = page["items"][0]["number"].as_str().unwrap_or_default();
            number.parse::<TaskNumber>().is_ok_and(|n| n.0 > 400 * (round + 1))
        })
        .await;
        product.kill();
        flood.await.unwrap();
    }
    let product = tokio::task::spawn_blocking(move || start_product(dir, &[])).await.unwrap();
    let api = support::Api::new(&product.http, &product.token);
    let made: Value = api.post("/v1/tasks", &json!({ "title": "last" })).await.1;
    let position = made["position"].as_u64().unwrap();
    let seen = api.request(Method::GET, "/v1/tasks?limit=1");
    let seen = seen.header("taffrail-min-position", position).header("prefer", "wait=20");
    assert_eq!(seen.send().await.unwrap().status(), 200);
    let (client, connection) =
        tokio_postgres::connect(&product.postgres_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let faults = "SELECT count(*), count(*) FILTER (WHERE number <> nth), max(number) FROM (
                      SELECT number, row_number() OVER (ORDER BY created) AS nth FROM read.tasks) n";
    let row = client.query_one(faults, &[]).await.unwrap();
    let (all, wrong, last): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(all > 1_200, "{all}");
    assert_eq!((wrong, last), (0, all));
    let mut rebuild = product.cli(&["rebuild", "tasks", "-o", "json"]);
    let out = tokio::task::spawn_blocking(move || rebuild.output()).await.unwrap().unwrap();
    let operation: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(operation["result"]["differing"], 0, "{operation}");
}
