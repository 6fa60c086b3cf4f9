//! Dead letters by filter: told first, done once per task. QUE-6.

use std::time::Duration;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use commands::{Boxed, CommandEnvelope, Errand, Executor, Processor, Work};
use domain::operation::{OperationAccepted, Resource};
use domain::{Json, Outcome, TenantId};
use replay::DeadLettersWork;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::engine::{Running, history, queries};
use crate::http::queue;
use crate::support::{self, Api, SOON, run_dir, start_product, unique, until};

struct Bench {
    api: Api,
    agent: String,
}

impl Bench {
    async fn on(http: &str, token: &str) -> Self {
        let api = Api::new(http, token);
        let body =
            json!({ "name": format!("mortal-{}-{}", std::process::id(), unique()), "slots": 256 });
        let made = api.post("/v1/agents", &body).await.1;
        Self { agent: made["id"].as_str().unwrap().to_owned(), api }
    }

    async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.api.post(path, &body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Makes dead letters of a class and type in a queue; the position of the last one's end.
    async fn dead(&self, queue: &str, class: &str, kind: &str, count: usize) -> u64 {
        let new = json!({
            "title": format!("{class} {kind}"), "queue": queue, "type": kind,
            "payload": { "n": 1 }, "retry": { "max_attempts": 1 },
        });
        let batch = json!({ "items": vec![new; count] });
        self.ok("/v1/tasks/batch", batch).await;
        self.die(queue, class, count).await
    }

    /// Claims tasks of a queue and fails each for good.
    async fn die(&self, queue: &str, class: &str, count: usize) -> u64 {
        let mut last = 0;
        let mut left = count;
        while left > 0 {
            let claim = json!({ "agent_id": self.agent, "max": left.min(256), "wait_ms": 10_000 });
            let claimed = self.ok(&format!("/v1/queues/{queue}/claim"), claim).await;
            let tasks = claimed["tasks"].as_array().unwrap().clone();
            assert!(!tasks.is_empty(), "{left} are left");
            left -= tasks.len();
            let fail = |task: &Value| {
                json!({ "type": "task", "id": task["task_id"], "command": "fail", "body": {
                    "lease_token": task["lease"]["token"], "class": class,
                    "error": { "message": format!("it was the {class}") },
                }})
            };
            let commands: Vec<Value> = tasks.iter().map(fail).collect();
            let ended = self.ok("/v1/tasks/batch", json!({ "commands": commands })).await;
            last = ended["position"].as_u64().unwrap();
        }
        last
    }

    async fn seen(&self, path: &str, position: u64) -> Value {
        let ask = self.api.request(Method::GET, path).header("taffrail-min-position", position);
        ask.header("prefer", "wait=10").send().await.unwrap().json().await.unwrap()
    }

    async fn preview(&self, action: &str, filter: &Value, position: u64) -> Value {
        self.seen("/v1/dead-letters?limit=1", position).await;
        self.ok(&format!("/v1/dead-letters/{action}"), json!({ "filter": filter })).await
    }

    /// Waits for an operation; it, ended.
    async fn ended(&self, accepted: &Value) -> Value {
        let path = format!("/v1/operations/{}", accepted["operation_id"].as_str().unwrap());
        let mut operation = Value::Null;
        until("the operation ends", async || {
            operation = self.api.get(&path).await.1;
            matches!(operation["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
        })
        .await;
        operation
    }

    async fn count(&self, path: &str) -> usize {
        let mut all = 0;
        let mut cursor = String::new();
        loop {
            let page = self.api.get(&format!("{path}&limit=200{cursor}")).await.1;
            all += page["items"].as_array().unwrap().len();
            let Some(next) = page["next"].as_str() else { return all };
            cursor = format!("&cursor={next}");
        }
    }
}

#[tokio::test]
async fn a_filter_is_told_first_and_then_requeues_what_it_takes_and_nothing_else() {
    let product = support::product().await;
    let bench = Bench::on(&product.http, &product.token).await;
    let queue = queue();
    bench.dead(&queue, "disk", "export", 7).await;
    bench.dead(&queue, "net", "export", 4).await;
    let position = bench.dead(&queue, "disk", "import", 3).await;

    let filter = json!({ "queue": queue, "class": "disk", "type": "export" });
    let told = bench.preview("requeue", &filter, position).await;
    assert_eq!((&told["matching"], told["sample"].as_array().unwrap().len()), (&json!(7), 7));
    assert_eq!(told["sample"][0]["error_class"], "disk");
    // Nothing was done.
    let all = format!("/v1/dead-letters?queue={queue}");
    assert_eq!(bench.count(&all).await, 14);
    for (filter, matching) in [
        (json!({ "queue": queue }), 14),
        (json!({ "queue": queue, "error": "WAS THE NET" }), 4),
        (json!({ "queue": queue, "state": "failed" }), 0),
        (json!({ "queue": queue, "dead_before": "2000-01-01T00:00:00Z" }), 0),
        (json!({ "ids": [told["sample"][0]["number"], told["sample"][1]["id"]] }), 2),
    ] {
        let told = bench.preview("requeue", &filter, position).await;
        assert_eq!(told["matching"], matching, "{filter}");
    }

    let body = json!({ "filter": filter, "reason": "mended", "changes": {
        "payload": { "n": 2 }, "priority": "high",
    } });
    let (status, accepted) = bench.api.post("/v1/dead-letters/requeue?dry_run=false", &body).await;
    assert_eq!(status, 202, "{accepted}");
    let operation = bench.ended(&accepted).await;
    assert_eq!(
        operation["result"],
        json!({ "done": 7, "changed": 0, "refused": 0 }),
        "{operation}"
    );
    let position = operation["position"].as_u64().unwrap();
    let revived = bench.seen(&format!("/v1/tasks?queue={queue}&state=queued"), position).await;
    let revived = revived["items"].as_array().unwrap();
    assert_eq!(revived.len(), 7);
    for task in revived {
        assert_eq!((&task["payload"], &task["priority"]), (&json!({ "n": 2 }), &json!("high")));
        assert_eq!((&task["attempt"], &task["error"]), (&json!(0), &Value::Null), "{task}");
    }
    assert_eq!(bench.count(&all).await, 7);

    let filter = json!({ "filter": { "queue": queue } });
    let (_, accepted) = bench.api.post("/v1/dead-letters/discard?dry_run=false", &filter).await;
    let operation = bench.ended(&accepted).await;
    assert_eq!(operation["result"]["done"], 7, "{operation}");
    bench.seen(&all, operation["position"].as_u64().unwrap()).await;
    assert_eq!(bench.count(&all).await, 0);
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_refused_with_the_field() {
    let product = support::product().await;
    let bench = Bench::on(&product.http, &product.token).await;
    let bad = "/v1/dead-letters/requeue?dry_run=false";
    for (path, body, pointer) in [
        (bad, json!({ "filter": { "state": "done" } }), "/filter/state"),
        (bad, json!({ "filter": { "clas": "x" } }), "/filter/clas"),
        (bad, json!({ "filter": { "ids": ["x"] } }), "/filter/ids/0"),
        (bad, json!({ "changes": { "priority": "urgent" } }), "/changes/priority"),
        ("/v1/dead-letters/discard", json!({ "changes": { "priority": "low" } }), "/changes"),
        ("/v1/dead-letters/requeue?dryrun=false", json!({}), "/query/dryrun"),
    ] {
        let (status, problem) = bench.api.post(path, &body).await;
        assert_eq!(status, 400, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn one_dead_letter_is_dropped_by_its_number() {
    let product = support::product().await;
    let bench = Bench::on(&product.http, &product.token).await;
    let queue = queue();
    let position = bench.dead(&queue, "disk", "export", 1).await;
    let page = bench.seen(&format!("/v1/dead-letters?queue={queue}"), position).await;
    let number = page["items"][0]["number"].as_str().unwrap();
    let path = format!("/v1/dead-letters/{number}");
    let dropped = bench.api.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(dropped.status(), 200);
    let again = bench.api.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(again.status(), 422);
    let (status, _) = bench.api.post(&format!("{path}/requeue"), &json!({})).await;
    assert_eq!(status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_what_it_would_do_and_does_it_with_yes() {
    let product = support::product().await;
    let bench = Bench::on(&product.http, &product.token).await;
    let queue = queue();
    let position = bench.dead(&queue, "disk", "export", 3).await;
    bench.seen("/v1/dead-letters?limit=1", position).await;
    let run = |more: &[&str]| {
        let mut arguments = vec!["dead", "requeue", "--queue", &queue, "--class", "disk"];
        arguments.extend(more);
        let mut command = product.cli(&arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let told = run(&["--dry-run"]).await.unwrap();
    assert!(told.status.success());
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(said.contains("3 dead letters match") && said.contains("TASK-"), "{said}");
    // Where nobody can be asked, nothing is done.
    let unasked = run(&[]).await.unwrap();
    assert_eq!(unasked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unasked.stderr).contains("--yes"));
    assert_eq!(bench.count(&format!("/v1/dead-letters?queue={queue}")).await, 3);
    let done = run(&["--yes", "-o", "json"]).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let operation: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(operation["result"]["done"], 3, "{operation}");
    let neither = product.cli(&["dead", "requeue"]).output().unwrap();
    assert_eq!(neither.status.code(), Some(2));
}

/// Killed outright in the middle of it: each task is requeued once, also one that was
/// revived and died again before the second run, and the report counts both runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_by_filter_goes_on_after_kill_minus_nine_and_does_nothing_twice() {
    const TASKS: usize = 3_000;
    let dir = run_dir().join(format!("dead-letters-{}", unique()));
    let folder = dir.clone();
    let mut product =
        tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap();
    let bench = Bench::on(&product.http, &product.token).await;
    for _ in 0..TASKS / 500 {
        bench.dead("q", "disk", "export", 500).await;
    }
    let body = json!({ "filter": { "queue": "q", "class": "disk" } });
    let (status, accepted) = bench.api.post("/v1/dead-letters/requeue?dry_run=false", &body).await;
    assert_eq!(status, 202);
    until("some are requeued", async || {
        let queue = bench.api.get("/v1/queues/q").await.1;
        queue["counters"]["requeued"].as_u64().is_some_and(|requeued| requeued > 100)
    })
    .await;
    product.kill();
    let folder = dir.clone();
    let product = tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap();
    let bench = Bench { api: Api::new(&product.http, &product.token), agent: bench.agent };
    let before = bench.api.get("/v1/queues/q").await.1["counters"]["requeued"].as_u64().unwrap();
    let operation = tokio::time::timeout(SOON, bench.ended(&accepted)).await.unwrap();
    let expected = json!({ "done": TASKS, "changed": 0, "refused": 0 });
    assert_eq!(operation["result"], expected, "{operation}");
    let position = operation["position"].as_u64().unwrap();
    let queue = bench.seen("/v1/queues/q", position).await;
    assert_eq!(queue["counters"]["requeued"], TASKS, "{queue}");
    assert!((before as usize) < TASKS, "it was killed too late to show anything: {before}");

    // A second operation has nothing to do: those that died again ended after the first.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let position = bench.die("q", "disk", 10).await;
    let told = bench.preview("requeue", &body["filter"], position).await;
    assert_eq!(told["matching"], 10);
}

/// Has some commands decided, and never answers the others: whoever waits is cut short.
struct Faltering(Processor, AtomicUsize);

impl Executor for Faltering {
    fn execute(&self, command: CommandEnvelope) -> Boxed<Outcome> {
        let left = self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => self.0.execute(command),
            Err(_) => Box::pin(std::future::pending()),
        }
    }
}

/// The same operation run three times: the first run is cut short.
#[tokio::test]
async fn a_second_run_repeats_nothing_and_what_died_after_the_acceptance_is_not_meant() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let dead = |n: usize| -> Vec<_> {
        let events = history(&[
            ("submit", r#"{"title":"t","queue":"q","retry":{"max_attempts":1}}"#),
            ("assign", r#"{"agent_id":"00000000-0000-0000-0000-000000000007"}"#),
            ("fail", r#"{"lease_token":1,"error":"no disk"}"#),
        ]);
        (0..n).map(|_| (Uuid::new_v4(), events.clone())).collect()
    };
    let accepted_at = support::append(&log, dead(5)).await.last().unwrap().position + 1;
    support::append(&log, dead(2)).await;
    let processor = support::processor(&db).await;
    let running = Running::on(&log).await;
    let work = DeadLettersWork::new(log.clone(), queries(&db));
    let operation = Uuid::new_v4();
    let run = |commands: usize| {
        work.run(Errand {
            actor: "test".into(),
            id: operation,
            tenant: TenantId::default_tenant(),
            position: accepted_at,
            accepted: OperationAccepted {
                kind: "dead_letters.requeue".into(),
                resource: Resource { kind: "dead_letters".into(), id: "q".into() },
                command: None,
                input: Json::parse(r#"{"filter":{"queue":"q","error":"disk"}}"#).unwrap(),
            },
            progress: tokio::sync::mpsc::channel(8).0,
            executor: Arc::new(Faltering(processor.door.clone(), AtomicUsize::new(commands))),
        })
    };
    let cut = tokio::time::timeout(Duration::from_secs(3), run(2)).await;
    assert!(cut.is_err(), "it waits for the answers that never come");
    let requeued = "SELECT count(*) FROM events WHERE event_type = 'requeued'";
    assert_eq!(db.sql(requeued).await.as_deref(), Some("2"));
    for _ in 0..2 {
        let report = run(10).await.unwrap();
        assert_eq!(report.as_str(), r#"{"done":5,"changed":0,"refused":0}"#);
        assert_eq!(db.sql(requeued).await.as_deref(), Some("5"));
    }
    running.stop().await;
    processor.stop().await;
}
