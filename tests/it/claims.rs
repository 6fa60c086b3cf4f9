//! Claims, leases and pushes from outside: over HTTP and NATS, against a whole product.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Product, SOON, product, run_dir, start_product, unique, until};

/// A queue of a test's own on the shared product.
struct Bench<'a> {
    product: &'a Product,
    http: reqwest::Client,
    queue: String,
}

impl Bench<'static> {
    async fn new() -> Self {
        Self::on(product().await)
    }
}

impl<'a> Bench<'a> {
    fn on(product: &'a Product) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let queue = format!("claims-{}-{}", std::process::id(), unique());
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

    /// Submits a task to the queue of this test; its id.
    async fn task(&self, mut body: Value) -> String {
        body["queue"] = json!(self.queue);
        body["title"] = json!("work");
        self.post("tasks", body).await["id"].as_str().unwrap().to_owned()
    }

    /// Registers an agent; its id.
    async fn agent(&self, mut body: Value) -> String {
        body["name"] = json!(format!("claimant-{}-{}", std::process::id(), unique()));
        self.post("agents", body).await["id"].as_str().unwrap().to_owned()
    }

    async fn claim(&self, agent: &str, max: u32, wait_ms: u64) -> Vec<Value> {
        self.claim_for(agent, max, wait_ms, 30_000).await
    }

    async fn claim_for(&self, agent: &str, max: u32, wait_ms: u64, lease_ms: u64) -> Vec<Value> {
        let body =
            json!({ "agent_id": agent, "max": max, "wait_ms": wait_ms, "lease_ms": lease_ms });
        let answer = self.post(&format!("queues/{}/claim", self.queue), body).await;
        answer["tasks"].as_array().unwrap().clone()
    }

    async fn say(&self, task: &Value, command: &str) -> (StatusCode, Value) {
        let id = task["task_id"].as_str().unwrap();
        let body = json!({ "lease_token": task["lease"]["token"] });
        self.call(Method::POST, &format!("tasks/{id}/{command}"), body).await
    }

    async fn complete(&self, task: &Value) {
        let (status, answer) = self.say(task, "complete").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

fn ids(tasks: &[Value]) -> Vec<&str> {
    tasks.iter().map(|task| task["task_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_tasks_by_priority_then_age_up_to_the_slots() {
    let bench = Bench::new().await;
    let normal = bench.task(json!({ "payload": { "n": 1 } })).await;
    let low = bench.task(json!({ "priority": "low" })).await;
    let high = bench.task(json!({ "priority": "high" })).await;
    let agent = bench.agent(json!({ "slots": 2 })).await;
    let got = bench.claim(&agent, 10, 0).await;
    assert_eq!(ids(&got), [&high, &normal]);
    assert_eq!(got[1]["payload"], json!({ "n": 1 }));
    assert_eq!((&got[0]["attempt"], &got[0]["lease"]["token"]), (&json!(1), &json!(1)));
    assert!(bench.claim(&agent, 10, 0).await.is_empty(), "both slots are taken");
    bench.complete(&got[0]).await;
    assert_eq!(ids(&bench.claim(&agent, 10, 2_000).await), [&low]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_claim_over_nats_is_answered_as_soon_as_a_task_comes() {
    let bench = Bench::new().await;
    let agent = bench.agent(json!({})).await;
    let nats = bench.product.nats().await;
    let subject = format!("taffrail.default.req.queue.{}.claim", bench.queue);
    let body = json!({ "agent_id": agent, "max": 1, "wait_ms": 20_000 }).to_string();
    let request =
        async_nats::Request::new().payload(body.into()).timeout(Some(Duration::from_secs(25)));
    let start = Instant::now();
    let claim = nats.send_request(subject, request);
    let submitted = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bench.task(json!({})).await
    };
    let (answer, task) = tokio::join!(claim, submitted);
    let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert_eq!(ids(answer["tasks"].as_array().unwrap()), [&task]);
    assert!(start.elapsed() < Duration::from_secs(10), "it need not wait its time out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_may_have_its_tasks_started_in_the_same_commit() {
    let bench = Bench::new().await;
    let task = bench.task(json!({})).await;
    let agent = bench.agent(json!({})).await;
    let path = format!("queues/{}/claim", bench.queue);
    let claimed = bench.post(&path, json!({ "agent_id": agent, "start": true })).await;
    let got = claimed["tasks"].as_array().unwrap();
    assert_eq!(ids(got), [&task]);
    assert_eq!(got[0]["started"], json!(true));
    let events = bench.get(&format!("tasks/{task}/events")).await;
    let of = |n: usize, field: &str| events["items"][n][field].clone();
    assert_eq!(of(1, "type"), json!("dev.taffrail.task.assigned.v1"));
    assert_eq!(of(2, "type"), json!("dev.taffrail.task.started.v1"));
    assert_eq!(of(1, "recordedtime"), of(2, "recordedtime"), "one commit");
    bench.complete(&got[0]).await;

    let other = bench.task(json!({})).await;
    let got = bench.claim(&agent, 1, 2_000).await;
    assert_eq!((ids(&got), got[0].get("started")), (vec![other.as_str()], None), "only if asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_carries_what_describes_it_and_tells_that_it_is_late() {
    let bench = Bench::new().await;
    let soon = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
        + Duration::from_secs(1);
    let attachments = json!([{ "name": "brief", "url": "s3://b/brief.md" }]);
    let task = bench
        .task(json!({
            "due_at": soon, "attachments": attachments, "estimate_ms": 60_000,
            "acceptance_criteria": ["it plays"], "deliverables": ["a film"],
        }))
        .await;
    let path = format!("tasks/{task}");
    until("it is overdue", async || !bench.get(&path).await["overdue_at"].is_null()).await;
    let late = bench.get(&path).await;
    assert_eq!(late["overdue_at"], late["due_at"]);
    assert_eq!(late["attachments"][0]["url"], attachments[0]["url"]);
    assert_eq!((&late["estimate_ms"], &late["deliverables"]), (&json!(60_000), &json!(["a film"])));

    let agent = bench.agent(json!({})).await;
    let got = bench.claim(&agent, 1, 2_000).await;
    let token = json!({ "lease_token": got[0]["lease"]["token"] });
    let block = json!({ "reason": "no budget", "lifted_by": ["the treasurer"] });
    bench.post(&format!("{path}/start"), token).await;
    bench.post(&format!("{path}/block"), block).await;
    let (status, problem) = bench.call(Method::POST, &format!("{path}/unblock"), json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    until("why it stands still can be read", async || {
        let why = bench.get(&format!("{path}/why")).await.to_string();
        why.contains("no budget") && why.contains("the treasurer")
    })
    .await;

    let (status, problem) = bench
        .call(
            Method::POST,
            "tasks",
            json!({ "title": "t", "attachments": [{ "name": "", "url": "u" }] }),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["errors"][0]["pointer"], json!("/attachments/0/name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_started_for_a_claimant_who_has_gone_goes_to_the_next() {
    let bench = Bench::new().await;
    let (gone, next) = (bench.agent(json!({})).await, bench.agent(json!({})).await);
    let nats = bench.product.nats().await;
    let subject = format!("taffrail.default.req.queue.{}.claim", bench.queue);
    let body = json!({ "agent_id": gone, "start": true, "wait_ms": 20_000 }).to_string();
    let asking = nats.clone();
    let asked = tokio::spawn(async move { asking.request(subject, body.into()).await.is_ok() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    asked.abort();
    nats.drain().await.unwrap();

    let task = bench.task(json!({})).await;
    // Long before the lease of 30 s runs out.
    let got = bench.claim(&next, 1, 10_000).await;
    assert_eq!(ids(&got), [&task]);
    assert_eq!(got[0]["attempt"], json!(1), "nobody has tried yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_work_comes_back_empty_when_its_time_is_up() {
    let bench = Bench::new().await;
    let agent = bench.agent(json!({})).await;
    let start = Instant::now();
    assert!(bench.claim(&agent, 1, 400).await.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_resting_agents_are_refused() {
    let bench = Bench::new().await;
    let path = format!("queues/{}/claim", bench.queue);
    let unknown = json!({ "agent_id": "00000000-0000-4000-8000-000000000000" });
    let (status, problem) = bench.call(Method::POST, &path, unknown).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    let agent = bench.agent(json!({})).await;
    bench.post(&format!("agents/{agent}/drain"), json!({})).await;
    let claim = json!({ "agent_id": agent });
    until("the drained agent is refused", async || {
        let (status, problem) = bench.call(Method::POST, &path, claim.clone()).await;
        status == StatusCode::UNPROCESSABLE_ENTITY
            && problem["type"].as_str().unwrap().ends_with("/not-possible")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_gives_the_task_away_and_the_late_answer_is_refused() {
    let bench = Bench::new().await;
    let task = bench.task(json!({})).await;
    let (slow, quick) = (bench.agent(json!({})).await, bench.agent(json!({})).await);
    let first = bench.claim_for(&slow, 1, 0, 1_000).await;
    assert_eq!(bench.say(&first[0], "start").await.0, StatusCode::OK);
    let second = bench.claim(&quick, 1, 15_000).await;
    assert_eq!(ids(&second), [&task]);
    assert_eq!((&second[0]["attempt"], &second[0]["lease"]["token"]), (&json!(2), &json!(2)));
    let (status, problem) = bench.say(&first[0], "complete").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["type"].as_str().unwrap().ends_with("/stale-lease"), "{problem}");
    bench.complete(&second[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_times_dependencies_and_keys_hold_tasks_back() {
    let bench = Bench::new().await;
    let soon = (chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
        + Duration::from_secs(4))
    .to_rfc3339();
    let gifted = bench.task(json!({ "capabilities": ["gpu"] })).await;
    let timed = bench.task(json!({ "run_at": soon })).await;
    let before = bench.task(json!({ "concurrency_key": bench.queue })).await;
    let after = bench.task(json!({ "depends_on": [before] })).await;
    let same_key = bench.task(json!({ "concurrency_key": bench.queue })).await;
    let plain = bench.agent(json!({ "slots": 10 })).await;
    let able = bench.agent(json!({ "slots": 10, "capabilities": ["gpu", "ocr"] })).await;
    let got = bench.claim(&plain, 10, 0).await;
    assert_eq!(ids(&got), [&before], "the others wait for something");
    assert_eq!(ids(&bench.claim(&able, 10, 0).await), [&gifted]);
    bench.complete(&got[0]).await;
    let start = Instant::now();
    let mut rest = Vec::new();
    while rest.len() < 2 && start.elapsed() < SOON {
        rest.extend(bench.claim(&plain, 10, 500).await);
    }
    let mut free = ids(&rest);
    free.truncate(2);
    assert_eq!(free, [&after, &same_key]);
    if rest.len() < 3 {
        rest.extend(bench.claim(&plain, 10, 15_000).await);
    }
    assert_eq!(ids(&rest)[2], timed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_listens_is_pushed_its_task() {
    // A product of its own: a listener is given the tasks of every queue that it fits, so
    // it would take those of the other tests.
    let dir = run_dir().join(format!("pushing-{}", unique()));
    let product = tokio::task::spawn_blocking(move || start_product(dir, &[])).await.unwrap();
    let bench = Bench::on(&product);
    let agent = bench.agent(json!({})).await;
    let nats = bench.product.nats().await;
    let own = format!("taffrail.default.agent.{agent}");
    let mut tasks = nats.subscribe(format!("{own}.tasks")).await.unwrap();
    nats.publish(format!("{own}.heartbeat"), "{}".into()).await.unwrap();
    nats.flush().await.unwrap();
    let task = bench.task(json!({})).await;
    let pushed = async {
        loop {
            let message = tasks.next().await.unwrap();
            // An empty message asks whether anybody listens.
            if !message.payload.is_empty() {
                let pushed: Value = serde_json::from_slice(&message.payload).unwrap();
                if pushed["task_id"] == task.as_str() {
                    return pushed;
                }
            }
        }
    };
    let pushed = tokio::time::timeout(Duration::from_secs(20), pushed).await.unwrap();
    bench.complete(&pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_claimants_at_once_never_share_a_task() {
    let bench = Bench::new().await;
    let mut submitted = Vec::new();
    for _ in 0..40 {
        submitted.push(bench.task(json!({})).await);
    }
    let mut agents = Vec::new();
    for _ in 0..8 {
        agents.push(bench.agent(json!({ "slots": 10 })).await);
    }
    let claims = agents.iter().map(|agent| bench.claim(agent, 10, 2_000));
    let got = futures::future::join_all(claims).await.concat();
    let mut got = ids(&got);
    got.sort_unstable();
    submitted.sort_unstable();
    assert_eq!(got, submitted);
}

/// Sends heartbeats that name a task while its lease runs out twice over; the task's events.
async fn beaten(bench: &Bench<'_>, named: bool, beat: impl AsyncFn(&str, Value)) -> Vec<String> {
    // Agents of other tests listen for whatever they can do.
    let able = json!({ "capabilities": [format!("beaten-{}", unique())] });
    bench.task(able.clone()).await;
    let agent = bench.agent(able).await;
    let task = bench.claim_for(&agent, 1, 5_000, 2_000).await.remove(0);
    let (id, token) = (task["task_id"].clone(), task["lease"]["token"].clone());
    let held = json!([{ "task_id": id, "lease_token": token }]);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(5_000) {
        let tasks = if named { held.clone() } else { json!([]) };
        beat(&agent, json!({ "slots_free": 0, "tasks": tasks })).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = bench.get(&format!("tasks/{}/events", id.as_str().unwrap())).await;
    let events = events["items"].as_array().unwrap();
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_names_a_task_extends_its_lease() {
    let bench = Bench::new().await;
    let nats = bench.product.nats().await;
    let over_http = beaten(&bench, true, async |agent, body| {
        bench.post(&format!("agents/{agent}/heartbeat"), body).await;
    });
    let over_nats = beaten(&bench, true, async |agent, body| {
        let subject = format!("taffrail.default.agent.{agent}.heartbeat");
        nats.publish(subject, body.to_string().into()).await.unwrap();
    });
    let unnamed = beaten(&bench, false, async |agent, body| {
        bench.post(&format!("agents/{agent}/heartbeat"), body).await;
    });
    let (over_http, over_nats, unnamed) = tokio::join!(over_http, over_nats, unnamed);
    for events in [over_http, over_nats] {
        let of = |name: &str| events.iter().filter(|event| event.contains(name)).count();
        assert_eq!(of("lease_expired"), 0, "{events:?}");
        // A lease of 2 s is extended when 1 s is left: fifty heartbeats, few events.
        assert!((3..=5).contains(&of("lease_extended")), "{events:?}");
    }
    let expired = unnamed.iter().any(|event| event.contains("lease_expired"));
    assert!(expired, "who only lives extends nothing: {unnamed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_names_at_most_256_tasks() {
    let bench = Bench::new().await;
    let agent = bench.agent(json!({})).await;
    let task = json!({ "task_id": uuid::Uuid::nil(), "lease_token": 1 });
    let path = format!("agents/{agent}/heartbeat");
    let body = json!({ "tasks": vec![task.clone(); 257] });
    let (status, problem) = bench.call(Method::POST, &path, body).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (StatusCode::BAD_REQUEST, &json!("/tasks"))
    );
    bench.post(&path, json!({ "tasks": vec![task; 256] })).await;
}
