//! The public API over HTTP, against the whole product.

use std::time::Duration;

use domain::ids::TenantId;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::support::{self, Product};

/// Asks the product, as the holder of its first token.
pub(crate) struct Api {
    pub(crate) product: &'static Product,
    http: support::Api,
}

impl Api {
    pub(crate) async fn new() -> Self {
        let product = support::product().await;
        Self { product, http: support::Api::new(&product.http, &product.token) }
    }

    /// The same product, asked under another token.
    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { http: support::Api::new(&self.product.http, token), ..self }
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, path)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.ask(Method::POST, path).json(&body).send().await.unwrap()
    }

    /// Submits a task that no agent of another test takes.
    pub(crate) async fn submit(&self, body: Value) -> Value {
        let answer = self.post("/v1/tasks", body).await;
        assert_eq!(answer.status(), 201);
        answer.json().await.unwrap()
    }
}

pub(crate) fn queue() -> String {
    format!("q-{}", Uuid::new_v4().simple())
}

pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn a_created_task_is_read_at_the_place_that_was_handed_out() {
    let api = Api::new().await;
    let body = json!({ "title": "read me", "queue": queue() });
    let created = api.post("/v1/tasks", body).await;
    assert_eq!(created.status(), 201);
    let (place, etag) =
        (header(&created, "location").to_owned(), header(&created, "etag").to_owned());
    let position: u64 = header(&created, "taffrail-log-position").parse().unwrap();
    let created: Value = created.json().await.unwrap();
    assert_eq!(created["position"], position);

    let read = api.ask(Method::GET, &place).send().await.unwrap();
    assert_eq!((read.status().as_u16(), header(&read, "etag")), (200, etag.as_str()));
    let reflected: u64 = header(&read, "taffrail-log-position").parse().unwrap();
    assert!(reflected >= position);
    assert!(header(&read, "taffrail-projection-lag-ms").parse::<u64>().is_ok());
    let task: Value = read.json().await.unwrap();
    assert_eq!((&task["title"], &task["state"]), (&json!("read me"), &json!("queued")));

    let known = api.ask(Method::GET, &place).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(known.status(), 304);
    // The second base serves the same.
    assert_eq!(api.get(&format!("/api{place}")).await["id"], task["id"]);
}

#[tokio::test]
async fn a_list_reflects_the_position_that_was_demanded() {
    let api = Api::new().await;
    let queue = queue();
    let mut position = 0;
    for n in 0..5 {
        let created = api.submit(json!({ "title": format!("t{n}"), "queue": queue })).await;
        position = created["position"].as_u64().unwrap();
    }
    let path = format!("/v1/tasks?queue={queue}&limit=2");
    let first =
        api.ask(Method::GET, &path).header("taffrail-min-position", position).send().await.unwrap();
    let first: Value = first.json().await.unwrap();
    assert!(first["position"].as_u64().unwrap() >= position);
    let mut titles = Vec::new();
    let mut page = first;
    loop {
        let items = page["items"].as_array().unwrap();
        titles.extend(items.iter().map(|task| task["title"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        page = api.get(&format!("{path}&cursor={next}")).await;
    }
    assert_eq!(titles, ["t4", "t3", "t2", "t1", "t0"]);
    let depth = api.get(&format!("/v1/queues/{queue}")).await;
    assert_eq!(depth["depth"], 5);

    let far = api
        .ask(Method::GET, "/v1/tasks")
        .header("taffrail-min-position", i64::MAX)
        .header("prefer", "wait=0")
        .send()
        .await
        .unwrap();
    assert_eq!((far.status().as_u16(), header(&far, "retry-after")), (503, "1"));
    let problem: Value = far.json().await.unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/not-yet-visible"));
    assert!(problem["log_position"].as_u64().is_some());
}

#[tokio::test]
async fn a_key_answers_a_repeat_with_the_first_answer() {
    let api = Api::new().await;
    let (key, queue) = (format!("\"{}\"", Uuid::new_v4()), queue());
    let send = |title: &'static str| {
        let body = json!({ "title": title, "queue": queue });
        api.ask(Method::POST, "/v1/tasks").header("idempotency-key", &key).json(&body).send()
    };
    let fifty = futures::future::join_all((0..50).map(|_| send("once"))).await;
    let mut ids = std::collections::HashSet::new();
    let mut replayed = 0;
    for answer in fifty {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 201);
        replayed += usize::from(header(&answer, "idempotency-replayed") == "true");
        ids.insert(answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((ids.len(), replayed), (1, 49));
    let other = send("twice").await.unwrap();
    assert_eq!(other.status(), 422);
    let problem: Value = other.json().await.unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/idempotency-mismatch"));
}

#[tokio::test]
async fn a_change_is_guarded_by_the_version() {
    let api = Api::new().await;
    let id = api.submit(json!({ "title": "v", "queue": queue() })).await["id"].clone();
    let path = format!("/v1/tasks/{}", id.as_str().unwrap());
    let patch = |tag: &'static str, title: &'static str| {
        let body = json!({ "title": title });
        api.ask(Method::PATCH, &path).header("if-match", tag).json(&body).send()
    };
    let first = patch("\"1\"", "w").await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "etag")), (200, "\"2\""));
    assert_eq!(patch("\"1\"", "x").await.unwrap().status(), 412);
    assert_eq!(patch("W/\"2\"", "x").await.unwrap().status(), 412);
    assert_eq!(patch("nonsense", "x").await.unwrap().status(), 400);
    let shown = api
        .ask(Method::PATCH, &path)
        .header("prefer", "return=representation")
        .json(&json!({ "title": "y" }))
        .send()
        .await
        .unwrap();
    assert_eq!(header(&shown, "preference-applied"), "return=representation");
    assert_eq!(shown.json::<Value>().await.unwrap()["title"], "y");
    let archived = api.ask(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(archived.status(), 200);
}

#[tokio::test]
async fn a_refusal_names_what_the_state_allows() {
    let api = Api::new().await;
    let id = api.submit(json!({ "title": "r", "queue": queue() })).await["id"].clone();
    let path = format!("/v1/tasks/{}/approve", id.as_str().unwrap());
    let refused = api.post(&path, json!({})).await;
    assert_eq!(
        (refused.status().as_u16(), header(&refused, "content-type")),
        (422, "application/problem+json")
    );
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/illegal-transition"));
    assert_eq!(problem["state"], "queued");
    assert!(problem["allowed"].as_array().unwrap().contains(&json!("cancel")));
    assert!(problem["trace_id"].as_str().is_some());
    let missing = format!("/v1/tasks/{}/cancel", Uuid::new_v4());
    assert_eq!(api.post(&missing, json!({})).await.status(), 404);
}

#[tokio::test]
async fn an_agent_claims_works_and_completes_over_http() {
    let api = Api::new().await;
    let queue = queue();
    let name = format!("agent-{}", Uuid::new_v4().simple());
    let agent = api.post("/v1/agents", json!({ "name": name })).await;
    assert_eq!(agent.status(), 201);
    let agent: Value = agent.json().await.unwrap();
    let taken = api.post("/v1/agents", json!({ "name": name })).await;
    assert_eq!(taken.status(), 409);

    let task = api.submit(json!({ "title": "work", "queue": queue, "payload": { "n": 1 } })).await;
    let claim = json!({ "agent_id": agent["id"], "max": 1, "wait_ms": 10_000 });
    let claimed = api.post(&format!("/v1/queues/{queue}/claim"), claim).await;
    assert_eq!(claimed.status(), 200);
    let claimed: Value = claimed.json().await.unwrap();
    let assignment = &claimed["tasks"][0];
    assert_eq!((&assignment["task_id"], &assignment["payload"]["n"]), (&task["id"], &json!(1)));

    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let token = assignment["lease"]["token"].as_u64().unwrap();
    let started = api.post(&format!("{path}/start"), json!({ "lease_token": token })).await;
    assert_eq!(started.status(), 200);
    let stale = api.post(&format!("{path}/complete"), json!({ "lease_token": token + 1 })).await;
    assert_eq!(stale.status(), 422);
    let done = json!({ "lease_token": token, "result": { "ok": true } });
    let done: Value = api.post(&format!("{path}/complete"), done).await.json().await.unwrap();
    let shown = api
        .ask(Method::GET, &path)
        .header("taffrail-min-position", done["position"].as_u64().unwrap())
        .send()
        .await
        .unwrap();
    let shown: Value = shown.json().await.unwrap();
    assert_eq!((&shown["state"], &shown["result"]["ok"]), (&json!("done"), &json!(true)));
    let events = api.get(&format!("{path}/events")).await;
    let types: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(types.first(), Some(&"dev.taffrail.task.submitted.v1"));
    assert_eq!(types.last(), Some(&"dev.taffrail.task.completed.v1"));
    assert_eq!(api.get(&format!("{path}/why")).await["reasons"][0]["code"], "ended");
}

#[tokio::test]
async fn long_work_is_an_operation() {
    let api = Api::new().await;
    let name = format!("agent-{}", Uuid::new_v4().simple());
    let agent: Value = api.post("/v1/agents", json!({ "name": name })).await.json().await.unwrap();
    let path = format!("/v1/agents/{}", agent["id"].as_str().unwrap());
    let key = format!("\"{}\"", Uuid::new_v4());
    let drain = || {
        let request = api.ask(Method::POST, &format!("{path}/drain"));
        request.header("idempotency-key", &key).json(&json!({})).send()
    };
    let accepted = drain().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let place = header(&accepted, "location").to_owned();
    assert_eq!(header(&accepted, "retry-after"), "1");
    let body: Value = accepted.json().await.unwrap();
    assert_eq!(place, format!("/v1/operations/{}", body["operation_id"].as_str().unwrap()));
    let state = async {
        loop {
            let operation = api.get(&place).await;
            if matches!(operation["state"].as_str(), Some("succeeded" | "failed")) {
                return operation["state"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let state = tokio::time::timeout(Duration::from_secs(20), state).await.unwrap();
    assert_eq!(state, "succeeded");
    // A repeat names the same operation, though the agent could not be drained again.
    let again = drain().await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "location")), (202, place.as_str()));
    // What the rules refuse is refused at once.
    let missing = format!("/v1/agents/{}/drain", Uuid::new_v4());
    assert_eq!(api.post(&missing, json!({})).await.status(), 404);
    assert_eq!(api.post(&format!("{path}/hibernate"), json!({})).await.status(), 422);
}

#[tokio::test]
async fn whoever_waits_for_an_operation_gets_its_answer_in_line() {
    let api = Api::new().await;
    let body = json!({ "title": "later", "queue": queue() });
    let request = api.ask(Method::POST, "/v1/tasks").json(&body);
    let answer = request.header("prefer", "respond-async, wait=20").send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "preference-applied"), "respond-async");
    let request = api.ask(Method::POST, "/v1/tasks").json(&body);
    let answer = request.header("prefer", "respond-async").send().await.unwrap();
    assert_eq!(answer.status(), 202);
}

#[tokio::test]
async fn long_work_is_answered_in_line_to_whoever_waits_long_enough() {
    let api = Api::new().await;
    let name = format!("waiting-{}", Uuid::new_v4());
    let agent = api.post("/v1/agents", json!({ "name": name })).await;
    let path = format!("{}/drain", header(&agent, "location"));
    let drain = |wait: &'static str| {
        api.ask(Method::POST, &path).json(&json!({})).header("prefer", wait).send()
    };
    let answer = drain("wait=20").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "preference-applied"), "wait");
    let missing = format!("/v1/agents/{}/drain", Uuid::new_v4());
    let missing = api.ask(Method::POST, &missing).json(&json!({})).header("prefer", "wait=1");
    assert_eq!(missing.send().await.unwrap().status(), 404);
    let rebuild = api.ask(Method::POST, "/v1/projections/metrics/rebuild").json(&json!({}));
    let answer = rebuild.header("prefer", "wait=0").send().await.unwrap();
    assert_eq!(answer.status(), 202, "no time to wait");
}

#[tokio::test]
async fn a_key_names_the_same_command_however_the_answer_is_preferred() {
    let api = Api::new().await;
    let body = json!({ "title": "once", "queue": queue() });
    let send = |key: &str, prefer: &'static str| {
        let request = api.ask(Method::POST, "/v1/tasks").json(&body);
        request.header("idempotency-key", key).header("prefer", prefer).send()
    };
    let fresh = || format!("\"{}\"", Uuid::new_v4());
    // Decided at first: a repeat that asks for an operation gets the answer that is there.
    let key = fresh();
    let first: Value = send(&key, "").await.unwrap().json().await.unwrap();
    let again = send(&key, "respond-async").await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (201, "true"));
    assert_eq!(again.json::<Value>().await.unwrap(), first);
    // An operation at first: a repeat that waits gets what it came to.
    let key = fresh();
    let first = send(&key, "respond-async, wait=20").await.unwrap();
    assert_eq!(first.status(), 201);
    let vary: Vec<_> = first.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["prefer"]);
    let first: Value = first.json().await.unwrap();
    let again = send(&key, "").await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (201, "true"));
    assert_eq!(again.json::<Value>().await.unwrap(), first);
}

#[tokio::test]
async fn a_read_tells_its_place_also_where_nothing_is_found() {
    let api = Api::new().await;
    let created = api.submit(json!({ "title": "here", "queue": queue() })).await;
    let id = created["id"].as_str().unwrap();
    let missing = format!("/v1/tasks/{}", Uuid::new_v4());
    let missing = api
        .ask(Method::GET, &missing)
        .header("taffrail-min-position", created["position"].as_u64().unwrap());
    let missing = missing.send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let position: u64 = header(&missing, "taffrail-log-position").parse().unwrap();
    assert!(position >= created["position"].as_u64().unwrap());
    assert!(header(&missing, "taffrail-projection-lag-ms").parse::<u64>().is_ok());
    // The history of a task waits like any other read.
    let far = api.ask(Method::GET, &format!("/v1/tasks/{id}/events"));
    let far = far.header("taffrail-min-position", i64::MAX).header("prefer", "wait=0");
    assert_eq!(far.send().await.unwrap().status(), 503);
    let any = api.ask(Method::GET, &format!("/v1/tasks/{id}")).header("if-none-match", "*");
    let any = any.header("taffrail-min-position", position).send().await.unwrap();
    assert_eq!(any.status(), 304);
    // The id of a task is that of no agent, whoever asks.
    for path in [format!("/v1/agents/{id}/drain"), format!("/v1/agents/{id}/mark_ready")] {
        assert_eq!(api.post(&path, json!({})).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_batch_has_an_outcome_per_command() {
    let api = Api::new().await;
    let queue = queue();
    let items: Vec<_> =
        (0..1_000).map(|n| json!({ "title": format!("{n}"), "queue": queue })).collect();
    let answer = api.post("/v1/tasks/batch", json!({ "items": items })).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let outcomes = answer["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 1_000);
    assert!(outcomes.iter().all(|outcome| outcome["status"] == "accepted"));
}

#[tokio::test]
async fn the_process_tells_how_it_is() {
    let api = Api::new().await;
    let open = |path: &str| {
        let url = format!("{}{path}", api.product.http);
        api.http.client.get(url).send()
    };
    for path in
        ["/livez", "/readyz", "/healthz", "/version", "/openapi.json", "/asyncapi.json", "/docs/"]
    {
        assert_eq!(open(path).await.unwrap().status(), 200, "{path}");
    }
    let metrics = open("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("taffrail_http_requests_total{status=\"2xx\"}"), "{metrics}");
    for path in [
        "/v1/metrics",
        "/v1/audit",
        "/v1/queues",
        "/v1/dead-letters",
        "/v1/operations",
        "/v1/agents",
    ] {
        let answer = api.get(path).await;
        assert!(answer.is_object(), "{path}");
    }
    let tenant = TenantId::default_tenant().to_string();
    let named = api.ask(Method::GET, "/v1/tasks").header("taffrail-tenant", &tenant);
    assert_eq!(named.send().await.unwrap().status(), 200);
    let foreign = api.ask(Method::GET, "/v1/tasks").header("taffrail-tenant", "acme");
    assert_eq!(foreign.send().await.unwrap().status(), 404);
}
