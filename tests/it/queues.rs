//! Queues over HTTP and by the CLI, against the whole product.

use domain::queue::queue_id;
use domain::{StreamType, TenantId};
use reqwest::Method;
use serde_json::{Value, json};

use super::http::{Api, header, queue};
use super::support;

async fn agent(api: &Api) -> String {
    let name = format!("worker-{}", support::unique());
    let body = json!({ "name": name, "slots": 10 });
    let made: Value = api.post("/v1/agents", body).await.json().await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

async fn claimed(api: &Api, queue: &str, agent: &str, wait_ms: u64) -> Vec<Value> {
    let body = json!({ "agent_id": agent, "max": 10, "wait_ms": wait_ms });
    let answer = api.post(&format!("/v1/queues/{queue}/claim"), body).await;
    assert_eq!(answer.status(), 200);
    let tasks: Value = answer.json().await.unwrap();
    tasks["tasks"].as_array().unwrap().clone()
}

async fn why(api: &Api, task: &Value) -> Value {
    let path = format!("/v1/tasks/{}/why", task["id"].as_str().unwrap());
    let position = task["position"].as_u64().unwrap();
    let ask = api.ask(Method::GET, &path).header("taffrail-min-position", position);
    ask.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_queue_is_paused_resumed_and_shows_it() {
    let api = Api::new().await;
    let (queue, agent) = (queue(), agent(&api).await);
    let answer = api.post(&format!("/v1/queues/{queue}/pause"), json!({ "reason": "night" })).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, "\"1\""));
    let paused: Value = answer.json().await.unwrap();
    assert_eq!(paused["id"], queue_id(&TenantId::default_tenant(), &queue).to_string());
    let task = api.submit(json!({ "title": "t", "queue": queue })).await;
    assert_eq!(claimed(&api, &queue, &agent, 0).await.len(), 0);
    let told = why(&api, &task).await;
    assert_eq!(told["reasons"][0]["code"], "queue_paused", "{told}");
    assert_eq!(told["reasons"][0]["cause"], paused["position"], "{told}");
    assert!(told["reasons"][0]["release"].as_str().unwrap().contains("/resume"), "{told}");
    let shown = api
        .ask(Method::GET, &format!("/v1/queues/{queue}"))
        .header("taffrail-min-position", task["position"].as_u64().unwrap());
    let shown: Value = shown.send().await.unwrap().json().await.unwrap();
    assert_eq!((&shown["state"], &shown["state_reason"]), (&json!("paused"), &json!("night")));
    assert_eq!(shown["policy"]["weights"]["critical"], 16);
    let again = api.post(&format!("/v1/queues/{queue}/pause"), json!({})).await;
    assert_eq!(again.status(), 422);
    assert_eq!(api.post(&format!("/v1/queues/{queue}/resume"), json!({})).await.status(), 200);
    assert_eq!(claimed(&api, &queue, &agent, 5_000).await.len(), 1);
}

#[tokio::test]
async fn a_policy_is_set_shown_and_obeyed() {
    let api = Api::new().await;
    let (queue, agent) = (queue(), agent(&api).await);
    let path = format!("/v1/queues/{queue}");
    let limit = json!([{ "key": "task.labels.customer", "max_running": 1 }]);
    let policy = json!({ "mode": "strict", "aging_ms": 60_000, "limits": limit });
    let set = api.ask(Method::PUT, &path).json(&policy).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let labels = json!({ "customer": "acme" });
    let mut tasks = vec![];
    for _ in 0..2 {
        let body = json!({ "title": "t", "queue": queue, "labels": labels });
        tasks.push(api.submit(body).await);
    }
    let got = claimed(&api, &queue, &agent, 1_000).await;
    assert_eq!(got.len(), 1);
    let told = why(&api, &tasks[1]).await;
    assert_eq!(told["reasons"][0]["code"], "limit_full", "{told}");
    assert_eq!(told["reasons"][0]["ids"], json!([tasks[0]["id"]]), "{told}");
    let shown = api.get(&path).await;
    assert_eq!((&shown["policy"]["mode"], &shown["version"]), (&json!("strict"), &json!(1)));

    let bad = json!({ "limits": [{ "key": "task.all(x, x)", "max_running": 0 }] });
    let refused = api.ask(Method::PUT, &path).json(&bad).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    let problem: Value = refused.json().await.unwrap();
    let at = |n: usize| problem["errors"][n]["pointer"].as_str().unwrap_or_default().to_owned();
    assert_eq!([at(0), at(1)], ["/limits/0/key", "/limits/0/max_running"], "{problem}");
}

#[tokio::test]
async fn a_purge_tells_first_and_then_cancels_what_waits() {
    let api = Api::new().await;
    let queue = queue();
    let mut last = Value::Null;
    for n in 0..30 {
        last = api.submit(json!({ "title": format!("t{n}"), "queue": queue })).await;
    }
    let path = format!("/v1/queues/{queue}/purge");
    // The dry run counts in the read model.
    let position = last["position"].as_u64().unwrap();
    let fresh = api.ask(Method::GET, &format!("/v1/queues/{queue}"));
    fresh.header("taffrail-min-position", position).send().await.unwrap();
    let dry = api.post(&format!("{path}?dry_run=true"), json!({})).await;
    assert_eq!(dry.status(), 200);
    assert_eq!(dry.json::<Value>().await.unwrap()["waiting"], 30);
    let ask = api.ask(Method::POST, &path).header("prefer", "wait=10").json(&json!({}));
    let done = ask.send().await.unwrap();
    assert_eq!(done.status(), 200);
    let done: Value = done.json().await.unwrap();
    assert_eq!(done["result"]["cancelled"], 30, "{done}");
    let task = api.get(&format!("/v1/tasks/{}", last["id"].as_str().unwrap())).await;
    assert!(task["state"] == "cancelled" || task["state"] == "queued", "{task}");
    let later = api.post(&path, json!({})).await;
    assert_eq!(later.status(), 202);
    assert!(header(&later, "location").starts_with("/v1/operations/"));
}

#[tokio::test]
async fn a_wrong_word_and_a_wrong_stream_are_told_what_is_right() {
    let api = Api::new().await;
    let queue = queue();
    let wrong = api.post(&format!("/v1/queues/{queue}/puase"), json!({})).await;
    assert_eq!(wrong.status(), 400);
    let problem: Value = wrong.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `pause`?"), "{problem}");
    let body = json!({ "commands": [{
        "type": StreamType::Queue, "id": uuid::Uuid::from_u128(1), "command": "pause",
        "body": { "queue": queue },
    }] });
    let batch: Value = api.post("/v1/tasks/batch", body).await.json().await.unwrap();
    assert_eq!(batch["outcomes"][0]["status"], "invalid", "{batch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_pauses_configures_and_purges() {
    let api = Api::new().await;
    let queue = queue();
    for _ in 0..3 {
        api.submit(json!({ "title": "t", "queue": queue })).await;
    }
    let product = api.product;
    let said = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = product.cli(&arguments);
        let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let words = |verb: &str, more: &[&str]| {
        let mut all = vec!["queue".to_owned(), verb.to_owned(), queue.clone()];
        all.extend(more.iter().map(|word| (*word).to_owned()));
        all
    };
    said(words("pause", &["--reason", "night"])).await;
    said(words("drain", &[])).await;
    said(words("resume", &[])).await;
    said(words("configure", &[r#"{"weight":5}"#])).await;
    let shown: Value = serde_json::from_str(&said(words("get", &["-o", "json"])).await).unwrap();
    assert_eq!((&shown["state"], &shown["policy"]["weight"]), (&json!("active"), &json!(5)));
    let told: Value =
        serde_json::from_str(&said(words("purge", &["--dry-run", "-o", "json"])).await).unwrap();
    assert_eq!(told["waiting"], 3);
    said(words("purge", &[])).await;
    let shown: Value = serde_json::from_str(&said(words("get", &["-o", "json"])).await).unwrap();
    assert_eq!(shown["depth"], 0, "{shown}");
}
