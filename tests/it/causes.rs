//! Because of what something happened, and what came of it: `GET /v1/time/why` and
//! `taffrail why`.

use async_nats::HeaderMap;
use broker::subject;
use domain::{StreamType, TenantId};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::{Api, queue};
use crate::support::until;

const TYPES: [&str; 4] = ["task.submitted", "task.assigned", "task.started", "task.completed"];

/// A task that is done by an agent: its id, the agent's, and the id of the request.
async fn done(api: &Api) -> (String, String, String) {
    let queue = queue();
    let name = format!("why-{}", Uuid::new_v4().simple());
    let agent = api.post("/v1/agents", json!({ "name": name })).await;
    let agent: Value = agent.json().await.unwrap();
    let request = Uuid::new_v4();
    let body = json!({ "title": "say \"why\"", "queue": queue });
    let task = api.ask(Method::POST, "/v1/tasks").header("x-request-id", request.to_string());
    let task = task.json(&body).send().await.unwrap();
    assert_eq!(task.headers()["x-request-id"], *request.simple().to_string());
    let task: Value = task.json().await.unwrap();
    let claim = json!({ "agent_id": agent["id"], "max": 1, "wait_ms": 10_000 });
    let claimed = api.post(&format!("/v1/queues/{queue}/claim"), claim).await;
    let claimed: Value = claimed.json().await.unwrap();
    let token = &claimed["tasks"][0]["lease"]["token"];
    let id = task["id"].as_str().unwrap().to_owned();
    // By the agent itself, not with the claim: then nothing is recorded as its cause.
    let start = json!({ "lease_token": token });
    assert_eq!(api.post(&format!("/v1/tasks/{id}/start"), start).await.status(), 200);
    let complete = json!({ "lease_token": token, "result": 1 });
    let answer = api.post(&format!("/v1/tasks/{id}/complete"), complete).await;
    assert_eq!(answer.status(), 200);
    (id, name, request.simple().to_string())
}

fn nodes(answer: &Value) -> &Vec<Value> {
    answer["nodes"].as_array().unwrap()
}

fn of<'a>(answer: &'a Value, kind: &str) -> &'a Value {
    let found = nodes(answer).iter().find(|node| node["type"] == kind);
    found.unwrap_or_else(|| panic!("{kind} in {answer:#}"))
}

#[tokio::test]
async fn an_event_is_told_up_to_whoever_asked_and_down_to_its_effects() {
    let api = Api::new().await;
    let (task, agent, request) = done(&api).await;
    let mut whole = Value::Null;
    until("every event is explained", async || {
        whole = api.get(&format!("/v1/time/why?task={task}")).await;
        nodes(&whole).iter().any(|node| node["type"] == "task.completed")
    })
    .await;
    let [submitted, assigned, started, completed] = TYPES.map(|kind| of(&whole, kind));
    assert_eq!((&submitted["link"], &submitted["from"]), (&json!("root"), &Value::Null));
    assert_eq!(submitted["request_id"], *request);
    let credential = submitted["credential"].as_str().unwrap();
    assert!(credential.starts_with("token:") && credential.len() == 22, "{credential}");
    assert_eq!((&submitted["command"], &submitted["refused"]), (&json!("submit"), &json!(false)));
    assert_eq!(
        (&assigned["link"], &assigned["from"], &assigned["actor"], &assigned["credential"]),
        (&json!("caused"), &submitted["position"], &json!("manager:scheduler"), &Value::Null)
    );
    for by_the_agent in [started, completed] {
        assert_eq!(by_the_agent["link"], "followed");
        assert_eq!(by_the_agent["from"], assigned["position"]);
    }
    assert!(whole["names"][&task].as_str().unwrap().starts_with("TASK-"));
    assert!(nodes(&whole).iter().all(|node| node["asked"] == true && node["version"].is_u64()));

    // The last event leads up to the first, the first down to the last; by position and by id.
    for key in ["position", "event_id"] {
        let path = |node: &Value| {
            let key = node[key].as_str().map_or(node[key].to_string(), str::to_owned);
            format!("/v1/time/why?event={key}")
        };
        let up = api.get(&path(completed)).await;
        assert_eq!(of(&up, "task.submitted")["link"], "root");
        assert_eq!(of(&up, "task.assigned")["link"], "caused");
        assert_eq!(of(&up, "task.completed")["asked"], true);
        let down = api.get(&path(submitted)).await;
        let asked: Vec<_> = nodes(&down).iter().filter(|node| node["asked"] == true).collect();
        assert_eq!(asked.len(), 1);
        assert_eq!(of(&down, "task.completed")["from"], assigned["position"]);
    }
    // A shallow look says that there is more, and where.
    let place = submitted["position"].as_u64().unwrap();
    let shallow = api.get(&format!("/v1/time/why?event={place}&depth=1")).await;
    assert!(nodes(&shallow).iter().all(|node| node["type"] != "task.completed"), "{shallow:#}");
    assert!(of(&shallow, "task.assigned")["more_after"].is_u64(), "{shallow:#}");

    let by_name = api.get(&format!("/v1/time/why?agent={agent}")).await;
    assert_eq!(of(&by_name, "agent.registered")["link"], "root");

    // On the command line: as a tree, as a graph, as a document.
    let number = whole["names"][&task].as_str().unwrap().to_lowercase();
    let said = |more: &[&str]| {
        let mut arguments = vec!["why", number.as_str()];
        arguments.extend(more);
        let mut command = api.product.cli(&arguments);
        async move {
            let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        }
    };
    let tree = said(&[]).await;
    assert!(tree.contains(&format!("with {credential}, in request {request}")), "{tree}");
    assert!(tree.contains(&format!("assigned to {agent}, attempt 1")), "names, not ids: {tree}");
    for (node, kind) in [(submitted, TYPES[0]), (completed, TYPES[3])] {
        assert!(tree.contains(&format!("{}  {kind}", node["position"])), "{tree}");
        assert!(tree.contains(node["command_id"].as_str().unwrap()), "{tree}");
    }
    let dot = said(&["--dot"]).await;
    let edge = format!("n{} -> n{};", submitted["position"], assigned["position"]);
    assert!(dot.starts_with("digraph") && dot.contains(&edge), "{dot}");
    assert!(dot.contains("say \\\"why\\\""), "{dot}");
    let document: Value = serde_json::from_str(&said(&["-o", "json"]).await).unwrap();
    assert_eq!(nodes(&document).len(), nodes(&whole).len());
}

/// Sends a command over NATS as its sender says it came about.
async fn tell(api: &Api, id: Uuid, command: &str, cause: u64, body: Value) -> Value {
    let mut headers = HeaderMap::new();
    headers.insert("Taffrail-Causation-Position", cause.to_string());
    headers.insert("Taffrail-Actor", "brancher");
    let subject = subject::request(&TenantId::default_tenant(), StreamType::Task, id, command);
    let nats = api.product.nats().await;
    let answer = nats.request_with_headers(subject, headers, body.to_string().into()).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

#[tokio::test]
async fn what_has_many_effects_is_cut_with_a_way_on_and_refusals_are_effects_too() {
    let api = Api::new().await;
    let queue = queue();
    let paused = api.post(&format!("/v1/queues/{queue}/pause"), json!({})).await;
    assert_eq!(paused.status(), 200);
    let first = api.submit(json!({ "title": "first", "queue": queue })).await;
    let cause = first["position"].as_u64().unwrap();
    let mut last = 0;
    for n in 0..30 {
        let body = json!({ "title": format!("effect {n}"), "queue": queue });
        let outcome = tell(&api, Uuid::new_v4(), "submit", cause, body).await;
        assert_eq!(outcome["status"], "accepted", "{outcome}");
        last = outcome["position"].as_u64().unwrap();
    }
    let refused = tell(&api, Uuid::new_v4(), "cancel", cause, json!({})).await;
    assert_eq!(refused["status"], "refused", "{refused}");
    let path = format!("/v1/time/why?event={cause}");
    let mut whole = Value::Null;
    until("the last effect is there", async || {
        whole = api.get(&path).await;
        // The refusal has the same position, and its own way into the answer.
        let refused = nodes(&whole).iter().any(|node| node["refused"] == true);
        refused && nodes(&whole).iter().any(|n| n["position"] == last && n["refused"] == false)
    })
    .await;
    let effects: Vec<&Value> = nodes(&whole).iter().filter(|n| n["from"] == cause).collect();
    assert_eq!(effects.len(), 31, "{whole:#}");
    let no = effects.iter().find(|node| node["refused"] == true).unwrap();
    assert_eq!((&no["type"], &no["actor"]), (&json!("task.cancel"), &json!("brancher")));
    assert_eq!(no["command_id"], refused["command_id"]);
    assert!(no["problem"]["detail"].is_string() && no["event_id"].is_null());

    // Page by page, each effect once.
    let (mut seen, mut after, mut pages) = (Vec::new(), 0, 0);
    loop {
        let part = api.get(&format!("{path}&limit=12&after={after}")).await;
        assert!(nodes(&part).len() <= 12);
        let below = nodes(&part).iter().filter(|node| node["from"] == cause);
        seen.extend(below.map(|node| node["command_id"].clone()));
        let own = nodes(&part).iter().find(|node| node["position"] == cause).unwrap();
        pages += 1;
        assert!(pages < 10, "it comes to an end");
        match own["more_after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let mut unique = seen.clone();
    unique.sort_by_key(Value::to_string);
    unique.dedup();
    assert_eq!((unique.len(), pages), (31, 3), "{seen:?}");

    // A sender may claim what it wants: what comes later caused nothing.
    let body = json!({ "title": "prophet", "queue": queue });
    let outcome = tell(&api, Uuid::new_v4(), "submit", 1 << 40, body).await;
    let place = outcome["position"].as_u64().unwrap();
    let mut told = Value::Null;
    until("it is explained", async || {
        let answer = api.ask(Method::GET, &format!("/v1/time/why?event={place}"));
        told = answer.send().await.unwrap().json().await.unwrap();
        told["nodes"].is_array()
    })
    .await;
    assert_eq!(
        (&told["nodes"][0]["link"], &told["nodes"][0]["from"]),
        (&json!("beyond"), &Value::Null)
    );
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_by_its_field() {
    let api = Api::new().await;
    api.submit(json!({ "title": "so that there is a log", "queue": queue() })).await;
    // Where the read model is behind the log, that is the answer.
    let patient = |query: &str| {
        let head = api.get("/v1/events?limit=1");
        let asked = format!("/v1/time/why?{query}");
        let api = &api;
        async move {
            let head = head.await["position"].to_string();
            let asked = api.ask(Method::GET, &asked).header("taffrail-min-position", head);
            asked.header("prefer", "wait=10").send().await.unwrap()
        }
    };
    let id = Uuid::new_v4();
    for (query, status, field) in [
        ("event=0".to_owned(), 400, "/query/event"),
        ("event=-1".into(), 400, "/query/event"),
        ("event=9000000000".into(), 400, "/query/event"),
        ("event=9223372036854775808".into(), 400, "/query/event"),
        ("event=soon".into(), 400, "/query/event"),
        ("event=".into(), 400, "/query/event"),
        (String::new(), 400, "/query/event"),
        (format!("event=1&task={id}"), 400, "/query/task"),
        (format!("task={id}&agent={id}"), 400, "/query/agent"),
        ("event=1&depth=0".into(), 400, "/query/depth"),
        ("event=1&depth=65".into(), 400, "/query/depth"),
        ("event=1&limit=0".into(), 400, "/query/limit"),
        ("event=1&limit=1001".into(), 400, "/query/limit"),
        ("event=1&after=-1".into(), 400, "/query/after"),
        (format!("task={id}&after=1"), 400, "/query/after"),
        ("task=TASK-x".into(), 400, "/query/task"),
        ("events=1".into(), 400, "/query/events"),
        (format!("event={id}"), 404, ""),
        (format!("task={id}"), 404, ""),
        (format!("agent={id}"), 404, ""),
        ("agent=nobody-is-called-so".into(), 404, ""),
        ("agent=%00".into(), 400, "/query/agent"),
    ] {
        let mut answer = patient(&query).await;
        // Other tests' events come in between; then it is asked again.
        while answer.status() == 503 {
            answer = patient(&query).await;
        }
        let got = answer.status();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(got, status, "{query}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"].as_str().unwrap_or_default(), field, "{query}");
    }
    for (subject, word) in [
        ("nobody-is-called-so", "such agent"),
        (&*id.to_string(), "no task, no agent, no event"),
        ("0", "positions begin at 1"),
        ("-1", "must be a position"),
    ] {
        until(subject, async || {
            let mut command = api.product.cli(&["why", subject]);
            let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!out.status.success(), "{subject}");
            assert!(said.contains(word) || said.contains("not come that far"), "{said}");
            said.contains(word)
        })
        .await;
    }
}

#[tokio::test]
async fn whatever_a_manager_does_names_an_earlier_event_as_its_cause() {
    let api = Api::new().await;
    // Something for the scheduler, the schedules, the operations and the lifecycle's manager.
    let (_, agent, _) = done(&api).await;
    let queue = queue();
    let schedule = json!({
        "name": format!("cause-{}", Uuid::new_v4().simple()),
        "interval_ms": 1_000,
        "task": { "title": "tick", "queue": queue },
    });
    let made = api.post("/v1/schedules", schedule).await;
    assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
    let made: Value = made.json().await.unwrap();
    let path = format!("/v1/agents?q={agent}");
    let id = api.get(&path).await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(api.post(&format!("/v1/agents/{id}/drain"), json!({})).await.status(), 202);
    assert_eq!(api.post(&format!("/v1/queues/{queue}/purge"), json!({})).await.status(), 202);
    let (client, connection) =
        tokio_postgres::connect(&api.product.postgres_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let managers = "SELECT DISTINCT actor FROM events WHERE actor LIKE 'manager:%'";
    until("the managers have worked", async || {
        let rows = client.query(managers, &[]).await.unwrap();
        let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        ["schedules", "scheduler", "operations"]
            .iter()
            .all(|name| seen.contains(&format!("manager:{name}")))
    })
    .await;
    let schedule = made["id"].as_str().unwrap();
    let gone = api.ask(Method::DELETE, &format!("/v1/schedules/{schedule}")).send().await.unwrap();
    assert!(gone.status().is_success());
    // Whatever other tests made them do is looked at too.
    let rows = client
        .query(
            "SELECT DISTINCT actor, stream_type || '.' || event_type FROM events
             WHERE actor LIKE 'manager:%'
               AND (causation_position IS NULL OR causation_position >= position)",
            &[],
        )
        .await
        .unwrap();
    let without: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(without.is_empty(), "{without:?}");
}
