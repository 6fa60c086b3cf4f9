//! Tasks among others, from outside: dependencies, subtasks, and what stands still.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Product, product, run_dir, start_product, unique, until};

struct Bench<'a> {
    product: &'a Product,
    http: reqwest::Client,
    queue: String,
}

impl<'a> Bench<'a> {
    fn on(product: &'a Product) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let queue = format!("links-{}-{}", std::process::id(), unique());
        Self { product, http: reqwest::Client::new(), queue }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}/v1/{path}", self.product.http);
        let request = self.http.request(method, url).bearer_auth(&self.product.token);
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, Value::Null).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn try_task(&self, mut body: Value) -> (StatusCode, Value) {
        body["queue"] = json!(self.queue);
        body["title"] = json!("work");
        self.call(Method::POST, "tasks", body).await
    }

    async fn task(&self, body: Value) -> String {
        let (status, answer) = self.try_task(body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    async fn agent(&self) -> String {
        let name = format!("linked-{}-{}", std::process::id(), unique());
        let answer = self.post("agents", json!({ "name": name, "slots": 8 })).await;
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Claims whatever waits; the tasks with their tokens.
    async fn claim(&self, agent: &str, wait_ms: u64) -> Vec<Value> {
        let body = json!({ "agent_id": agent, "max": 8, "wait_ms": wait_ms, "start": true });
        let answer = self.post(&format!("queues/{}/claim", self.queue), body).await;
        answer["tasks"].as_array().unwrap().clone()
    }

    async fn say(&self, task: &Value, command: &str, mut body: Value) {
        let id = task["task_id"].as_str().unwrap();
        body["lease_token"] = task["lease"]["token"].clone();
        self.post(&format!("tasks/{id}/{command}"), body).await;
    }

    /// The answer to a command over core NATS, or over the durable subject.
    async fn nats(&self, task: &str, command: &str, body: &Value, durable: bool) -> Value {
        let client = self.product.nats().await;
        let kind = if durable { "cmd" } else { "req" };
        let subject = format!("taffrail.default.{kind}.task.{task}.{command}");
        let payload = body.to_string().into();
        if !durable {
            let answer = client.request(subject, payload).await.unwrap();
            return serde_json::from_slice(&answer.payload).unwrap();
        }
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Taffrail-Reply-To", inbox);
        client.publish_with_headers(subject, headers, payload).await.unwrap();
        let answer = futures::StreamExt::next(&mut answers).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    async fn state(&self, task: &str) -> String {
        self.get(&format!("tasks/{task}")).await["state"].as_str().unwrap().to_owned()
    }

    async fn codes(&self, task: &str) -> Vec<String> {
        let why = self.get(&format!("tasks/{task}/why")).await;
        let reasons = why["reasons"].as_array().unwrap().clone();
        reasons.iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect()
    }
}

fn ids(tasks: &[Value]) -> Vec<&str> {
    tasks.iter().map(|task| task["task_id"].as_str().unwrap()).collect()
}

fn circle(round: &[&str]) -> (Value, String) {
    (json!(round), round.join(" -> "))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_and_an_end_instead_of_success_let_a_task_go() {
    let bench = Bench::on(product().await);
    let (one, two) = (bench.task(json!({})).await, bench.task(json!({})).await);
    let both = json!([one, two]);
    let any = json!({ "depends_on": both, "dependency": { "need": "any" } });
    let any = bench.task(any).await;
    let end = json!({ "depends_on": both, "dependency": { "on": "end" } });
    let end = bench.task(end).await;
    let shown = bench.get(&format!("tasks/{end}")).await;
    assert_eq!(shown["dependency"], json!({ "need": "all", "on": "end" }));
    let agent = bench.agent().await;
    let got = bench.claim(&agent, 2_000).await;
    assert_eq!(ids(&got), [&one, &two]);
    bench.say(&got[0], "complete", json!({})).await;
    let next = bench.claim(&agent, 5_000).await;
    assert_eq!(ids(&next), [&any], "one of them is done");
    bench.say(&got[1], "fail", json!({ "retryable": false })).await;
    let next = bench.claim(&agent, 5_000).await;
    assert_eq!(ids(&next), [&end], "both have ended");

    // Ended before anybody waited.
    let late = json!({ "depends_on": [two], "dependency": { "on": "end" } });
    let late = bench.task(late).await;
    assert_eq!(ids(&bench.claim(&agent, 5_000).await), [&late]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_dependency_is_named_and_there_are_ways_out() {
    let bench = Bench::on(product().await);
    let first = bench.task(json!({})).await;
    let waits = bench.task(json!({ "depends_on": [first] })).await;
    let agent = bench.agent().await;
    let got = bench.claim(&agent, 2_000).await;
    bench.say(&got[0], "fail", json!({ "retryable": false })).await;
    until("why names it", async || bench.codes(&waits).await == ["dependency_lost"]).await;
    let why = bench.get(&format!("tasks/{waits}/why")).await;
    let reason = &why["reasons"][0];
    assert_eq!(reason["ids"], json!([first]));
    assert!(reason["message"].as_str().unwrap().contains("failed"), "{reason}");
    assert!(reason["release"].as_str().unwrap().contains("requeue"), "{reason}");
    let events = bench.get(&format!("tasks/{first}/events")).await;
    let last = events["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["type"], "dev.taffrail.task.failed.v1");
    let cause: u64 = last["sequence"].as_str().unwrap().parse().unwrap();
    assert_eq!(reason["cause"], json!(cause));
    let told = bench.product.cli(&["task", "why", &waits]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("released by"), "{told:?}");

    // Requeued and done, it lets go after all.
    bench.post(&format!("tasks/{first}/requeue"), json!({})).await;
    let got = bench.claim(&agent, 5_000).await;
    assert_eq!(ids(&got), [&first]);
    bench.say(&got[0], "complete", json!({})).await;
    let got = bench.claim(&agent, 5_000).await;
    assert_eq!(ids(&got), [&waits]);

    // Or what it waits for is changed, over the CLI.
    let gone = bench.task(json!({})).await;
    let waits = bench.task(json!({ "depends_on": [gone] })).await;
    bench.post(&format!("tasks/{gone}/cancel"), json!({})).await;
    until("why names it", async || bench.codes(&waits).await == ["dependency_lost"]).await;
    let update = ["task", "update", &waits, "--no-dependencies"];
    let changed = bench.product.cli(&update).output().unwrap();
    assert!(changed.status.success(), "{changed:?}");
    let got = bench.claim(&agent, 5_000).await;
    assert_eq!(ids(&got), [&waits]);
    let (status, problem) =
        bench.call(Method::PATCH, &format!("tasks/{waits}"), json!({ "depends_on": [gone] })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["pointer"], "/depends_on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_refused_with_its_path_over_http_nats_and_in_batches() {
    let bench = Bench::on(product().await);
    // b waits for a, c for b; a is submitted last, by name, and is to wait for c.
    let a = fresh();
    let b = bench.task(json!({ "depends_on": [a] })).await;
    let c = bench.task(json!({ "depends_on": [b] })).await;
    let (round, words) = circle(&[&a, &c, &b, &a]);
    let submit = json!({ "title": "a", "queue": bench.queue, "depends_on": [c] });
    let check = |problem: &Value| {
        assert!(problem["type"].as_str().unwrap().ends_with("/cycle"), "{problem}");
        let fault = &problem["errors"][0];
        assert_eq!((&fault["pointer"], &fault["message"]), (&json!("/depends_on"), &json!(words)));
        assert_eq!(problem["path"], round);
    };
    for durable in [false, true] {
        let outcome = bench.nats(&a, "submit", &submit, durable).await;
        assert_eq!(outcome["status"], "refused", "{outcome}");
        check(&outcome["problem"]);
    }
    let command = json!({ "type": "task", "id": a, "command": "submit", "body": submit });
    let batch = bench.post("tasks/batch", json!({ "commands": [command] })).await;
    check(&batch["outcomes"][0]["problem"]);

    // Without c it may come; to wait for c is refused afterwards as well.
    let plain = json!({ "title": "a", "queue": bench.queue });
    assert_eq!(bench.nats(&a, "submit", &plain, false).await["status"], "accepted");
    let update = json!({ "depends_on": [c] });
    let (status, problem) = bench.call(Method::PATCH, &format!("tasks/{a}"), update).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    check(&problem);
    // b lets go of a: now it may.
    bench.call(Method::PATCH, &format!("tasks/{b}"), json!({ "depends_on": [] })).await;
    let update = json!({ "depends_on": [c] });
    let (status, answer) = bench.call(Method::PATCH, &format!("tasks/{a}"), update).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let own = fresh();
    let outcome =
        bench.nats(&own, "submit", &json!({ "title": "o", "depends_on": [own] }), false).await;
    assert_eq!(outcome["problem"]["path"], json!([own, own]));
    let outcome =
        bench.nats(&own, "submit", &json!({ "title": "o", "parent_id": own }), false).await;
    assert_eq!(outcome["problem"]["errors"][0]["pointer"], "/parent_id");
    assert_eq!(outcome["problem"]["path"], json!([own, own]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_commands_that_would_close_a_circle_together_one_is_refused() {
    let bench = Bench::on(product().await);
    const PAIRS: usize = 200;
    let item = json!({ "title": "t", "queue": bench.queue });
    let batch = bench.post("tasks/batch", json!({ "items": vec![item; 2 * PAIRS] })).await;
    let tasks: Vec<Value> =
        batch["outcomes"].as_array().unwrap().iter().map(|one| one["stream_id"].clone()).collect();
    // So many at once that several flushes are under way: first one half of each pair, then
    // the other.
    let link = |from: usize| {
        let to = (from + PAIRS) % (2 * PAIRS);
        let (path, bench) = (format!("tasks/{}", tasks[from].as_str().unwrap()), &bench);
        let body = json!({ "depends_on": [tasks[to]] });
        async move { bench.call(Method::PATCH, &path, body).await.0.as_u16() }
    };
    let codes = futures::future::join_all((0..2 * PAIRS).map(link)).await;
    for pair in 0..PAIRS {
        let mut both = [codes[pair], codes[pair + PAIRS]];
        both.sort_unstable();
        assert_eq!(both, [200, 422], "pair {pair}");
    }
    // The same within one batch.
    let ids: Vec<String> = (0..3).map(|_| fresh()).collect();
    let command = |from: usize| {
        let body =
            json!({ "title": "t", "queue": bench.queue, "depends_on": [ids[(from + 1) % 3]] });
        json!({ "type": "task", "id": ids[from], "command": "submit", "body": body })
    };
    let commands = json!({ "commands": [command(0), command(1), command(2)] });
    let batch = bench.post("tasks/batch", commands).await;
    let status = |n: usize| batch["outcomes"][n]["status"].as_str().unwrap().to_owned();
    assert_eq!([status(0), status(1), status(2)], ["accepted", "accepted", "refused"]);
    let (round, _) = circle(&[&ids[2], &ids[0], &ids[1], &ids[2]]);
    assert_eq!(batch["outcomes"][2]["problem"]["path"], round);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_sums_its_parts_up_and_takes_them_along() {
    let bench = Bench::on(product().await);
    let parent = bench.task(json!({ "triage": true })).await;
    let mut parts = Vec::new();
    for _ in 0..4 {
        parts.push(bench.task(json!({ "parent_id": parent })).await);
    }
    let agent = bench.agent().await;
    let got = bench.claim(&agent, 2_000).await;
    assert_eq!(got.len(), 4);
    bench.say(&got[0], "complete", json!({})).await;
    bench.say(&got[1], "fail", json!({ "retryable": false })).await;
    bench.say(&got[2], "progress", json!({ "percent": 50.5 })).await;
    let shown = async || bench.get(&format!("tasks/{parent}")).await;
    let sum = json!({
        "total": 4, "open": 2, "done": 1, "percent": 37,
        "states": { "done": 1, "failed": 1, "in_progress": 2 },
    });
    until("the parts are summed up", async || shown().await["subtasks"] == sum).await;
    assert_eq!(shown().await["children"].as_array().unwrap().len(), 4);
    let listed = bench.get(&format!("tasks/{parent}/children")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 4);
    let card = bench.product.cli(&["task", "get", &parent]).output().unwrap();
    let card = String::from_utf8_lossy(&card.stdout).into_owned();
    assert!(card.contains("1 of 4 done, 2 open, 37 %"), "{card}");
    let listed = bench.product.cli(&["task", "children", &parent]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&parts[3]), "{listed:?}");

    let grandchild = bench.task(json!({ "parent_id": parts[2] })).await;
    let waits = bench.task(json!({ "depends_on": [parent] })).await;
    let cancel = json!({ "reason": "the money is gone" });
    bench.post(&format!("tasks/{parent}/cancel"), cancel).await;
    for task in [&parts[2], &parts[3], &grandchild] {
        until("it is cancelled too", async || bench.state(task).await == "cancelled").await;
    }
    assert_eq!(bench.state(&parts[0]).await, "done");
    assert_eq!(bench.state(&parts[1]).await, "failed");
    assert_eq!(bench.state(&waits).await, "queued", "who waits for it is not touched");
    let events = bench.get(&format!("tasks/{grandchild}/events")).await;
    let last = events["items"].as_array().unwrap().last().unwrap().clone();
    assert!(last["data"]["reason"].as_str().unwrap().contains(&parts[2]), "{last}");
    let (status, problem) = bench.try_task(json!({ "parent_id": parent })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["code"], "ended", "{problem}");

    // Unless it is said otherwise.
    let alone = bench.task(json!({})).await;
    let part = bench.task(json!({ "parent_id": alone })).await;
    let cancelled =
        bench.product.cli(&["task", "cancel", &alone, "--no-cascade"]).output().unwrap();
    assert!(cancelled.status.success(), "{cancelled:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bench.state(&part).await, "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn subtasks_have_limits_and_what_stands_still_is_escalated() {
    let folder = run_dir().join(format!("links-{}", unique()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("taffrail.toml");
    let settings = "subtask_depth = 2\nsubtasks_per_task = 3\nescalate_after_ms = 1500\n";
    std::fs::write(&config, settings).unwrap();
    let start = move || start_product(folder.join("data"), &["--config", config.to_str().unwrap()]);
    let product = tokio::task::spawn_blocking(start).await.unwrap();
    let bench = Bench::on(&product);

    let (status, problem) = bench.try_task(json!({ "parent_id": fresh() })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["code"], "unknown", "{problem}");
    let top = bench.task(json!({})).await;
    let child = bench.task(json!({ "parent_id": top })).await;
    let grandchild = bench.task(json!({ "parent_id": child })).await;
    let refused = async |parent: &str, code: &str, limit: &str| {
        let (status, problem) = bench.try_task(json!({ "parent_id": parent })).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        let fault = &problem["errors"][0];
        assert_eq!((&fault["pointer"], &fault["code"]), (&json!("/parent_id"), &json!(code)));
        assert!(fault["message"].as_str().unwrap().contains(limit), "{fault}");
    };
    refused(&grandchild, "too_deep", "2").await;
    // Two more at once, then no other: also where they come in one batch.
    let part = json!({ "title": "t", "parent_id": top });
    let batch = bench.post("tasks/batch", json!({ "items": [part, part, part] })).await;
    let outcomes = batch["outcomes"].as_array().unwrap().iter();
    let accepted = outcomes.filter(|outcome| outcome["status"] == "accepted").count();
    assert_eq!(accepted, 2, "{batch}");
    refused(&top, "too_many", "3").await;

    let blocked = bench.task(json!({ "priority": "critical" })).await;
    let waits = bench.task(json!({ "depends_on": [blocked] })).await;
    let body = json!({ "agent_id": bench.agent().await, "max": 1, "start": true });
    let claim = format!("queues/{}/claim", bench.queue);
    let got = bench.post(&claim, body).await["tasks"][0].clone();
    assert_eq!(got["task_id"], json!(blocked));
    bench.say(&got, "block", json!({ "reason": "no key" })).await;
    let escalation = async || bench.get(&format!("tasks/{waits}")).await["escalation"].clone();
    assert_eq!(escalation().await, Value::Null, "not yet");
    until("it is escalated", async || !escalation().await.is_null()).await;
    let said = escalation().await;
    assert_eq!(said["path"], json!([waits, blocked]));
    assert_eq!((&said["head"], &said["head_state"]), (&json!(blocked), &json!("blocked")));
    let mut listed = Vec::new();
    until("both are listed", async || {
        let page = bench.get("tasks?escalated=true").await;
        listed = page["items"].as_array().unwrap().iter().map(|t| t["id"].clone()).collect();
        listed.len() == 2
    })
    .await;
    assert_eq!(listed, [json!(waits), json!(blocked)]);
    assert_eq!(bench.codes(&waits).await, ["dependency", "chain_stuck"]);
    until("it is counted", async || {
        bench.get("metrics").await["total"]["counters"]["escalated"] == json!(2)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let events = bench.get(&format!("tasks/{waits}/events")).await.to_string();
    assert_eq!(events.matches("task.escalated").count(), 1, "once");
    bench.post(&format!("tasks/{blocked}/unblock"), json!({})).await;
    until("it is no longer listed", async || {
        bench.get(&format!("tasks/{blocked}")).await["escalation"].is_null()
    })
    .await;
}

/// An id of the caller's choice.
fn fresh() -> String {
    Uuid::new_v4().to_string()
}
