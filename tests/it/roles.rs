//! The same system as processes of their own, with standbys: KRN-9.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{self, Api, Process, TestDb, TestNats, said};

struct Fleet<'a> {
    db: &'a TestDb,
    nats: &'a TestNats,
}

impl Fleet<'_> {
    fn serve(&self, role: &str) -> Process {
        let arguments = ["serve", "--role", role, "--http-addr", "127.0.0.1:0", "-o", "json"];
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Process::start(
            role,
            &arguments,
            &[
                ("TAFFRAIL_DATABASE_URL", &self.db.admin_url),
                ("TAFFRAIL_NATS_URL", &self.nats.url),
                ("TAFFRAIL_NATS_TOKEN", &self.nats.token),
            ],
        )
    }
}

async fn submit_until_accepted(api: &Api, title: &str) -> Value {
    let start = Instant::now();
    loop {
        let key = format!("\"{title}\"");
        let request = api.request(reqwest::Method::POST, "/v1/tasks");
        let request = request.header("Idempotency-Key", key).json(&json!({ "title": title }));
        let answer = request.send().await.unwrap();
        if answer.status().is_success() {
            return answer.json().await.unwrap();
        }
        assert_eq!(answer.status(), 503, "{:?}", answer.text().await);
        assert!(start.elapsed() < support::SOON, "no processor took over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn each_role_alone_and_a_standby_that_takes_over() {
    let db = support::database().await;
    let nats = support::nats().await;
    let fleet = Fleet { db: &db, nats: &nats };
    let mut processor = fleet.serve("processor");
    processor.ready();
    let others = ["relay", "projector", "managers"].map(|role| fleet.serve(role));
    let gateway = fleet.serve("gateway");
    for process in &others {
        process.ready();
    }
    let ready = gateway.ready();
    let api = Api::new(&said(&ready, "http", "url"), &said(&ready, "token", "token"));

    // The whole life of a task, through five processes.
    let (status, agent) =
        api.post("/v1/agents", &json!({ "name": "ada", "capabilities": ["add"] })).await;
    assert_eq!(status, 201, "{agent}");
    let (status, task) =
        api.post("/v1/tasks", &json!({ "title": "sum", "capabilities": ["add"] })).await;
    assert_eq!(status, 201, "{task}");
    let task = task["id"].as_str().unwrap().to_owned();
    let claim = json!({ "agent_id": agent["id"], "max": 1, "wait_ms": 10_000 });
    let (status, claimed) = api.post("/v1/queues/default/claim", &claim).await;
    assert_eq!(status, 200, "{claimed}");
    let assignment = &claimed["tasks"][0];
    assert_eq!(assignment["task_id"].as_str(), Some(task.as_str()), "{claimed}");
    let token = assignment["lease"]["token"].clone();
    for (command, body) in [
        ("start", json!({ "lease_token": token })),
        ("complete", json!({ "lease_token": token, "result": { "sum": 3 } })),
    ] {
        let (status, answer) = api.post(&format!("/v1/tasks/{task}/{command}"), &body).await;
        assert_eq!(status, 200, "{answer}");
    }
    let done = api
        .request(reqwest::Method::GET, &format!("/v1/tasks/{task}"))
        .header("Taffrail-Min-Position", "6")
        .send()
        .await
        .unwrap();
    let done: Value = done.json().await.unwrap();
    assert_eq!((done["state"].as_str(), &done["result"]["sum"]), (Some("done"), &json!(3)));

    // A second processor stands by; the first is killed and the second goes on.
    let standby = fleet.serve("processor");
    standby.ready();
    submit_until_accepted(&api, "before").await;
    processor.kill();
    let killed = Instant::now();
    let after = submit_until_accepted(&api, "after").await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(6), "the take-over took {took:?}");
    // A repeat across the change of processor is the same task.
    assert_eq!(submit_until_accepted(&api, "after").await["id"], after["id"]);

    let position = after["position"].as_u64().unwrap();
    let context = async_nats::jetstream::new(nats.client().await);
    support::until("the relay has mirrored everything", async || {
        let Ok(stream) = context.get_stream("TAFFRAIL_EVENTS").await else { return false };
        stream.get_info().await.is_ok_and(|info| info.state.last_sequence >= position)
    })
    .await;
    let whole =
        "SELECT count(*) = max(position) AND count(DISTINCT position) = count(*) FROM events";
    assert_eq!(db.sql(whole).await.as_deref(), Some("t"));
}

#[tokio::test]
async fn a_schema_that_is_missing_or_old_is_named_with_the_remedy() {
    let db = support::database().await;
    let nats = support::nats().await;
    let serve = async |role: &'static str| {
        let mut command = std::process::Command::new(support::TAFFRAIL);
        command
            .args(["serve", "--role", role, "--http-addr", "127.0.0.1:0"])
            .env("TAFFRAIL_DATABASE_URL", &db.admin_url)
            .env("TAFFRAIL_NATS_URL", &nats.url)
            .env("TAFFRAIL_NATS_TOKEN", &nats.token)
            .env_remove("TAFFRAIL_TOKEN");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    db.sql("DELETE FROM refinery_schema_history WHERE version > 1").await;
    for role in ["processor", "gateway"] {
        let said = serve(role).await;
        assert!(said.contains("version 1") && said.contains("taffrail migrate"), "{said}");
    }
    db.sql("DROP TABLE refinery_schema_history").await;
    let said = serve("gateway").await;
    assert!(said.contains("missing") && said.contains("taffrail migrate"), "{said}");
}
