//! What would have happened: forks of what a product really did. TIM-4.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Api, Product, run_dir, start_product, unique, until};

/// Tasks of the recorded stretch, and how long each takes.
const TASKS: usize = 16;
const TAKES: Duration = Duration::from_millis(60);

struct House {
    product: Product,
    api: Api,
}

impl House {
    /// Its own: its log is told as a whole.
    fn new() -> Self {
        let product = start_product(run_dir().join(format!("fork-{}", unique())), &[]);
        Self { api: Api::new(&product.http, &product.token), product }
    }

    async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.api.post(path, &body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn head(&self) -> u64 {
        let events = self.api.get("/v1/events?limit=200").await.1;
        events["position"].as_u64().unwrap_or_else(|| panic!("{events}"))
    }

    /// One agent with one slot does tasks of three priorities.
    async fn day(&self) -> String {
        let agent = self.ok("/v1/agents", json!({ "name": "ada", "slots": 1 })).await;
        let agent = agent["id"].as_str().unwrap().to_owned();
        for nth in 0..TASKS {
            let priority = ["high", "normal", "low"][nth % 3];
            let task = json!({ "title": format!("t{nth}"), "queue": "work", "priority": priority });
            self.ok("/v1/tasks", task).await;
        }
        for done in 0.. {
            let claim = json!({ "agent_id": agent, "max": 1, "wait_ms": 0 });
            let claimed = self.ok("/v1/queues/work/claim", claim).await;
            let Some(task) = claimed["tasks"].get(0) else {
                assert_eq!(done, TASKS);
                break;
            };
            let (id, token) = (task["task_id"].as_str().unwrap(), &task["lease"]["token"]);
            self.ok(&format!("/v1/tasks/{id}/start"), json!({ "lease_token": token })).await;
            tokio::time::sleep(TAKES).await;
            let result = json!({ "usage": { "tokens": 7 } });
            let done = json!({ "lease_token": token, "result": result });
            self.ok(&format!("/v1/tasks/{id}/complete"), done).await;
        }
        agent
    }

    async fn operation(&self, accepted: &Value) -> Value {
        let id = accepted["operation_id"].as_str().unwrap().to_owned();
        let mut ended = Value::Null;
        until("the operation's end", async || {
            ended = self.api.get(&format!("/v1/operations/{id}")).await.1;
            ["succeeded", "failed", "cancelled"].iter().any(|state| ended["state"] == *state)
        })
        .await;
        ended
    }
}

#[tokio::test]
async fn a_fork_tells_what_more_agents_would_have_done_and_leaves_no_trace() {
    let mut house = House::new();
    house.day().await;
    let before = house.head().await;
    let nats = house.product.nats().await;
    let mut said = nats.subscribe("taffrail.default.evt.>").await.unwrap();
    let mut asked = nats.subscribe("taffrail.default.cmd.>").await.unwrap();
    let mut called = nats.subscribe("taffrail.default.agent.>").await.unwrap();
    nats.flush().await.unwrap();

    // Nothing changed: every decision is the same.
    let baseline = house.ok("/v1/time/fork", json!({ "from": 0 })).await;
    let baseline = house.operation(&baseline).await;
    let report = &baseline["result"];
    assert_eq!(report["identical"], true, "{baseline}");
    let decisions = json!({ "identical": TASKS, "different": 0, "unknown": 0 });
    assert_eq!((&report["decisions"], &report["commands"]["different"]), (&decisions, &json!(0)));
    assert_eq!((&report["fork_id"], &report["to"]), (&baseline["id"], &json!(before)));
    assert_eq!(report["happened"], report["what_if"]);
    assert_eq!(report["happened"]["usage"], json!({ "tokens": 7.0 * TASKS as f64 }));

    // Three more like her: by the CLI, with a picture.
    let picture = house.product.data_dir.join("fork.svg");
    let path = picture.display().to_string();
    let to = before.to_string();
    let arguments = ["fork", "--from", "0", "--to", &to, "--agents", "+3@ada", "--picture", &path];
    let output = house.product.cli(&[&arguments[..], &["-o", "json"]].concat()).output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let p50 = |side: &str| report[side]["wait_ms"]["p50"].as_f64().unwrap();
    assert!(p50("what_if") < 0.6 * p50("happened"), "{report}");
    assert_eq!(report["what_if"]["completed"], TASKS);
    // Told without a change, the model comes close to what happened.
    let off = (p50("control") - p50("happened")).abs();
    assert!(off < 0.3 * p50("happened") + 50.0, "{report}");
    let added = report["agents"].as_array().unwrap().iter().filter(|a| a["added"] == true);
    assert_eq!(added.count(), 3, "{report}");
    assert!(report["assumptions"].as_array().is_some_and(|all| !all.is_empty()), "{report}");
    assert!(std::fs::read_to_string(&picture).unwrap().starts_with("<svg"));
    let shown = house.product.cli(&arguments).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for word in ["WHAT IF", "wait p50", "ada", "first difference", "Assumed"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }

    // Another order: the first decision that differs is named.
    let changes = json!({ "priorities": [
        { "tasks": { "condition": "task.title == 't5'" }, "priority": "critical" },
        { "tasks": { "queue": "work" }, "priority": "background" },
    ] });
    let other =
        house.ok("/v1/time/fork", json!({ "from": 0, "to": before, "changes": changes })).await;
    let other = house.operation(&other).await;
    let first = &other["result"]["first_difference"];
    assert!(first["position"].is_u64() && first["happened"] != first["what_if"], "{other}");
    // The last one may end a moment behind the end of the stretch.
    let completed = other["result"]["what_if"]["completed"].as_u64().unwrap();
    assert!(completed + 1 >= TASKS as u64, "{other}");

    // An agent that was not there fails the operation with the field.
    let changes = json!({ "agents": { "remove": ["nobody"] } });
    let failed = house.ok("/v1/time/fork", json!({ "from": 0, "changes": changes })).await;
    let failed = house.operation(&failed).await;
    let fault = &failed["problem"]["errors"][0];
    assert_eq!(fault["pointer"], "/changes/agents/remove/0", "{failed}");
    assert_eq!((&failed["state"], &fault["code"]), (&json!("failed"), &json!("unknown_agent")));

    // All that came into the log are the operations' own events, and no subject heard more.
    let events = house.api.get(&format!("/v1/events?after={before}&limit=200")).await.1;
    let events = events["items"].as_array().unwrap();
    assert!(events.len() >= 9, "{events:?}");
    for event in events {
        assert_eq!(event["source"], "/tenants/default/operation", "{event}");
    }
    let heard = tokio::time::timeout(Duration::from_millis(700), async {
        let mut heard = Vec::new();
        while let Some(message) = said.next().await {
            heard.push(message.subject.to_string());
            assert!(message.subject.contains(".evt.operation."), "{}", message.subject);
        }
        heard
    });
    assert!(heard.await.is_err(), "the subscription ended");
    let none = |message: Result<Option<async_nats::Message>, _>| {
        if let Ok(Some(message)) = message {
            panic!("{}: {:?}", message.subject, message.payload);
        }
    };
    none(tokio::time::timeout(Duration::from_millis(50), asked.next()).await);
    none(tokio::time::timeout(Duration::from_millis(50), called.next()).await);
    // What the forks assigned on paper nobody holds, and no clone is an agent.
    let agents = house.api.get("/v1/agents").await.1;
    assert_eq!(agents["items"].as_array().unwrap().len(), 1, "{agents}");
    assert!(house.product.terminate().success());
}

#[tokio::test]
async fn a_fork_that_makes_no_sense_is_refused_and_one_under_way_is_cancelled() {
    let mut house = House::new();
    house.ok("/v1/agents", json!({ "name": "ada" })).await;
    let head = house.head().await;
    let of = "6f7c2f8e-1f6d-4a3e-9a53-6c2b8f0f4a11";
    for (body, pointer) in [
        (json!({ "from": head + 100 }), "/from"),
        (json!({ "from": 0, "to": head + 100 }), "/to"),
        (json!({ "from": 2, "to": 1 }), "/to"),
        (json!({ "from": -1 }), "/from"),
        (json!({ "to": 1 }), "/from"),
        (json!({ "from": 0, "form": 1 }), "/form"),
        (json!({ "from": 0, "changes": { "speed": 2 } }), "/changes/speed"),
        (json!({ "from": 0, "of": of }), "/of"),
        (json!({ "from": 0, "changes": { "queues": { "a b": {} } } }), "/changes/queues/a b"),
    ] {
        let (status, problem) = house.api.post("/v1/time/fork", &body).await;
        assert_eq!(status.as_u16(), 400, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let output = house.product.cli(&["fork", "--from", "0", "--agents", "ada"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    // Long enough to be stopped on the way.
    for _ in 0..20 {
        let items = vec![json!({ "title": "t" }); 1_000];
        house.ok("/v1/tasks/batch", json!({ "items": items })).await;
    }
    let slow = house.ok("/v1/time/fork", json!({ "from": 0 })).await;
    let id = slow["operation_id"].as_str().unwrap();
    let (status, answer) = house
        .api
        .post(&format!("/v1/operations/{id}/cancel"), &json!({ "reason": "enough" }))
        .await;
    assert!(status.is_success(), "{answer}");
    let ended = house.operation(&slow).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert!(ended["result"].is_null(), "{ended}");
    // It has stopped: the place is free and nothing more is told of it.
    let version = ended["version"].clone();
    let again = house.ok("/v1/time/fork", json!({ "from": head, "to": head + 1 })).await;
    assert_eq!(house.operation(&again).await["state"], "succeeded");
    let shown = house.api.get(&format!("/v1/operations/{id}")).await.1;
    assert_eq!(shown["version"], version, "{shown}");
    assert!(house.product.terminate().success());
}
