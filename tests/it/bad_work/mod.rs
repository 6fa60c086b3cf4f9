//! Bad input about work (tasks, answers, claims, queues, schedules), over HTTP and over NATS:
//! both name the same field and the same fault, and nothing is stored.

mod cases;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use self::cases::{About, Bad};
use crate::support::{Product, SOON, product};

/// The first fault of a problem.
fn fault(problem: &Value) -> (&str, &str) {
    let first = &problem["errors"][0];
    (first["pointer"].as_str().unwrap_or("none"), first["code"].as_str().unwrap_or_default())
}

struct Doors<'a> {
    product: &'a Product,
    http: reqwest::Client,
    nats: async_nats::Client,
}

impl Doors<'_> {
    async fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("{}/v1/{path}", self.product.http);
        let answer = self.http.get(url).bearer_auth(&self.product.token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let url = format!("{}/v1/{path}", self.product.http);
        let asked = self.http.request(method, url).bearer_auth(&self.product.token);
        let asked = asked.header("content-type", "application/json").body(body.to_owned());
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn over_http(&self, case: &Bad, stream: Uuid, queue: &str) -> Result<(), String> {
        let (method, path) = match case.about {
            About::Submit => (Method::POST, "tasks".to_owned()),
            About::Task("update") => (Method::PATCH, format!("tasks/{stream}")),
            About::Task(command) => (Method::POST, format!("tasks/{stream}/{command}")),
            About::Claim => (Method::POST, format!("queues/{queue}/claim")),
            About::Queue => (Method::PUT, format!("queues/{queue}")),
            About::Schedule => (Method::POST, "schedules".to_owned()),
        };
        // What is refused must not be found under this name afterwards.
        let body = match case.about {
            About::Submit => case.body.replacen('{', &format!(r#"{{"queue":"{queue}","#), 1),
            About::Schedule => case.body.replace(r#""name":"s""#, &format!(r#""name":"{queue}""#)),
            About::Task(_) | About::Claim | About::Queue => case.body.clone(),
        };
        let (status, problem) = self.send(method, &path, &body).await;
        let slug = problem["type"].as_str().unwrap_or_default().rsplit('/').next();
        let right = status == 400 && slug == Some("invalid-body") && case.fits(&problem, "");
        right.then_some(()).ok_or_else(|| format!("{} over HTTP: {status} {problem}", case.what))
    }

    async fn over_nats(&self, case: &Bad, stream: Uuid, queue: &str) -> Result<(), String> {
        let (subject, body, below) = match case.about {
            About::Submit => (format!("task.{stream}.submit"), case.body.clone(), ""),
            About::Task(command) => (format!("task.{stream}.{command}"), case.body.clone(), ""),
            About::Claim => (format!("queue.{queue}.claim"), case.body.clone(), ""),
            About::Queue => {
                let body = format!(r#"{{"queue":"{queue}","policy":{}}}"#, case.body);
                let id = domain::queue::queue_id(&domain::TenantId::default_tenant(), queue);
                (format!("queue.{id}.configure"), body, "/policy")
            }
            About::Schedule => (format!("schedule.{stream}.create"), case.body.clone(), ""),
        };
        let subject = format!("taffrail.default.req.{subject}");
        let answer = self.nats.request(subject, body.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        let invalid = case.about == About::Claim || answer["status"] == "invalid";
        let right = invalid && case.fits(&answer["problem"], below);
        right.then_some(()).ok_or_else(|| format!("{} over NATS: {answer}", case.what))
    }
}

impl Bad {
    /// Whether the first fault is the one that is meant; a fault of the whole body has no
    /// place in it, wherever the body is put.
    fn fits(&self, problem: &Value, below: &str) -> bool {
        let (pointer, code) = fault(problem);
        let at = if self.pointer.is_empty() {
            String::new()
        } else {
            format!("{below}{}", self.pointer)
        };
        let whole = self.pointer.is_empty() && (pointer.is_empty() || pointer == below);
        // Some level of it is the one too deep.
        let deep = code == "too_deep" && pointer.starts_with(&at);
        (pointer == at || whole || deep) && (self.code.is_empty() || code == self.code)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_work_is_refused_with_its_field_over_http_and_nats_and_nothing_is_stored() {
    let product = product().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let doors = Doors { product, http: reqwest::Client::new(), nats: product.nats().await };
    let queue = format!("bad-{}", Uuid::new_v4().simple());
    let mut wrong = Vec::new();
    for case in cases::all() {
        let stream = Uuid::new_v4();
        wrong.extend(doors.over_http(&case, stream, &queue).await.err());
        wrong.extend(doors.over_nats(&case, stream, &queue).await.err());
        let (status, _) = doors.get(&format!("tasks/{stream}")).await;
        if status != 404 {
            wrong.push(format!("{} was stored: {status}", case.what));
        }
        let (status, _) = doors.get(&format!("schedules/{stream}")).await;
        if status != 404 {
            wrong.push(format!("{} was stored: {status}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let (_, tasks) = doors.get(&format!("tasks?queue={queue}")).await;
    assert_eq!(tasks["items"], json!([]));
    let (_, all) = doors.get("schedules?limit=100").await;
    assert!(!all["items"].as_array().unwrap().iter().any(|s| s["name"] == queue.as_str()));
    let (_, shown) = doors.get(&format!("queues/{queue}")).await;
    assert!(shown["policy"]["limits"].as_array().is_none_or(Vec::is_empty), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_ten_megabytes_is_refused_and_the_next_one_is_served() {
    let product = product().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let doors = Doors { product, http: reqwest::Client::new(), nats: product.nats().await };
    let body = format!(r#"{{"title":"t","payload":"{}"}}"#, "p".repeat(10 << 20));
    let url = format!("{}/v1/tasks", product.http);
    let asked = doors.http.post(url).bearer_auth(&product.token).body(body.clone());
    // The connection may be closed before all of it is sent.
    if let Ok(answer) = asked.header("content-type", "application/json").send().await {
        assert_eq!(answer.status(), 413);
    }
    // Over NATS the server names its limit, and the client does not send it.
    let subject = format!("taffrail.default.req.task.{}.submit", Uuid::new_v4());
    let refused = doors.nats.request(subject, body.into()).await;
    assert!(refused.is_err());
    let (status, _) = doors.send(Method::POST, "tasks", r#"{"title":"well"}"#).await;
    assert_eq!(status, 201);
}

/// A task that comes too late is a task: it is taken, and at once overdue.
#[tokio::test(flavor = "multi_thread")]
async fn a_due_date_in_the_past_is_taken_and_overdue_at_once() {
    let product = product().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let doors = Doors { product, http: reqwest::Client::new(), nats: product.nats().await };
    let queue = format!("late-{}", Uuid::new_v4().simple());
    let body = json!({ "title": "late", "queue": queue, "capabilities": [queue],
        "due_at": "2001-01-01T00:00:00Z", "run_at": "2001-01-01T00:00:00Z" });
    let (status, task) = doors.send(Method::POST, "tasks", &body.to_string()).await;
    assert_eq!(status, 201, "{task}");
    let path = format!("tasks/{}", task["id"].as_str().unwrap());
    let begin = Instant::now();
    while doors.get(&path).await.1["overdue_at"].is_null() {
        assert!(begin.elapsed() < SOON, "it is not overdue");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
