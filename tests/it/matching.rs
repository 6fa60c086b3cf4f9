//! Which agent gets a task, and that the log alone tells why. SCH-1, QUE-7.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Api, Product, TestDb, run_dir, start_product, unique, until};

/// A product of its own: its log is altered.
struct House {
    product: Product,
    api: Api,
}

impl House {
    fn on(product: Product) -> Self {
        Self { api: Api::new(&product.http, &product.token), product }
    }

    async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.api.post(path, &body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn agent(&self, name: &str, more: Value) -> String {
        let mut body = json!({ "name": name, "slots": 8 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ok("/v1/agents", body).await["id"].as_str().unwrap().to_owned()
    }

    async fn task(&self, more: Value) -> String {
        let mut body = json!({ "title": "match me" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ok("/v1/tasks", body).await["id"].as_str().unwrap().to_owned()
    }

    /// The tasks that an agent gets of what waits.
    async fn claims(&self, agent: &str, wait_ms: u64) -> Vec<String> {
        let claim = json!({ "agent_id": agent, "max": 8, "wait_ms": wait_ms });
        let claimed = self.ok("/v1/queues/default/claim", claim).await;
        let tasks = claimed["tasks"].as_array().unwrap().iter();
        let mut got = Vec::new();
        for task in tasks {
            let id = task["task_id"].as_str().unwrap().to_owned();
            let body = json!({ "lease_token": task["lease"]["token"] });
            self.ok(&format!("/v1/tasks/{id}/complete"), body).await;
            got.push(id);
        }
        got
    }

    fn verify(&self) -> Output {
        let arguments = ["replay", "verify-decisions", "-o", "json"];
        self.product.cli(&arguments).output().expect("the CLI runs")
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[tokio::test]
async fn the_agent_that_fits_gets_it_and_every_decision_follows_from_the_log() {
    let dir = run_dir().join(format!("matching-{}", unique()));
    let mut house = House::on(start_product(dir.clone(), &[]));
    let eu = house.agent("eu", json!({ "labels": { "zone": "eu" }, "cost": 5 })).await;
    let us = house
        .agent("us", json!({ "labels": { "zone": "us" }, "capabilities": ["python@3.11"] }))
        .await;

    let only_eu = json!({ "affinity": { "required": [{ "label": "zone", "in": ["eu"] }] } });
    let local = house.task(only_eu).await;
    let python = house.task(json!({ "capabilities": ["python@>=3.10, <4"] })).await;
    let newer = house.task(json!({ "capabilities": ["python@^3.12"] })).await;
    assert_eq!(house.claims(&us, 0).await, [python.as_str()], "neither the other zone's nor newer");
    assert_eq!(house.claims(&eu, 0).await, [local.as_str()]);
    let (status, could) = house.api.get(&format!("/v1/tasks/{newer}/candidates")).await;
    assert!(status.is_success(), "{could}");
    assert_eq!((&could["of"], &could["rejected"]), (&json!(0), &json!({ "capability": 2 })));
    let old = house.task(json!({ "triage": true, "affinity": { "max_cost": 9 } })).await;
    let could = house.api.get(&format!("/v1/tasks/{old}/candidates")).await.1;
    let scores: Vec<_> =
        could["agents"].as_array().unwrap().iter().map(|a| (&a["name"], &a["score"])).collect();
    assert_eq!(scores, [(&json!("us"), &json!(0)), (&json!("eu"), &json!(-5))]);
    let (status, _) = house.api.get(&format!("/v1/tasks/{local}/candidates")).await;
    assert_eq!(status.as_u16(), 422, "it has ended");
    let why = house.api.get(&format!("/v1/tasks/{newer}/why")).await.1;
    assert_eq!(why["reasons"][0]["code"], "no_agent", "{why}");

    // Both wait: the one that the task prefers gets it, not the one that asked first.
    let liked =
        json!({ "affinity": { "preferred": [{ "label": "zone", "in": ["eu"], "points": 50 }] } });
    let (first, second, task) = tokio::join!(
        house.claims(&us, 3_000),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            house.claims(&eu, 3_000).await
        },
        async {
            tokio::time::sleep(std::time::Duration::from_millis(900)).await;
            house.task(liked).await
        },
    );
    assert_eq!((first, second), (vec![], vec![task.clone()]));
    let position = house.api.get(&format!("/v1/tasks/{task}")).await.1["position"].clone();
    let events = house.api.get(&format!("/v1/tasks/{task}/events")).await.1;
    let assigned = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["type"] == "dev.taffrail.task.assigned.v1");
    let decision = &assigned.unwrap()["data"]["decision"];
    assert_eq!(decision["choice"], "claims", "{events}");
    assert_eq!(
        decision["candidates"],
        json!([
            { "id": eu, "score": 45 }, { "id": us, "score": 0 },
        ])
    );
    assert!(position.as_u64() > decision["seen"].as_u64());

    // A scheduler that was killed, and its successor.
    house.product.kill();
    let house = House::on(start_product(dir, &[]));
    for _ in 0..5 {
        house.task(json!({ "priority": "high" })).await;
    }
    until("all are done", async || {
        house.claims(&eu, 0).await;
        let left = house.api.get("/v1/tasks?state=queued").await.1;
        left["items"].as_array().unwrap().len() == 1
    })
    .await;

    let told = house.verify();
    assert!(told.status.success(), "{told:?}");
    let whole = report(&told);
    assert_eq!((&whole["different"], &whole["unknown"]), (&json!(0), &json!(0)), "{whole}");
    assert_eq!((whole["decisions"].as_u64(), &whole["identical"]), (Some(8), &json!(8)));

    // One decision is altered behind everybody's back.
    let at = assigned_of(&house, &task).await;
    let alter = format!(
        "ALTER TABLE events DISABLE TRIGGER ALL;
         UPDATE events SET payload = convert_to(replace(convert_from(payload, 'UTF8'),
                '{eu}', '{us}'), 'UTF8') WHERE position = {at};
         ALTER TABLE events ENABLE TRIGGER ALL"
    );
    assert_eq!(TestDb::refused(&house.product.postgres_url, &alter).await, None);
    let told = house.verify();
    assert_eq!(told.status.code(), Some(1));
    let altered = report(&told);
    assert_eq!((&altered["faults"][0]["position"], &altered["identical"]), (&json!(at), &json!(7)));
    assert!(String::from_utf8_lossy(&told.stderr).contains(&format!("position {at}")));
}

async fn assigned_of(house: &House, task: &str) -> u64 {
    let events = house.api.get(&format!("/v1/tasks/{task}/events")).await.1;
    let assigned = |event: &&Value| event["type"] == "dev.taffrail.task.assigned.v1";
    let found = events["items"].as_array().unwrap().iter().find(assigned);
    found.unwrap()["sequence"].as_str().unwrap().parse().unwrap()
}
