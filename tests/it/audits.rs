//! The audit: by credential, request and command, refusals too; as a file while events arrive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::http::{Api, header, queue};
use crate::support::until;

fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().unwrap()
}

/// Waits for a page of so many lines.
async fn lines(api: &Api, query: &str, count: usize) -> Vec<Value> {
    let mut page = Value::Null;
    until(query, async || {
        page = api.get(&format!("/v1/audit?{query}")).await;
        items(&page).len() >= count
    })
    .await;
    assert_eq!(items(&page).len(), count, "{query}: {page:#}");
    items(&page).clone()
}

#[tokio::test]
async fn lines_are_found_by_credential_request_and_command_refusals_too() {
    let api = Api::new().await;
    let digest = Sha256::digest(api.product.token.as_bytes());
    let credential: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = format!("token:{credential}");
    let queue = queue();
    let (good, bad) = (Uuid::new_v4(), Uuid::new_v4());
    let missing = Uuid::new_v4();
    let asked = |path: String, request: Uuid, body: Value| {
        api.ask(Method::POST, &path).header("x-request-id", request.to_string()).json(&body).send()
    };
    let task = asked("/v1/tasks".into(), good, json!({ "title": "t", "queue": queue })).await;
    let task: Value = task.unwrap().json().await.unwrap();
    let refused = asked(format!("/v1/tasks/{missing}/cancel"), bad, json!({})).await.unwrap();
    assert_eq!(refused.status(), 404);
    let id = task["id"].as_str().unwrap();

    let event = lines(&api, &format!("request={}&type=task.submitted", good.simple()), 1).await;
    let event = &event[0];
    assert_eq!((&event["task_id"], &event["credential"]), (&task["id"], &json!(credential)));
    assert_eq!((&event["command"], &event["outcome"]), (&json!("submit"), &json!("event")));
    let refusal = lines(&api, &format!("request={bad}"), 1).await;
    let refusal = &refusal[0];
    assert_eq!((&refusal["outcome"], &refusal["command"]), (&json!("refused"), &json!("cancel")));
    assert_eq!(refusal["credential"], json!(credential));
    assert_eq!(refusal["request_id"], json!(bad.simple().to_string()));
    let of = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    for line in [event, refusal] {
        let (command, correlation) = (of(line, "command_id"), of(line, "correlation_id"));
        assert_eq!(lines(&api, &format!("command={command}"), 1).await, std::slice::from_ref(line));
        let found = api.get(&format!("/v1/audit?correlation={correlation}&order=oldest")).await;
        assert_eq!(items(&found)[0], *line);
        let stream = of(line, "stream_id");
        let found = api.get(&format!("/v1/audit?stream={stream}&order=oldest")).await;
        assert_eq!(items(&found)[0], *line);
        let position = line["position"].as_u64().unwrap();
        let query = format!("credential={credential}&from={position}&to={position}&limit=200");
        let found = api.get(&format!("/v1/audit?{query}")).await;
        assert!(items(&found).contains(line), "{found:#}");
    }
    // In both orders, a page of one at a time, it is the same lines.
    for filter in [format!("stream={id}"), format!("credential={credential}&stream={id}")] {
        let mut walks = Vec::new();
        for order in ["newest", "oldest"] {
            let (mut walk, mut cursor) = (Vec::new(), String::new());
            loop {
                let path = format!("/v1/audit?{filter}&order={order}&limit=1{cursor}");
                let page = api.get(&path).await;
                walk.extend(items(&page).iter().map(|line| line["position"].as_u64().unwrap()));
                match page["next"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            walks.push(walk);
        }
        walks[1].reverse();
        assert!(!walks[0].is_empty());
        assert_eq!(walks[0], walks[1], "{filter}");
    }
    assert!(lines(&api, "credential=token:0000000000000000", 0).await.is_empty());
    for (query, field) in [
        ("request=7", "/query/request"),
        ("command=7", "/query/command"),
        ("order=up", "/query/order"),
        ("format=xml", "/query/format"),
        ("format=csv&limit=1", "/query/limit"),
        ("format=jsonl&cursor=AA", "/query/cursor"),
        ("cause=-1", "/query/cause"),
        ("from=yesterday", "/query/from"),
        ("to=2026-01-01T00:00:00", "/query/to"),
    ] {
        let answer = api.ask(Method::GET, &format!("/v1/audit?{query}")).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], field);
    }
    // A cursor of one order is none of the other.
    let page = api.get("/v1/audit?limit=1").await;
    let next = page["next"].as_str().unwrap();
    let path = format!("/v1/audit?limit=1&order=oldest&cursor={next}");
    assert_eq!(api.ask(Method::GET, &path).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_refused_command_of_an_agent_is_found_by_its_cause_too() {
    let api = Api::new().await;
    let first = api.submit(json!({ "title": "cause", "queue": queue() })).await;
    let cause = first["position"].as_u64().unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Taffrail-Causation-Position", cause.to_string());
    let (agent, missing) = (Uuid::new_v4(), Uuid::new_v4());
    headers.insert("Taffrail-Actor", format!("agent:{agent}"));
    let subject = broker::subject::request(
        &domain::TenantId::default_tenant(),
        domain::StreamType::Task,
        missing,
        "cancel",
    );
    let nats = api.product.nats().await;
    let answer = nats.request_with_headers(subject, headers, "{}".into()).await.unwrap();
    let outcome: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(outcome["status"], "refused", "{outcome}");
    for query in [
        format!("cause={cause}&outcome=refused"),
        format!("agent={agent}"),
        format!("actor=agent:{agent}"),
        format!("task={missing}"),
        format!("command={}", outcome["command_id"].as_str().unwrap()),
    ] {
        let found = lines(&api, &query, 1).await;
        assert_eq!(found[0]["cause"], cause, "{query}");
        assert_eq!(found[0]["credential"], Value::Null, "it came over NATS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_every_line_of_its_range_once_while_events_arrive() {
    let api = Arc::new(Api::new().await);
    let queue = queue();
    // More than a page of the export, submitted before it begins.
    let batch = |from: usize, count: usize| {
        let items: Vec<Value> = (from..from + count)
            .map(|n| json!({ "title": format!("=cmd|' /C calc'!A{n}"), "queue": queue }))
            .collect();
        json!({ "items": items })
    };
    for from in [0, 800] {
        let answer = api.post("/v1/tasks/batch", batch(from, 800)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let arriving = tokio::spawn({
        let (api, over, queue) = (api.clone(), over.clone(), queue.clone());
        async move {
            let mut more = 0;
            while !over.load(Ordering::Relaxed) && more < 5_000 {
                api.submit(json!({ "title": "late", "queue": queue })).await;
                more += 1;
            }
            more
        }
    });
    for order in ["newest", "oldest"] {
        let path = format!("/v1/audit?format=csv&type=task.submitted&order={order}");
        let mut file = api.ask(Method::GET, &path).send().await.unwrap();
        assert!(header(&file, "content-type").starts_with("text/csv"));
        let through: u64 = header(&file, "taffrail-log-position").parse().unwrap();
        let mut text = Vec::new();
        while let Some(piece) = file.chunk().await.unwrap() {
            text.extend_from_slice(&piece);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let text = String::from_utf8(text).unwrap();
        let mut rows = text.split_terminator("\r\n");
        assert!(rows.next().unwrap().starts_with("position,outcome,type,occurred_at,actor,"));
        let places: Vec<u64> =
            rows.map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        if order == "newest" {
            sorted.reverse();
        }
        assert_eq!(places, sorted);
        let (client, connection) =
            tokio_postgres::connect(&api.product.postgres_url, tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        let rows = client
            .query(
                "SELECT position FROM events WHERE stream_type = 'task'
                 AND event_type = 'submitted' AND position <= $1",
                &[&(through as i64)],
            )
            .await
            .unwrap();
        let there: BTreeSet<u64> = rows.iter().map(|row| row.get::<_, i64>(0) as u64).collect();
        assert_eq!(places.len(), there.len(), "{order}: each once");
        assert_eq!(places.into_iter().collect::<BTreeSet<_>>(), there);
        assert!(text.contains("'=cmd") || text.contains(": =cmd"), "a title that is a formula");
        assert!(!text.contains(",=cmd") && !text.contains(",\"=cmd"), "no cell begins with it");
    }
    over.store(true, Ordering::Relaxed);
    assert!(arriving.await.unwrap() > 0, "events arrived meanwhile");

    // By the header, and by the command line into a file.
    let path = format!("/v1/audit?request={}", Uuid::new_v4());
    let none = api.ask(Method::GET, &path).header("accept", "application/x-ndjson");
    let none = none.send().await.unwrap();
    assert_eq!(header(&none, "content-type"), "application/x-ndjson");
    assert_eq!(none.text().await.unwrap(), "");
    let folder = crate::support::run_dir();
    for (name, first) in [("audit.csv", "position,outcome"), ("audit.jsonl", "{\"position\":")] {
        let file = folder.join(format!("{}-{name}", Uuid::new_v4().simple()));
        let shown = file.display().to_string();
        let arguments = ["audit", "--export", &shown, "--type", "task.submitted"];
        let mut command = api.product.cli(&arguments);
        let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with(first) && text.lines().count() > 1_600,
            "{}",
            text.lines().count()
        );
        assert!(!file.with_extension("part").exists());
    }
}
