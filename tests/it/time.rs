//! Two moments compared, and the first position at which something was true.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::http::{Api, header, queue};
use super::support::until;

/// A task that is claimed, and whose attempt fails for good where that is asked.
async fn attempt(api: &Api, queue: &str, agent: &str, fails: bool) -> String {
    let id = api.submit(json!({ "title": "try", "queue": queue, "capabilities": ["time"] })).await
        ["id"]
        .clone();
    let id = id.as_str().unwrap().to_owned();
    let claim = json!({ "agent_id": agent, "max": 1, "wait_ms": 5_000, "start": true });
    let claimed: Value =
        api.post(&format!("/v1/queues/{queue}/claim"), claim).await.json().await.unwrap();
    let token = claimed["tasks"][0]["lease"]["token"].clone();
    let (command, body) = match fails {
        true => ("fail", json!({ "lease_token": token, "error": "broken", "retryable": false })),
        false => ("complete", json!({ "lease_token": token, "result": 1 })),
    };
    let answer = api.post(&format!("/v1/tasks/{id}/{command}"), body).await;
    assert!(answer.status().is_success());
    id
}

async fn agent(api: &Api) -> String {
    let agent = json!({ "name": queue(), "capabilities": ["time"] });
    let agent: Value = api.post("/v1/agents", agent).await.json().await.unwrap();
    let id = agent["id"].as_str().unwrap().to_owned();
    api.post(&format!("/v1/agents/{id}/mark_ready"), json!({})).await;
    id
}

async fn head(api: &Api) -> u64 {
    api.get("/v1/events?limit=1").await["position"].as_u64().unwrap()
}

fn model<'a>(diff: &'a Value, name: &str) -> &'a Value {
    diff["models"].as_array().unwrap().iter().find(|one| one["model"] == name).unwrap()
}

async fn bisect(api: &Api, body: Value) -> Value {
    let answer = api.post("/v1/time/bisect", body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_different_between_two_moments_is_told_field_by_field() {
    let api = Api::new().await;
    let own = queue();
    let old = api.submit(json!({ "title": "old", "queue": own, "capabilities": ["nobody-has"], "labels": { "a": "1" } })).await;
    let (id, from) = (old["id"].as_str().unwrap(), old["position"].as_u64().unwrap());
    let profile = format!("p-{}", uuid::Uuid::new_v4().simple());
    let put = api.ask(Method::PUT, &format!("/v1/profiles/{profile}"));
    let put = put.json(&json!({ "command": ["true"] })).send().await.unwrap();
    assert!(put.status().is_success());
    let with_profile = header(&put, "taffrail-log-position").parse::<u64>().unwrap();
    let change = api.ask(Method::PATCH, &format!("/v1/tasks/{id}"));
    let changed =
        change.json(&json!({ "title": "new", "labels": { "a": "2" } })).send().await.unwrap();
    assert!(changed.status().is_success());
    let fresh =
        api.submit(json!({ "title": "fresh", "queue": own, "capabilities": ["nobody-has"] })).await;
    let gone = api.ask(Method::DELETE, &format!("/v1/profiles/{profile}")).send().await.unwrap();
    assert!(gone.status().is_success());
    let to = header(&gone, "taffrail-log-position").parse::<u64>().unwrap();

    let diff = api.get(&format!("/v1/time/diff?from={from}&to={to}&limit=200")).await;
    assert_eq!((&diff["from"]["position"], &diff["to"]["position"]), (&json!(from), &json!(to)));
    assert!(diff["events"]["task.submitted"].as_u64().unwrap() >= 1, "{diff}");
    let rows = model(&diff, "tasks")["rows"].as_array().unwrap().clone();
    let row = |id: &Value| rows.iter().find(|row| row["key"] == *id).cloned().unwrap();
    let changed = row(&old["id"]);
    assert_eq!(changed["change"], "changed");
    assert_eq!(changed["fields"]["title"], json!({ "from": "old", "to": "new" }));
    assert_eq!(changed["fields"]["labels.a"], json!({ "from": "1", "to": "2" }));
    assert!(changed["fields"].get("queue").is_none(), "what stayed is not told");
    let appeared = row(&fresh["id"]);
    assert_eq!(appeared["change"], "appeared");
    assert_eq!(appeared["fields"]["title"], json!({ "from": null, "to": "fresh" }));

    // The profile appeared and vanished in between: of that nothing is left.
    let named = |diff: &Value, change: &str| {
        let models = diff["models"].as_array().unwrap().iter();
        let rows = models.filter(|m| m["model"] == "profiles").flat_map(|m| m["rows"].as_array());
        rows.flatten().any(|r| r["change"] == change && r.to_string().contains(&profile))
    };
    assert!(!named(&diff, "appeared") && !named(&diff, "vanished"));
    let half = api.get(&format!("/v1/time/diff?from={with_profile}&to={to}")).await;
    assert!(named(&half, "vanished"), "{half}");
    let half = api.get(&format!("/v1/time/diff?from={from}&to={with_profile}")).await;
    assert!(named(&half, "appeared"), "{half}");

    // Page by page it is the same, each row once.
    let (mut paged, mut behind) = (Vec::new(), None);
    loop {
        let more = behind.map(|at: u64| format!("&behind={at}")).unwrap_or_default();
        let path = format!("/v1/time/diff?from={from}&to={to}&model=tasks&limit=1{more}");
        let page = api.get(&path).await;
        let Some(part) = page["models"].as_array().unwrap().first() else { break };
        paged.extend(part["rows"].as_array().unwrap().iter().map(|row| row["key"].clone()));
        let Some(next) = part["next"].as_u64() else { break };
        behind = Some(next);
    }
    let all: Vec<Value> = rows.iter().map(|row| row["key"].clone()).collect();
    assert_eq!(paged, all);
    let out = api.product.cli(&["diff", &from.to_string(), &to.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("title: old → new"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_position_of_a_condition_is_found_and_told_with_its_event() {
    let api = Api::new().await;
    let (own, agent) = (queue(), agent(&api).await);
    let from = head(&api).await;
    for _ in 0..3 {
        attempt(&api, &own, &agent, false).await;
    }
    let failed = attempt(&api, &own, &agent, true).await;
    attempt(&api, &own, &agent, true).await;
    let events = api.get(&format!("/v1/tasks/{failed}/events")).await;
    let events = events["items"].as_array().unwrap().clone();
    let first = events.iter().find(|e| e["type"].as_str().unwrap().contains(".failed.")).unwrap();
    let position: u64 = first["sequence"].as_str().unwrap().parse().unwrap();

    let condition = format!("row.queue == '{own}' && row.state == 'failed'");
    let asked = json!({ "model": "tasks", "condition": condition, "from": from });
    let told = bisect(&api, asked.clone()).await;
    assert_eq!(told["found"]["position"], position, "{told}");
    assert_eq!(told["event"]["sequence"], first["sequence"]);
    assert_eq!(told["found"]["row"]["key"], failed.as_str());
    // The failed attempt is an event of its own, before the end.
    assert_eq!(told["found"]["row"]["before"]["state"], "queued");
    assert_eq!(told["found"]["row"]["after"]["state"], "failed");
    assert_eq!(
        (&told["found"]["monotone"], &told["found"]["already"]),
        (&json!(true), &json!(false))
    );
    // Where no index helps it is found as well; the failed attempt told the error first.
    let attempt = events.iter().find(|e| e["type"].as_str().unwrap().contains("attempt_failed"));
    let attempt: u64 = attempt.unwrap()["sequence"].as_str().unwrap().parse().unwrap();
    let slow = json!({ "model": "tasks", "from": from,
                       "condition": format!("row.queue == '{own}' && row.error != null") });
    assert_eq!(bisect(&api, slow).await["found"]["position"], attempt);
    // Up to the position before there is nothing; behind it, it was true already.
    let mut before = asked.clone();
    before["to"] = json!(position - 1);
    assert_eq!(bisect(&api, before).await["found"]["position"], Value::Null);
    let mut behind = asked.clone();
    behind["from"] = json!(position);
    let told = bisect(&api, behind).await;
    assert_eq!(
        (&told["found"]["position"], &told["found"]["already"]),
        (&json!(position), &json!(true))
    );

    // A state that passes, while rows stay: true in the middle alone.
    let busy = format!("row.queue == '{own}' && row.state == 'in_progress'");
    let told = bisect(&api, json!({ "model": "tasks", "condition": busy, "from": from })).await;
    assert_eq!(
        told["found"]["position"],
        Value::Null,
        "shorter than a boundary: not seen, and said"
    );
    assert!(told["summary"].as_str().unwrap().contains("multiple of 4096"), "{told}");

    let out =
        api.product.cli(&["bisect", &condition, "--from", &from.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains(&format!("first true at {position}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_with_a_name_find_what_they_say() {
    let api = Api::new().await;
    let from = head(&api).await;
    // Nobody ever holds a task that somebody holds.
    let told = bisect(&api, json!({ "named": "two_holders" })).await;
    assert_eq!(told["found"]["position"], Value::Null, "{told}");
    let made = api
        .submit(json!({ "title": "waits", "queue": queue(), "capabilities": ["nobody-has"] }))
        .await;
    let made = made["position"].as_u64().unwrap();
    // Some later event must be recorded for the log's clock to go on.
    until("a task stands still for a second", async || {
        api.submit(json!({ "title": "tick", "queue": queue(), "capabilities": ["nobody-has"] }))
            .await;
        let told = bisect(&api, json!({ "named": "stuck", "for_ms": 1_000, "from": from })).await;
        told["found"]["position"].as_u64().is_some_and(|at| at > made)
            || told["found"]["already"] == true
    })
    .await;
    let above = json!({ "named": "attempts_above", "above": 1_000 });
    assert_eq!(bisect(&api, above).await["found"]["position"], Value::Null);
    let flapping = json!({ "named": "agent_flapping", "above": 1_000 });
    assert_eq!(bisect(&api, flapping).await["found"]["position"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ranges_and_conditions_are_refused_by_name() {
    let api = Api::new().await;
    api.submit(json!({ "title": "one", "queue": queue() })).await;
    api.submit(json!({ "title": "two", "queue": queue() })).await;
    for (path, pointer) in [
        ("from=2&to=1", "/query/from"),
        ("from=-1", "/query/from"),
        ("to=99999999999", "/query/to"),
        ("from=2026-01-31T12:00:00", "/query/from"),
        ("model=task", "/query/model"),
        ("behind=3", "/query/behind"),
        ("limit=0", "/query/limit"),
    ] {
        let answer = api.ask(Method::GET, &format!("/v1/time/diff?{path}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let huge = format!("row.title == '{}'", "x".repeat(2_000));
    for (body, pointer) in [
        (json!({}), "/model"),
        (json!({ "model": "tasks" }), "/condition"),
        (json!({ "model": "tasks", "condition": "row.stat == 1" }), "/condition"),
        (json!({ "model": "tasks", "condition": "other.state == 1" }), "/condition"),
        (json!({ "model": "tasks", "condition": "row.labels.all(x, x == 1)" }), "/condition"),
        (json!({ "model": "tasks", "condition": huge }), "/condition"),
        (json!({ "model": "tasks", "condition": "row.state ==" }), "/condition"),
        (json!({ "model": "audit", "condition": "row.type == 'x'" }), "/model"),
        (json!({ "named": "stuck" }), "/for_ms"),
        (json!({ "named": "attempts_above" }), "/above"),
        (json!({ "model": "tasks", "condition": "true", "from": 2, "to": 1 }), "/query/from"),
    ] {
        let answer = api.post("/v1/time/bisect", body.clone()).await;
        assert!(answer.status().is_client_error(), "{body}: {}", answer.status());
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body} {problem}");
    }
}
