//! Past events published once more: `taffrail replay`.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http::{Api, queue};
use crate::support::{self, SOON};

/// Submits tasks, some milliseconds apart; the positions of their first events.
async fn submitted(api: &Api, queue: &str, count: usize, apart: Duration) -> Vec<u64> {
    let mut positions = Vec::new();
    for n in 0..count {
        let task = api.submit(json!({ "title": format!("t{n}"), "queue": queue })).await;
        positions.push(task["position"].as_u64().unwrap());
        tokio::time::sleep(apart).await;
    }
    positions
}

#[tokio::test(flavor = "multi_thread")]
async fn past_events_are_published_as_they_were_to_subjects_of_their_own() {
    let api = Api::new().await;
    let product = support::product().await;
    let nats = product.nats().await;
    let positions = submitted(&api, &queue(), 5, Duration::ZERO).await;
    let (from, to) = (positions[0], positions[4]);
    let name = format!("past-{}", support::unique());
    let mut replayed = nats.subscribe(format!("taffrail.default.replay.{name}.>")).await.unwrap();
    let mut live = nats.subscribe("taffrail.default.evt.>").await.unwrap();
    nats.flush().await.unwrap();
    let before = api.get("/v1/events?limit=1").await["position"].clone();

    let (first, last) = (from.to_string(), to.to_string());
    let mut command = product
        .cli(&["replay", "--from", &first, "--to", &last, "--speed", "max", "--name", &name]);
    let out = tokio::task::spawn_blocking(move || command.args(["-o", "json"]).output());
    let out = out.await.unwrap().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let operation: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(operation["result"]["position"], to, "{operation}");

    let mut expected = from;
    let end = loop {
        let message = timeout(SOON, replayed.next()).await.unwrap().unwrap();
        if message.subject.ends_with(".end") {
            break message;
        }
        let headers = message.headers.as_ref().unwrap();
        let header = |name: &str| headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header("Taffrail-Position"), expected.to_string());
        assert_eq!(header("Taffrail-Replay"), name);
        let stored = api.get(&format!("/v1/events?after={}&limit=1", expected - 1)).await;
        let stored = &stored["items"][0];
        assert_eq!(header("ce-id"), stored["id"], "{stored}");
        assert_eq!(header("ce-type"), stored["type"]);
        assert_eq!(header("Taffrail-Hash"), stored["hash"]);
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(payload, stored["data"]);
        let subject: Vec<&str> = message.subject.split('.').collect();
        assert_eq!((subject[1], subject[2], subject[3]), ("default", "replay", name.as_str()));
        assert_eq!(subject[5], stored["subject"]);
        expected += 1;
    };
    assert_eq!(expected, to + 1, "some are missing");
    let report: Value = serde_json::from_slice(&end.payload).unwrap();
    assert_eq!(report["published"], to + 1 - from, "{report}");

    // Nothing of it came over a live subject, and JetStream took none of it.
    while let Ok(Some(message)) = timeout(Duration::from_millis(300), live.next()).await {
        let position = message.headers.as_ref().unwrap().get("Taffrail-Position").unwrap();
        assert!(position.as_str().parse::<u64>().unwrap() > to, "{}", message.subject);
    }
    let context = async_nats::jetstream::new(nats);
    let mut names = context.stream_names();
    while let Some(name) = names.next().await {
        let info = context.get_stream(name.unwrap()).await.unwrap().get_info().await.unwrap();
        for subject in &info.config.subjects {
            assert!(!subject.contains("replay") && subject != ">", "{}", info.config.name);
        }
    }
    assert!(before.is_u64() || before.is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_the_recorded_pace_and_ends_when_it_is_cancelled() {
    let api = Api::new().await;
    let product = support::product().await;
    let nats = product.nats().await;
    let apart = Duration::from_millis(600);
    let positions = submitted(&api, &queue(), 4, apart).await;
    let (from, to) = (positions[0], positions[3]);
    let name = format!("pace-{}", support::unique());
    let mut replayed = nats.subscribe(format!("taffrail.default.replay.{name}.>")).await.unwrap();
    nats.flush().await.unwrap();
    let began = Instant::now();
    let body = json!({ "from": from, "to": to, "speed": "2x", "name": name });
    let asked = api.ask(Method::POST, "/v1/replay").json(&body).header("prefer", "wait=0");
    assert_eq!(asked.send().await.unwrap().status(), 202);
    let (mut first, mut last) = (None, began);
    while let Some(message) = timeout(SOON, replayed.next()).await.unwrap() {
        if message.subject.ends_with(".end") {
            break;
        }
        first.get_or_insert_with(Instant::now);
        last = Instant::now();
    }
    // Three gaps of at least 600 ms, twice as fast.
    let took = last - first.unwrap();
    assert!(took >= Duration::from_millis(850), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");

    // A hundredth of the pace: minutes. Cancelled, nothing more comes.
    let name = format!("slow-{}", support::unique());
    let mut replayed = nats.subscribe(format!("taffrail.default.replay.{name}.>")).await.unwrap();
    nats.flush().await.unwrap();
    let body = json!({ "from": from, "to": to, "speed": "0.01x", "name": name });
    let asked = api.ask(Method::POST, "/v1/replay").json(&body).header("prefer", "wait=0");
    let asked: Value = asked.send().await.unwrap().json().await.unwrap();
    let message = timeout(SOON, replayed.next()).await.unwrap().unwrap();
    assert!(message.subject.ends_with(".submitted"), "{}", message.subject);
    let id = asked["operation_id"].as_str().unwrap();
    let cancel = api.post(&format!("/v1/operations/{id}/cancel"), json!({})).await;
    assert_eq!(cancel.status(), 200);
    while let Ok(more) = timeout(Duration::from_secs(1), replayed.next()).await {
        assert!(!more.unwrap().subject.ends_with(".end"), "it went to its end");
    }

    // Ctrl-C at the command line stops it too, and says where.
    let (first, last) = (from.to_string(), to.to_string());
    let mut command = product.cli(&["replay", "--from", &first, "--to", &last, "--speed", "0.01x"]);
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let open = "/v1/operations?kind=log.replay&state=running";
    let mut running = Value::Null;
    support::until("it runs", async || {
        running = api.get(open).await["items"][0].clone();
        running["id"].is_string()
    })
    .await;
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert!(!out.status.success());
    let id = running["id"].as_str().unwrap();
    let operation = api.get(&format!("/v1/operations/{id}")).await;
    assert_eq!(operation["state"], "cancelled", "{operation}");

    for (body, pointer) in [
        (json!({ "from": 0 }), "/from"),
        (json!({ "from": u64::MAX }), "/from"),
        (json!({ "from": to, "to": from }), "/to"),
        (json!({ "from": from, "speed": "fast" }), "/speed"),
        (json!({ "from": from, "name": "a.>" }), "/name"),
    ] {
        let refused = api.post("/v1/replay", body).await;
        assert_eq!(refused.status(), 400);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}
