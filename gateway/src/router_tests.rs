//! The routes as a whole, in front of a database that is not there.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use broker::subject::AgentWord;
use commands::{AgentWire, Boxed, Claims, Clock, CommandEnvelope, Executor, Ids, Observation};
use domain::frame::Listen;
use domain::task::{Assignment, ClaimTasks, Claimed};
use domain::{AgentId, Json, Outcome, OutcomeEvent, Problem, Status, TenantId};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::app::{AgentDoor, AgentLogs, Doors, ForAgent, Heartbeats, Limits, LogStream};
use crate::auth::{TokenRow, TokenSource, Tokens};

const TOKEN: &str = "secret";

/// Accepts everything, and the same command id once only.
#[derive(Default)]
struct Yes(Mutex<Vec<CommandEnvelope>>);

impl Executor for Yes {
    fn execute(&self, command: CommandEnvelope) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let mut seen = self.0.lock();
        let outcome = Outcome {
            status: Status::Accepted,
            command_id: command.command_id,
            stream_id: command.stream_id,
            version: 1,
            position: 7,
            events: vec![OutcomeEvent { kind: command.command.name().into(), position: 7 }],
            problem: None,
            original: None,
            retry_after_ms: None,
        };
        let before = seen.iter().find(|known| known.command_id == command.command_id);
        let answer = match before {
            Some(known) if known.fingerprint == command.fingerprint => {
                Outcome::duplicate_of(outcome)
            }
            Some(_) => Outcome {
                status: Status::Refused,
                problem: Some(Problem::new(domain::Code::IdempotencyMismatch, "")),
                ..outcome
            },
            None => outcome,
        };
        seen.push(command);
        Box::pin(async move { answer })
    }
}

struct Nobody;

impl Claims for Nobody {
    fn claim(&self, _: TenantId, _: String, _: ClaimTasks) -> Boxed<Result<Claimed, Problem>> {
        Box::pin(async { panic!("a secret detail of a bug") })
    }
}

impl AgentWire for Nobody {
    fn listens(&self, _: TenantId, _: AgentId) -> Boxed<bool> {
        Box::pin(async { false })
    }
    fn push(&self, _: TenantId, _: AgentId, _: Assignment) -> Boxed<bool> {
        Box::pin(async { false })
    }
    fn control(&self, _: TenantId, _: AgentId, _: &'static str) -> Boxed<()> {
        Box::pin(async {})
    }
    fn observed(&self, _: &TenantId, _: AgentId) -> Option<Observation> {
        None
    }
}

impl AgentLogs for Nobody {
    fn open(&self, _: TenantId, _: AgentId, _: Option<u64>) -> Boxed<Result<LogStream, Problem>> {
        let lines = futures::StreamExt::boxed(futures::stream::empty());
        Box::pin(async { Ok(LogStream { kept: 0, lines }) })
    }
}

impl AgentDoor for Nobody {
    fn answered(&self, _: TenantId, _: AgentId) -> Boxed<bool> {
        Box::pin(async { false })
    }
    fn listen(
        &self,
        _: TenantId,
        _: AgentId,
        _: Vec<Listen>,
    ) -> Boxed<Result<futures::stream::BoxStream<'static, ForAgent>, Problem>> {
        Box::pin(async { Ok(futures::StreamExt::boxed(futures::stream::empty())) })
    }
    fn say(&self, _: TenantId, _: AgentId, _: AgentWord, _: Json) -> Boxed<()> {
        Box::pin(async {})
    }
    fn here(&self, _: String) -> Boxed<()> {
        Box::pin(async {})
    }
}

impl Heartbeats for Nobody {
    fn beat(&self, _: TenantId, _: AgentId, body: Json) -> Boxed<Result<Json, Problem>> {
        Box::pin(async { Ok(body) })
    }
}

struct OneToken;

impl TokenSource for OneToken {
    fn load(&self) -> Boxed<Result<Vec<TokenRow>, store::StoreError>> {
        let row = TokenRow {
            digest: Tokens::digest(TOKEN),
            tenant: TenantId::default_tenant(),
            principal: "me".into(),
            role: "admin".into(),
        };
        Box::pin(async move { Ok(vec![row]) })
    }
}

/// Decides nothing before it may.
struct Held(Arc<tokio::sync::Semaphore>, Arc<Yes>);

impl Executor for Held {
    fn execute(&self, command: CommandEnvelope) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let (may, then) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            may.acquire().await.expect("never closed").forget();
            then.execute(command).await
        })
    }
}

fn gateway() -> Router {
    gateway_of(Arc::new(Yes::default()), Limits::default())
}

fn gateway_of(executor: Arc<dyn Executor>, limits: Limits) -> Router {
    let url = "postgres://nobody@127.0.0.1:1/none";
    let pool = store::connect_pool(url, 1).expect("a pool that connects when it is asked");
    let reader =
        store::Reader { log: store::Log::new(pool.clone(), url), feed: store::Feed::at(0) };
    router(App::new(Doors {
        executor,
        claims: Arc::new(Nobody),
        wire: Arc::new(Nobody),
        heartbeats: Arc::new(Nobody),
        logs: Arc::new(Nobody),
        agents: Arc::new(Nobody),
        queries: projections::Queries::new(pool, projections::Progress::default()),
        reader,
        ids: Ids,
        clock: Clock::read_at("2026-01-01T00:00:00Z".parse().expect("a time")),
        tokens: Tokens::new(OneToken),
        health: crate::Health::default(),
        metrics: crate::Metrics::default(),
        limits,
    }))
}

struct Answered {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    json: Value,
}

async fn ask(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        request = request.header("authorization", format!("Bearer {TOKEN}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_LENGTH, body.len());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).expect("a request");
    let response = router.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 8 << 20).await.expect("a body");
    let json = serde_json::from_slice(&bytes).unwrap_or_default();
    Answered { status: parts.status, headers: parts.headers, json }
}

fn slug(answer: &Answered) -> &str {
    answer.json["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

#[tokio::test]
async fn every_documented_path_is_served_under_both_bases() {
    let router = gateway();
    let document = serde_json::to_value(openapi::document()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 30, "{}", paths.len());
    for (path, item) in paths {
        let concrete = path
            .replace("{id}", "018f0000-0000-7000-8000-000000000001")
            .replace("{task_id}", "018f0000-0000-7000-8000-000000000001")
            .replace("{command}", "nonsense")
            .replace("{queue}", "default")
            .replace("{model}", "nonsense")
            .replace("{type}", "nonsense");
        let bases: &[&str] = if path.starts_with("/v1") { &["", "/api"] } else { &[""] };
        for base in bases {
            // A method that no route has tells whether there is one, and runs no handler.
            let url = format!("{base}{concrete}");
            let answer = ask(&router, Method::TRACE, &url, &[], "").await;
            assert_eq!(answer.status, 405, "{url}: {}", answer.json);
            let allow = answer.headers[header::ALLOW].to_str().expect("text").to_lowercase();
            for method in item.as_object().expect("operations").keys() {
                assert!(allow.contains(method.as_str()), "{method} {url}: {allow}");
            }
        }
    }
    let contract = [
        "/v1/tasks",
        "/v1/tasks/{id}",
        "/v1/tasks/{id}/{command}",
        "/v1/tasks/batch",
        "/v1/tasks/{id}/why",
        "/v1/tasks/{id}/events",
        "/v1/tasks/{id}/children",
        "/v1/queues/{queue}/claim",
        "/v1/queues",
        "/v1/queues/{queue}",
        "/v1/dead-letters",
        "/v1/dead-letters/{task_id}/requeue",
        "/v1/agents",
        "/v1/agents/{id}",
        "/v1/agents/{id}/{command}",
        "/v1/agents/{id}/heartbeat",
        "/v1/operations",
        "/v1/operations/{id}",
        "/v1/operations/{id}/cancel",
        "/v1/operations/{id}/events",
        "/v1/events",
        "/v1/events/stream",
        "/v1/ws",
        "/v1/audit",
        "/v1/metrics",
        "/metrics",
        "/livez",
        "/readyz",
        "/healthz",
        "/version",
        "/openapi.json",
        "/asyncapi.json",
        "/v1/schemas/{type}",
        "/v1/replay",
        "/v1/projections",
        "/v1/projections/{model}/rebuild",
        "/v1/projections/{model}/rollback",
        "/v1/projections/{model}/previous",
    ];
    for path in contract {
        assert!(paths.contains_key(path), "{path} is not documented");
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    let document = serde_json::to_value(openapi::document()).expect("JSON");
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn nobody_comes_in_without_a_token() {
    let router = gateway();
    for headers in [[("authorization", "")], [("authorization", "Bearer wrong")]] {
        let answer = ask(&router, Method::GET, "/v1/tasks", &headers, "").await;
        assert_eq!((answer.status.as_u16(), slug(&answer)), (401, "unauthorized"));
        assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
    }
    let open = ask(&router, Method::GET, "/version", &[("authorization", "")], "").await;
    assert_eq!(open.status, 200);
}

#[tokio::test]
async fn a_creation_answers_with_its_place_version_and_position() {
    let router = gateway();
    let answer = ask(&router, Method::POST, "/v1/tasks", &[], r#"{"title":"t"}"#).await;
    assert_eq!(answer.status, 201, "{}", answer.json);
    let id = answer.json["id"].as_str().expect("an id");
    assert_eq!(answer.headers[header::LOCATION], format!("/v1/tasks/{id}"));
    assert_eq!(answer.headers[header::ETAG], "\"1\"");
    assert_eq!(answer.headers["taffrail-log-position"], "7");
    assert_eq!((&answer.json["version"], &answer.json["position"]), (&json!(1), &json!(7)));
}

#[tokio::test]
async fn a_key_makes_one_command_of_many_requests() {
    let router = gateway();
    let key = [("idempotency-key", "\"k\"")];
    let body = r#"{"title":"t"}"#;
    let first = ask(&router, Method::POST, "/v1/tasks", &key, body).await;
    let again = ask(&router, Method::POST, "/api/v1/tasks", &key, r#"{ "title": "t" }"#).await;
    assert_eq!((again.status, &again.json["id"]), (first.status, &first.json["id"]));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let other = ask(&router, Method::POST, "/v1/tasks", &key, r#"{"title":"u"}"#).await;
    assert_eq!((other.status.as_u16(), slug(&other)), (422, "idempotency-mismatch"));
}

#[tokio::test]
async fn a_batch_answers_each_of_its_commands() {
    let router = gateway();
    let id = "018f0000-0000-7000-8000-000000000001";
    let body = json!({
        "commands": [
            { "type": "task", "id": id, "command": "cancel" },
            { "command": "cancl", "id": id },
            { "command": "cancel" },
            { "command": "expire_lease", "id": id, "body": { "lease_token": 1 } },
        ],
        "items": [{ "title": "t" }, { "titel": "t" }],
    });
    let answer = ask(&router, Method::POST, "/v1/tasks/batch", &[], &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let outcomes = answer.json["outcomes"].as_array().expect("outcomes");
    let statuses: Vec<_> = outcomes.iter().map(|o| o["status"].as_str().expect("one")).collect();
    let expected = ["accepted", "invalid", "invalid", "invalid", "accepted", "invalid"];
    assert_eq!(statuses, expected);
    for body in [json!({}), json!({ "items": vec![json!({ "title": "t" }); 1_001] })] {
        let answer = ask(&router, Method::POST, "/v1/tasks/batch", &[], &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), slug(&answer)), (400, "invalid-body"));
    }
}

#[tokio::test]
async fn a_bug_is_a_problem_without_its_details() {
    let router = gateway();
    let body = json!({ "agent_id": "018f0000-0000-7000-8000-000000000001" }).to_string();
    let answer = ask(&router, Method::POST, "/v1/queues/default/claim", &[], &body).await;
    assert_eq!((answer.status.as_u16(), slug(&answer)), (500, "internal"));
    assert!(!answer.json.to_string().contains("secret"), "{}", answer.json);
    assert!(answer.json["trace_id"].as_str().is_some_and(|id| id.len() == 32));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let router = gateway();
    let answer = ask(&router, Method::GET, "/v1/tasks", &[], "").await;
    assert_eq!((answer.status.as_u16(), slug(&answer)), (503, "unavailable"));
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn the_page_of_the_documentation_comes_out_of_the_binary() {
    let router = gateway();
    for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/openapi.json", "/asyncapi.json"] {
        let answer = ask(&router, Method::GET, path, &[("authorization", "")], "").await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let schema = ask(&router, Method::GET, "/v1/schemas/task.submitted", &[], "").await;
    assert_eq!(schema.json["properties"]["title"]["type"], "string", "{}", schema.json);
    let problem = ask(&router, Method::GET, "/v1/schemas/task.submited", &[], "").await;
    assert!(problem.json["detail"].as_str().is_some_and(|d| d.contains("task.submitted")));
}

#[tokio::test]
async fn the_surplus_is_turned_away_and_nothing_accepted_is_lost() {
    let (may, decided) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(Yes::default()));
    let held = Held(may.clone(), decided.clone());
    let router = gateway_of(Arc::new(held), Limits { commands: 3, ..Limits::default() });
    let many = (0..20).map(|_| {
        let router = router.clone();
        tokio::spawn(async move {
            ask(&router, Method::POST, "/v1/tasks", &[], r#"{"title":"t"}"#).await
        })
    });
    let many: Vec<_> = many.collect();
    // Reads, claims and heartbeats need no seat.
    let read = ask(&router, Method::GET, "/version", &[], "").await;
    assert_eq!(read.status, 200);
    let beat = "/v1/agents/018f0000-0000-7000-8000-000000000001/heartbeat";
    let beat = ask(&router, Method::POST, beat, &[], "{}").await;
    assert_ne!(slug(&beat), "busy");
    let (mut created, mut refused) = (0, 0);
    let mut answers: futures::stream::FuturesUnordered<_> = many.into_iter().collect();
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        let answer = answer.expect("no panic");
        if answer.status == 201 {
            created += 1;
            continue;
        }
        refused += 1;
        assert_eq!((answer.status.as_u16(), slug(&answer)), (503, "busy"), "{}", answer.json);
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert!(answer.json["trace_id"].is_string(), "{}", answer.json);
        if refused == 17 {
            may.add_permits(1_000);
        }
    }
    assert_eq!((created, refused), (3, 17));
    assert_eq!(decided.0.lock().len(), 3, "what was accepted was decided, and nothing else");
    let next = ask(&router, Method::POST, "/v1/tasks", &[], r#"{"title":"t"}"#).await;
    assert_eq!(next.status, 201, "the seats are free again");
    let figures = router
        .clone()
        .oneshot(Request::builder().uri("/metrics").body(Body::empty()).expect("a request"));
    let figures = figures.await.expect("an answer").into_body();
    let figures = axum::body::to_bytes(figures, 1 << 20).await.expect("a body");
    let figures = String::from_utf8_lossy(&figures).into_owned();
    for line in [
        "taffrail_http_refusals_total{code=\"busy\"} 17",
        "taffrail_http_commands{place=\"seated\"} 0",
        "taffrail_http_commands{place=\"waiting\"} 0",
        // The one that asks.
        "taffrail_http_requests_under_way 1",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} in\n{figures}");
    }
}

#[tokio::test]
async fn a_body_that_is_slow_to_come_keeps_nobody_out() {
    let router = gateway_of(Arc::new(Yes::default()), Limits { commands: 1, ..Limits::default() });
    let (send, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body = futures::stream::unfold(body, |mut body| async {
        body.recv().await.map(|chunk| (chunk, body))
    });
    let slow = Request::builder()
        .method(Method::POST)
        .uri("/v1/tasks")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header(header::TRANSFER_ENCODING, "chunked")
        .body(Body::from_stream(body))
        .expect("a request");
    send.send(Ok(bytes::Bytes::from_static(br#"{"title""#))).await.expect("room");
    let slow = tokio::spawn(router.clone().oneshot(slow));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let quick = ask(&router, Method::POST, "/v1/tasks", &[], r#"{"title":"t"}"#).await;
    assert_eq!(quick.status, 201, "{}", quick.json);
    send.send(Ok(bytes::Bytes::from_static(br#":"t"}"#))).await.expect("room");
    drop(send);
    assert_eq!(slow.await.expect("no panic").expect("an answer").status(), 201);
}
