//! Schedules on the whole product: QUE-8.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{self, Api, Product, product, run_dir, start_product, unique};

async fn start(folder: &Path) -> (Product, Api) {
    let folder = folder.to_owned();
    let product = tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap();
    let api = Api::new(&product.http, &product.token);
    (product, api)
}

async fn created(api: &Api, body: Value) -> String {
    let (status, answer) = api.post("/v1/schedules", &body).await;
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// The events of a stream of one name, as they are shown.
async fn events(api: &Api, stream: &str, name: &str) -> Vec<Value> {
    let path = format!("/v1/events?stream={stream}&limit=200");
    let (status, page) = api.get(&path).await;
    assert_eq!(status, 200, "{page}");
    let kind = format!("dev.taffrail.{name}.v1");
    page["items"].as_array().unwrap().iter().filter(|e| e["type"] == *kind).cloned().collect()
}

/// How often a schedule fired, and that each firing has its task and each slot one firing.
async fn fired(api: &Api, schedule: &str) -> Vec<Value> {
    let fired = events(api, schedule, "schedule.fired").await;
    let runs: Vec<u64> = fired.iter().map(|e| e["data"]["run"].as_u64().unwrap()).collect();
    assert_eq!(runs, (1..=fired.len() as u64).collect::<Vec<_>>());
    let slots: BTreeSet<(String, u64)> = fired
        .iter()
        .map(|e| {
            let position = e["data"]["position"].as_u64().unwrap_or_default();
            (e["data"]["slot_at"].as_str().unwrap().to_owned(), position)
        })
        .collect();
    assert_eq!(slots.len(), fired.len(), "a slot fired twice");
    for event in &fired {
        let slot =
            event["data"]["slot_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
        let time = event["time"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
        assert!(slot.unwrap() <= time.unwrap(), "before its time: {event}");
    }
    fired
}

/// Tasks of a queue, whatever their state.
async fn tasks(api: &Api, queue: &str) -> usize {
    let (_, page) = api.get(&format!("/v1/tasks?queue={queue}&limit=200")).await;
    page["items"].as_array().unwrap().len()
}

/// Submits a task and brings it to its end with a result.
async fn completed(api: &Api, agent: &str, queue: &str, result: Value) {
    api.post("/v1/tasks", &json!({ "title": "t", "queue": queue })).await;
    let claim = json!({ "agent_id": agent, "max": 1, "wait_ms": 20_000, "start": true });
    let (_, claimed) = api.post(&format!("/v1/queues/{queue}/claim"), &claim).await;
    let task = &claimed["tasks"][0];
    let path = format!("/v1/tasks/{}/complete", task["task_id"].as_str().unwrap());
    let body = json!({ "lease_token": task["lease"]["token"], "result": result });
    let (status, answer) = api.post(&path, &body).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn schedules_fire_once_and_on_time_through_a_kill() {
    let folder = run_dir().join(format!("schedules-{}", unique()));
    let (mut product, api) = start(&folder).await;
    let agent = json!({ "name": "worker", "slots": 4 });
    let (_, agent) = api.post("/v1/agents", &agent).await;
    let agent = agent["id"].as_str().unwrap().to_owned();
    api.post(&format!("/v1/agents/{agent}/mark_ready"), &json!({})).await;

    let every = |name: &str, misfire: &str| {
        json!({ "name": name, "interval_ms": 1_000, "misfire": misfire,
            "task": { "title": name, "queue": name } })
    };
    let once = created(&api, every("once", "run_once")).await;
    let all = created(&api, every("all", "run_all")).await;
    let on_done = created(
        &api,
        json!({ "name": "follow", "task": { "title": "follow", "queue": "follow",
                "payload": { "of": "{{event.stream_id}}", "code": "{{event.payload.result.code}}" } },
            "on_event": { "type": "task.completed", "filter": "event.payload.result.code > 6" } }),
    )
    .await;
    support::until("both intervals fired", async || {
        fired(&api, &once).await.len() >= 2 && tasks(&api, "all").await >= 2
    })
    .await;
    completed(&api, &agent, "work", json!({ "code": 7 })).await;
    completed(&api, &agent, "work", json!({ "code": 6 })).await;
    support::until("the event fired", async || tasks(&api, "follow").await == 1).await;
    let (_, page) = api.get("/v1/tasks?queue=follow").await;
    assert_eq!(page["items"][0]["payload"]["code"], 7);
    // What a schedule submitted is done like any other task.
    let claim = json!({ "agent_id": agent, "max": 1, "wait_ms": 20_000 });
    let (_, claimed) = api.post("/v1/queues/follow/claim", &claim).await;
    assert_eq!(claimed["tasks"].as_array().unwrap().len(), 1, "{claimed}");
    let first = &events(&api, &on_done, "schedule.fired").await[0];
    let task = claimed["tasks"][0]["task_id"].as_str().unwrap();
    let submitted = &events(&api, task, "task.submitted").await[0];
    assert_eq!(submitted["causationid"], first["sequence"], "{submitted}");

    // An event right before the kill, and some seconds without anybody.
    completed(&api, &agent, "work", json!({ "code": 8 })).await;
    let before = fired(&api, &once).await.len();
    product.kill();
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let (product, api) = start(&folder).await;
    support::until("the event fired after the kill", async || tasks(&api, "follow").await == 2)
        .await;
    support::until("the intervals go on", async || fired(&api, &once).await.len() >= before + 2)
        .await;
    for schedule in [&once, &all] {
        let (status, answer) =
            api.post(&format!("/v1/schedules/{schedule}/pause"), &json!({})).await;
        assert_eq!(status, 200, "{answer}");
    }
    let (ran_once, ran_all) = (fired(&api, &once).await, fired(&api, &all).await);
    let missed = |fired: &[Value]| -> Vec<u64> {
        let missed = fired.iter().map(|e| e["data"]["missed"].as_u64().unwrap());
        missed.filter(|missed| *missed > 0).collect()
    };
    assert!(missed(&ran_once).iter().any(|missed| *missed >= 3), "one stands for those missed");
    assert_eq!(missed(&ran_all), [0; 0], "each is made up for");
    assert!(ran_all.len() >= ran_once.len() + 3, "{} {}", ran_all.len(), ran_once.len());
    assert_eq!(fired(&api, &on_done).await.len(), 2);
    support::until("every firing has its task", async || {
        tasks(&api, "once").await == ran_once.len() && tasks(&api, "all").await == ran_all.len()
    })
    .await;
    let path = format!("/v1/schedules/{once}");
    support::until("the pause is shown", async || api.get(&path).await.1["state"] == "paused")
        .await;
    let (_, shown) = api.get(&path).await;
    assert_eq!(shown["fired"], json!(ran_once.len()));
    assert!(shown["misfires"].as_u64().unwrap() >= 3, "{shown}");
    drop(product);
}

#[tokio::test]
async fn a_faulty_schedule_is_answered_with_the_field() {
    let product = product().await;
    let api = Api::new(&product.http, &product.token);
    let task = json!({ "title": "t" });
    let rows = [
        (json!({ "cron": "61 * * * *" }), 400, "/cron"),
        (json!({ "cron": "0 3 * * *", "timezone": "Europe/Atlantis" }), 400, "/timezone"),
        (json!({ "interval_ms": 0 }), 400, "/interval_ms"),
        (json!({ "at": "2001-01-01T00:00:00Z" }), 422, "/at"),
        (json!({ "interval_ms": 5000, "at": "2101-01-01T00:00:00Z" }), 400, "/at"),
        (json!({ "on_event": { "type": "task.done" } }), 400, "/on_event/type"),
        (
            json!({ "on_event": { "type": "task.completed", "filter": "event.payload.x ==" } }),
            400,
            "/on_event/filter",
        ),
        (
            json!({ "on_event": { "type": "task.completed", "filter": "x".repeat(5_000) } }),
            400,
            "/on_event/filter",
        ),
        (json!({ "interval_ms": 5000, "task": { "titel": "t" } }), 400, "/task/titel"),
    ];
    for (mut body, expected, pointer) in rows {
        let fields = body.as_object_mut().unwrap();
        fields.insert("name".into(), json!("s"));
        fields.entry("task").or_insert(task.clone());
        let (status, problem) = api.post("/v1/schedules", &body).await;
        assert_eq!(status, expected, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let id = created(&api, json!({ "name": "s", "cron": "0 3 1 1 *", "task": task })).await;
    for (name, body) in
        [("fire", json!({ "position": 1 })), ("skip", json!({})), ("create", json!({}))]
    {
        let (status, problem) = api.post(&format!("/v1/schedules/{id}/{name}"), &body).await;
        assert_eq!(status, 400, "{problem}");
    }
    let item =
        json!({ "command": "fire", "type": "schedule", "id": id, "body": { "position": 1 } });
    let (_, answer) = api.post("/v1/tasks/batch", &json!({ "items": [item] })).await;
    assert_ne!(answer["items"][0]["outcome"]["status"], "accepted", "{answer}");
    let (status, problem) = api.get(&format!("/v1/schedules/{id}/next?limit=101")).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["pointer"]), (400, &json!("/query/limit")));
}

#[tokio::test]
async fn the_command_line_makes_shows_and_ends_a_schedule() {
    let product = product().await;
    let run = |arguments: &[&str]| {
        let output = product.cli(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said} {complaint}");
        said
    };
    let queue = format!("cli-{}", unique());
    let task = format!(r#"{{"queue":"{queue}"}}"#);
    let created: Value = serde_json::from_str(&run(&[
        "schedule",
        "create",
        "nightly",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--task",
        &task,
        "-o",
        "json",
    ]))
    .unwrap();
    let id = created["id"].as_str().unwrap();
    assert_eq!(run(&["schedule", "next", id, "--limit", "3"]).lines().count(), 3);
    assert_eq!(run(&["schedule", "next", id]).lines().count(), 10);
    assert!(run(&["schedule", "list", "--kind", "cron"]).contains("Europe/Berlin"));
    run(&["schedule", "trigger", id, "--reason", "a test"]);
    run(&[
        "schedule",
        "backfill",
        id,
        "--from",
        "2026-03-28T00:00:00Z",
        "--to",
        "2026-03-31T00:00:00Z",
    ]);
    let api = Api::new(&product.http, &product.token);
    support::until("four tasks are there", async || tasks(&api, &queue).await == 4).await;
    run(&["schedule", "pause", id]);
    let get = || serde_json::from_str(&run(&["schedule", "get", id, "-o", "json"])).unwrap();
    support::until("the pause is shown", async || {
        let shown: Value = get();
        shown["state"] == "paused"
    })
    .await;
    let shown: Value = get();
    assert_eq!(shown["fired"], 4);
    assert_eq!(shown["next_run_at"], Value::Null);
    run(&["schedule", "resume", id]);
    let change = json!({ "timezone": "Asia/Tokyo", "name": "early" });
    let path = format!("/v1/schedules/{id}");
    let changed = api.request(reqwest::Method::PATCH, &path).json(&change).send().await.unwrap();
    assert_eq!(changed.status(), 200);
    support::until("the change is shown", async || {
        let (_, shown) = api.get(&path).await;
        shown["next_run_at"].as_str().unwrap_or_default().ends_with("T17:30:00Z")
    })
    .await;
    run(&["schedule", "delete", id]);
    support::until("it is gone", async || api.get(&path).await.0 == 404).await;
    let (status, _) = api.post(&format!("{path}/resume"), &json!({})).await;
    assert_eq!(status, 404);
}
