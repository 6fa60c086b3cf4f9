//! The past: what a query answered at a position it answers for ever.

use std::collections::HashMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::http::{Api, header, queue};
use super::support::{self, until};

/// What only heartbeats know is about the present (invariant 12).
const LIVE: [&str; 3] = ["last_heartbeat", "load", "slots_free"];

/// An answer, with the position that it reflects.
struct Answer {
    path: String,
    position: u64,
    body: String,
}

fn blanked(body: &str) -> String {
    fn blank(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    if LIVE.contains(&name.as_str()) {
                        *field = Value::Null;
                    }
                    blank(field);
                }
            }
            Value::Array(parts) => parts.iter_mut().for_each(blank),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    if !LIVE.iter().any(|name| body.contains(name)) {
        return body.to_owned();
    }
    let mut value: Value = serde_json::from_str(body).unwrap();
    blank(&mut value);
    value.to_string()
}

async fn answer(api: &Api, path: &str, as_of: Option<u64>) -> Answer {
    let sign = if path.contains('?') { '&' } else { '?' };
    let asked = as_of.map_or(path.to_owned(), |at| format!("{path}{sign}as_of={at}"));
    let answer = api.ask(Method::GET, &asked).send().await.unwrap();
    let position = header(&answer, "taffrail-log-position").parse().unwrap_or_default();
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert!(status.is_success(), "{asked}: {status} {body}");
    Answer { path: path.into(), position, body: blanked(&body) }
}

async fn head(api: &Api) -> u64 {
    api.get("/v1/events?limit=1").await["position"].as_u64().unwrap()
}

/// Tasks of a queue all the way: some done, some failed, some cancelled, some left.
async fn lives(api: &Api, queue: &str, agent: &str, many: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..many {
        let body = json!({ "title": format!("task {n} “of” {queue}"), "queue": queue, "capabilities": ["as-of"],
                           "priority": (["high", "normal", "low"][n % 3]), "labels": { "n": n.to_string() } });
        ids.push(api.submit(body).await["id"].as_str().unwrap().to_owned());
    }
    let claim =
        json!({ "agent_id": agent, "max": many.div_ceil(2), "wait_ms": 2_000, "start": true });
    let claimed: Value =
        api.post(&format!("/v1/queues/{queue}/claim"), claim).await.json().await.unwrap();
    for (n, task) in claimed["tasks"].as_array().unwrap().iter().enumerate() {
        let (id, token) = (task["task_id"].as_str().unwrap(), &task["lease"]["token"]);
        let (command, body) = match n % 3 {
            0 => ("fail", json!({ "lease_token": token, "error": { "n": n }, "retryable": false })),
            _ => ("complete", json!({ "lease_token": token, "result": { "n": n } })),
        };
        let answer = api.post(&format!("/v1/tasks/{id}/{command}"), body).await;
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
    ids
}

async fn bulk(api: &Api, queue: &str, many: usize) {
    let items: Vec<Value> =
        (0..many).map(|n| json!({ "title": format!("bulk {n}"), "queue": queue, "capabilities": ["nobody-has"] })).collect();
    for part in items.chunks(500) {
        let answer = api.post("/v1/tasks/batch", json!({ "items": part })).await;
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_answers_for_ever_what_it_answered_at_a_position() {
    let api = Api::new().await;
    let (own, other) = (queue(), queue());
    let agent = json!({ "name": queue(), "capabilities": ["as-of"], "slots": 64 });
    let agent: Value = api.post("/v1/agents", agent).await.json().await.unwrap();
    let agent = agent["id"].as_str().unwrap().to_owned();
    api.post(&format!("/v1/agents/{agent}/mark_ready"), json!({})).await;
    let mut said: Vec<Answer> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for round in 0..10 {
        known.extend(lives(&api, &own, &agent, 6).await);
        bulk(&api, &other, 900).await;
        let some = &known[(round * 5) % known.len()];
        let after = head(&api).await.saturating_sub(50);
        let paths = [
            "/v1/tasks".to_owned(),
            format!("/v1/tasks?queue={own}&limit=7"),
            format!("/v1/tasks?queue={own}&state=done,failed"),
            "/v1/tasks?state=queued&limit=3".to_owned(),
            format!("/v1/tasks?agent={agent}&label=n%3D1"),
            format!("/v1/tasks/{some}"),
            format!("/v1/tasks/{some}/events"),
            "/v1/dead-letters?limit=5".to_owned(),
            "/v1/queues".to_owned(),
            format!("/v1/queues/{own}"),
            "/v1/agents".to_owned(),
            format!("/v1/agents/{agent}"),
            "/v1/fleet".to_owned(),
            "/v1/capabilities".to_owned(),
            "/v1/metrics".to_owned(),
            "/v1/operations".to_owned(),
            "/v1/schedules".to_owned(),
            "/v1/profiles".to_owned(),
            "/v1/nodes".to_owned(),
            "/v1/audit?outcome=event&limit=9".to_owned(),
            format!("/v1/audit?agent={agent}"),
            format!("/v1/events?after={after}&limit=5"),
        ];
        for path in paths {
            said.push(answer(&api, &path, None).await);
        }
    }
    let (first, last) = (said[0].position, head(&api).await);
    assert!(last > first + 2 * 4_096, "the answers stand on both sides of two boundaries");
    let mut wrong: HashMap<String, String> = HashMap::new();
    for then in &said {
        let now = answer(&api, &then.path, Some(then.position)).await;
        assert_eq!(now.position, then.position, "{}", then.path);
        if now.body != then.body {
            let told = format!("as of {}\n then {}\n  now {}", then.position, then.body, now.body);
            wrong.insert(then.path.clone(), told);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The answers are about different worlds, so a query that ignored the moment would show.
    let queues: Vec<_> = said.iter().filter(|a| a.path == "/v1/queues").map(|a| &a.body).collect();
    assert!(queues.windows(2).all(|two| two[0] != two[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_between_two_changes_shows_the_row_between_them() {
    let api = Api::new().await;
    let own = queue();
    api.submit(json!({ "title": "before", "queue": queue(), "capabilities": ["nobody-has"] }))
        .await;
    let made =
        api.submit(json!({ "title": "first", "queue": own, "capabilities": ["nobody-has"] })).await;
    let id = made["id"].as_str().unwrap();
    let mut versions = vec![made["position"].as_u64().unwrap()];
    for title in ["second", "third"] {
        let change = api.ask(Method::PATCH, &format!("/v1/tasks/{id}"));
        let answer = change.json(&json!({ "title": title })).send().await.unwrap();
        versions.push(answer.json::<Value>().await.unwrap()["position"].as_u64().unwrap());
    }
    let title = async |as_of: &str| {
        api.get(&format!("/v1/tasks/{id}?as_of={as_of}")).await["title"].clone()
    };
    for (position, expected) in versions.iter().zip(["first", "second", "third"]) {
        assert_eq!(title(&position.to_string()).await, expected);
    }
    let time = api.get(&format!("/v1/tasks/{id}/events")).await["items"][1]["recordedtime"].clone();
    let time = time.as_str().unwrap().replace('+', "%2B");
    assert_eq!(title(&time).await, "second", "an instant is the last position recorded by then");
    let number = api.get(&format!("/v1/tasks/{id}")).await["number"].as_str().unwrap().to_owned();
    let by_number = api.get(&format!("/v1/tasks/{number}?as_of={}", versions[1])).await;
    assert_eq!(by_number["title"], "second");

    // Before it was there it is not there, and lists and counts know nothing of it.
    let before = versions[0] - 1;
    let none =
        api.ask(Method::GET, &format!("/v1/tasks/{id}?as_of={before}")).send().await.unwrap();
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    let list = api.get(&format!("/v1/tasks?queue={own}&as_of={before}")).await;
    assert_eq!(list["items"], json!([]));
    assert_eq!(list["position"], before);
    let list = api.get(&format!("/v1/tasks?queue={own}&as_of={}", versions[0])).await;
    assert_eq!(list["items"][0]["title"], "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_that_are_none_are_refused_by_name() {
    let api = Api::new().await;
    let ahead = head(&api).await + 1_000_000;
    for bad in [
        "0",
        "-1",
        "abc",
        "2026-01-31T12:00:00",
        "9223372036854775807",
        "99999999999999999999",
        "2999-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        &ahead.to_string(),
    ] {
        for path in ["/v1/tasks", "/v1/metrics", "/v1/events", "/v1/audit"] {
            let answer = api.ask(Method::GET, &format!("{path}?as_of={bad}")).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path} {bad}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["errors"][0]["pointer"], "/query/as_of", "{problem}");
        }
    }
    for path in ["/v1/events/stream", "/metrics", "/livez"] {
        let answer = api.ask(Method::GET, &format!("{path}?as_of=1")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
    let change = api.ask(Method::POST, "/v1/tasks?as_of=1").json(&json!({ "title": "x" }));
    assert_eq!(change.send().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_row_that_somebody_changed_is_told_and_not_shown() {
    // One of its own: what is spoilt here is nobody else's.
    let dir = support::run_dir().join(format!("spoilt-{}", support::unique()));
    let start = move || support::start_product(dir, &[]);
    let product = tokio::task::spawn_blocking(start).await.unwrap();
    let api = support::Api::new(&product.http, &product.token);
    let made = api.post("/v1/tasks", &json!({ "title": "kept" })).await.1;
    let id = made["id"].as_str().unwrap();
    // Across a boundary, then changed: the first version is kept.
    let items: Vec<Value> = (0..500).map(|n| json!({ "title": format!("bulk {n}") })).collect();
    for _ in 0..9 {
        assert_eq!(api.post("/v1/tasks/batch", &json!({ "items": items })).await.0, 200);
    }
    let change = json!({ "commands": [{ "type": "task", "id": id, "command": "update",
                                        "body": { "title": "changed" } }] });
    assert_eq!(api.post("/v1/tasks/batch", &change).await.0, 200);
    let path = format!("/v1/tasks/{id}?as_of=4500");
    until("the past has its kept row", async || {
        let now = api.get(&format!("/v1/tasks/{id}")).await.1;
        now["title"] == "changed" && api.get(&path).await.1["title"] == "kept"
    })
    .await;

    let (database, connection) =
        tokio_postgres::connect(&product.postgres_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let key = id.parse::<Uuid>().unwrap();
    let spoil = "UPDATE past.tasks SET doc = replace(doc, 'kept', 'fake') WHERE key = $1";
    assert_eq!(database.execute(spoil, &[&key]).await.unwrap(), 1);
    let (status, problem) = api.get(&path).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem["detail"].as_str().unwrap().contains("tasks"), "{problem}");
    // The model is made anew by itself, with its past.
    until("the past is mended", async || {
        let (status, task) = api.get(&path).await;
        status == StatusCode::OK && task["title"] == "kept"
    })
    .await;
}
