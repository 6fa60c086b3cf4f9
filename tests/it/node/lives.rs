//! Agents' lives on nodes of a whole product: what operators wish, what dies, hangs, idles
//! or stands still, and what becomes of it.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::fake::alive;
use super::whole::{Fleet, own_program, pid};
use crate::agents::{end_of, fresh, submit};
use crate::support::{TAFFRAIL, until};

/// Our own sidecar inside, with the node's network: it sends heartbeats of its own.
fn sidecar(capability: &str, script: &str, more: Value) -> Value {
    let mut profile = json!({
        "command": [TAFFRAIL, "agent", "run", "--no-journal", "--heartbeat", "500ms", "--capability",
                    capability, "--", "sh", "-c", script],
        "sandbox": { "network": "host", "read_only": [own_program()] },
        "stop": { "grace_ms": 1_000 },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        profile[name] = value.clone();
    }
    profile
}

/// The names of the events of an agent's stream, in order.
async fn story(fleet: &Fleet, agent: &str) -> Vec<String> {
    let (_, page) = fleet.api.get(&format!("/v1/events?stream={agent}&limit=200")).await;
    let events = page["items"].as_array().expect("events").iter();
    let name = |event: &Value| {
        let kind = event["type"].as_str().unwrap_or_default();
        kind.trim_start_matches("dev.taffrail.agent.").trim_end_matches(".v1").to_owned()
    };
    events.map(name).collect()
}

async fn operation(fleet: &Fleet, id: &Value) -> Value {
    let path = format!("/v1/operations/{}", id.as_str().expect("an id"));
    let mut last = Value::Null;
    until("the operation ends", async || {
        last = fleet.api.get(&path).await.1;
        ["succeeded", "failed", "cancelled"].contains(&last["state"].as_str().unwrap_or_default())
    })
    .await;
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deploys_one_wins_and_the_other_is_told_which() {
    let fleet = Fleet::new(&[]).await;
    let sleeper = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 500 } });
    let agent = fleet.describe(&fresh("raced"), sleeper, "none").await;
    let path = format!("/v1/agents/{agent}/deploy");
    let none = json!({});
    let ((one, first), (two, second)) =
        tokio::join!(fleet.api.post(&path, &none), fleet.api.post(&path, &none));
    let (won, lost) = if one == 202 { (first, second) } else { (second, first) };
    let mut codes = [one.as_u16(), two.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [202, 409], "{won} {lost}");
    assert_eq!(lost["type"], "https://taffrail.dev/errors/in-progress");
    assert_eq!(lost["conflicting_id"], won["operation_id"]);
    let ended = operation(&fleet, &won["operation_id"]).await;
    assert_eq!(
        (&ended["state"], &ended["result"]["state"]),
        (&"succeeded".into(), &"ready".into())
    );
    let deploys = story(&fleet, &agent).await;
    assert_eq!(deploys.iter().filter(|name| *name == "deploy_requested").count(), 1);
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_nats_has_its_operation_too() {
    let fleet = Fleet::new(&[]).await;
    let sleeper = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 500 } });
    let agent = fleet.describe(&fresh("by-nats"), sleeper, "none").await;
    let token = fleet.product.nats_token.clone();
    let client = async_nats::ConnectOptions::with_token(token);
    let client = client.connect(&fleet.product.nats_url).await.unwrap();
    let subject = format!("taffrail.default.req.agent.{agent}.deploy");
    let answer = client.request(subject, "{}".into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["status"], "accepted", "{answer}");
    let event = fleet.api.get(&format!("/v1/events?stream={agent}&limit=200")).await.1;
    let event =
        event["items"].as_array().unwrap().iter().find(|event| {
            event["type"].as_str().is_some_and(|kind| kind.contains("deploy_requested"))
        });
    let id = event.unwrap()["data"]["operation_id"].clone();
    assert_eq!(operation(&fleet, &id).await["state"], "succeeded");
    fleet.is(&agent, "ready", 1).await;
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_unhealthy_then_started_again_and_its_task_finds_another_token() {
    let fleet = Fleet::new(&[]).await;
    let capability = fresh("hangs");
    let watch = json!({ "watch": { "unhealthy_after_ms": 2_000, "restart_after_ms": 1_000 } });
    let script = "if test -f begun; then echo '\"again\"'; else touch begun; sleep 600; fi";
    let profile = sidecar(&capability, script, watch);
    let (agent, ready) = fleet.deploy(&fresh("hangs"), profile, &capability).await;
    let task = submit(fleet.product, &capability, &[]);
    until("it is at work", async || fleet.get(&agent).await["state"] == "busy").await;
    kill_process(Pid::from_raw(pid(&ready) as i32).unwrap(), Signal::STOP).unwrap();
    let stopped = Instant::now();
    until("it is unhealthy", async || fleet.get(&agent).await["state"] == "unhealthy").await;
    let seen = stopped.elapsed();
    assert!(seen < Duration::from_secs(4), "2 s of silence were seen after {seen:?}");
    fleet.is(&agent, "ready", 2).await;
    assert!(!alive(pid(&ready)));
    let (done, _) = end_of(fleet.product, &task);
    assert_eq!((&done["state"], &done["result"]), (&"done".into(), &"again".into()));
    let told = story(&fleet, &agent).await;
    for name in ["assessed", "restart_scheduled", "restarted", "placed", "observed", "ready"] {
        assert!(told.iter().any(|told| told == name), "{name} in {told:?}");
    }
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_stands_still_degrades_its_agent_though_its_heart_beats() {
    let fleet = Fleet::new(&[]).await;
    let capability = fresh("stands");
    let script = "sleep 6; echo '\"late\"'";
    let profile = sidecar(&capability, script, json!({}));
    let (agent, _) = fleet.deploy(&fresh("stands"), profile, &capability).await;
    let body = json!({ "title": "t", "capabilities": [capability], "stall_ms": 1_500 });
    let (_, made) = fleet.api.post("/v1/tasks", &body).await;
    let task = made["id"].as_str().unwrap().to_owned();
    let mut seen = Value::Null;
    until("it is degraded", async || {
        seen = fleet.get(&agent).await;
        seen["state"] == "degraded"
    })
    .await;
    let reason = seen["reason"].as_str().unwrap();
    assert!(reason.contains(&task) && reason.contains("no progress"), "{reason}");
    assert_eq!(end_of(fleet.product, &task).0["state"], "done");
    until("it is well again", async || {
        // It may have another task already, that any agent can do.
        ["ready", "busy"].contains(&fleet.get(&agent).await["state"].as_str().unwrap_or_default())
    })
    .await;
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_sleeps_and_wakes_when_work_waits_for_it() {
    let fleet = Fleet::new(&[]).await;
    let capability = fresh("idle");
    let profile = json!({ "mode": "per_task", "command": "echo '\"awake\"'",
        "hibernate_after_ms": 700, "stop": { "grace_ms": 500 } });
    let (agent, _) = fleet.deploy(&fresh("idle"), profile, &capability).await;
    until("it sleeps", async || fleet.get(&agent).await["state"] == "hibernating").await;
    let task = submit(fleet.product, &capability, &[]);
    assert_eq!(end_of(fleet.product, &task).0["result"], "awake");
    let told = story(&fleet, &agent).await;
    assert!(told.iter().any(|name| name == "woken"), "{told:?}");
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_too_long_hands_back_and_each_step_is_an_event() {
    let fleet = Fleet::new(&[]).await;
    let capability = fresh("slow");
    // It does not heed SIGTERM.
    let script = "trap '' TERM; sleep 600 & while true; do wait; done";
    let profile = json!({ "mode": "service", "command": script, "stop": { "grace_ms": 400 } });
    let (agent, ready) = fleet.deploy(&fresh("slow"), profile, &capability).await;
    let body = json!({ "title": "t", "capabilities": [capability] });
    let (_, made) = fleet.api.post("/v1/tasks", &body).await;
    let task = made["id"].as_str().unwrap().to_owned();
    let assign = json!({ "agent_id": agent, "lease_ms": 600_000 });
    assert_eq!(fleet.api.post(&format!("/v1/tasks/{task}/assign"), &assign).await.0, 200);
    let drain = json!({ "timeout_ms": 800, "reason": "night" });
    let (status, taken) = fleet.api.post(&format!("/v1/agents/{agent}/drain"), &drain).await;
    assert_eq!(status, 202, "{taken}");
    let ended = operation(&fleet, &taken["operation_id"]).await;
    assert_eq!(
        (&ended["state"], &ended["result"]["state"]),
        (&"succeeded".into(), &"offline".into())
    );
    assert!(!alive(pid(&ready)));
    let (_, page) = fleet.api.get(&format!("/v1/events?stream={agent}&limit=200")).await;
    let phases: Vec<&str> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["data"]["phase"].as_str())
        .collect();
    assert_eq!(phases[phases.len() - 3..], ["terminating", "killing", "exited"]);
    assert!(story(&fleet, &agent).await.iter().any(|name| name == "handed_back"));
    until("the task waits again", async || {
        fleet.api.get(&format!("/v1/tasks/{task}")).await.1["state"] == "queued"
    })
    .await;
    fleet.api.post(&format!("/v1/tasks/{task}/cancel"), &json!({})).await;
    let (status, _) = fleet.api.post(&format!("/v1/agents/{agent}/retire"), &json!({})).await;
    assert_eq!(status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_restarted_in_turn_and_a_drained_node_is_left_by_its_agents() {
    let (one, two) =
        (Fleet::new(&["--label", "pair"]).await, Fleet::new(&["--label", "pair"]).await);
    let role = fresh("rolled");
    let mut agents = Vec::new();
    for n in 0..3 {
        let profile = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 300 },
            "placement": { "labels": ["pair"], "strategy": "spread" } });
        let body = json!({ "name": format!("{role}-{n}"), "role": role, "profile": profile });
        let (status, made) = one.api.post("/v1/agents", &body).await;
        assert_eq!(status, 201, "{made}");
        let agent = made["id"].as_str().unwrap().to_owned();
        one.command(&agent, "deploy").await;
        one.is(&agent, "ready", 1).await;
        agents.push(agent);
    }
    let (status, taken) = one.api.post("/v1/fleet/restart", &json!({ "role": role })).await;
    assert_eq!(status, 202, "{taken}");
    let ended = operation(&one, &taken["operation_id"]).await;
    assert_eq!((&ended["state"], &ended["result"]["agents"]), (&"succeeded".into(), &3.into()));
    for agent in &agents {
        one.is(agent, "ready", 2).await;
    }
    let node = one.node.id;
    let (status, taken) =
        one.api.post(&format!("/v1/nodes/{node}/drain"), &json!({ "max_unavailable": 2 })).await;
    assert_eq!(status, 202, "{taken}");
    assert_eq!(operation(&one, &taken["operation_id"]).await["state"], "succeeded");
    for agent in &agents {
        let there = one.get(agent).await;
        assert_eq!(there["node_id"], json!(two.node.id), "{there}");
    }
    let (_, shown) = one.api.get(&format!("/v1/nodes/{node}")).await;
    assert_eq!((&shown["state"], &shown["used"]["slots"]), (&"draining".into(), &0.into()));
    for agent in &agents {
        one.retire(agent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_node_can_take_says_why_and_a_cancelled_deploy_ends() {
    let fleet = Fleet::new(&[]).await;
    let greedy =
        json!({ "command": ["sleep", "600"], "resources": { "memory_bytes": 1u64 << 45 } });
    let agent = fleet.describe(&fresh("greedy"), greedy, "none").await;
    let (_, taken) = fleet.api.post(&format!("/v1/agents/{agent}/deploy"), &json!({})).await;
    let mut seen = Value::Null;
    until("it says why", async || {
        seen = fleet.get(&agent).await;
        seen["state"] == "validated"
    })
    .await;
    assert!(seen["reason"].as_str().unwrap().contains("too little memory"), "{seen}");
    let id = taken["operation_id"].as_str().unwrap();
    let cancel = fleet.api.post(&format!("/v1/operations/{id}/cancel"), &json!({})).await;
    assert_eq!(cancel.0, 200, "{}", cancel.1);
    until("the agent is free again", async || fleet.get(&agent).await["state"] == "failed").await;
    let (status, refused) = fleet.api.post(&format!("/v1/agents/{agent}/wake"), &json!({})).await;
    assert_eq!((status.as_u16(), &refused["state"]), (422, &"failed".into()));
    fleet.api.post(&format!("/v1/agents/{agent}/retire"), &json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_its_rounds_by_timetable_by_event_and_by_hand() {
    let fleet = Fleet::new(&[]).await;
    let name = fresh("rounds");
    let sleeper = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 300 } });
    let (agent, _) = fleet.deploy(&name, sleeper, "none").await;
    let path = format!("/v1/agents/{agent}");
    let change = |rounds: Value| {
        let request = fleet.api.request(reqwest::Method::PATCH, &path);
        async move {
            let answer = request.json(&json!({ "rounds": rounds })).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    };
    change(json!({ "every_ms": 1_000 })).await;
    until("its timetable begins one", async || {
        fleet.get(&agent).await["last_round"]["cause"] == "schedule"
    })
    .await;
    assert!(fleet.get(&agent).await["next_round_at"].is_string());
    change(json!({ "on": ["profile.defined"] })).await;
    let profile = fleet.api.request(reqwest::Method::PUT, &format!("/v1/profiles/{name}"));
    assert_eq!(profile.json(&json!({ "command": ["a"] })).send().await.unwrap().status(), 200);
    until("an event begins one, when the first is over", async || {
        fleet.get(&agent).await["last_round"]["cause"] == "event"
    })
    .await;
    let ended = json!({ "summary": "all is well" });
    assert_eq!(fleet.api.post(&format!("{path}/end_round"), &ended).await.0, 200);
    assert_eq!(fleet.api.post(&format!("{path}/begin_round"), &json!({})).await.0, 200);
    until("somebody begins one", async || fleet.get(&agent).await["last_round"]["cause"] == "hand")
        .await;
    let told = story(&fleet, &agent).await;
    let count = |name: &str| told.iter().filter(|told| *told == name).count();
    assert!(count("round_begun") >= 3 && count("round_ended") >= 2, "{told:?}");
    fleet.retire(&agent).await;
}
