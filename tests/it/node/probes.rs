//! Probes and warm-up of real processes.

use std::time::Duration;

use domain::AgentId;
use domain::agent::Phase;
use domain::node::Want;
use futures::StreamExt;
use serde_json::json;
use uuid::Uuid;

use super::fake::folder;
use super::{Managers, launch_with};

fn agent() -> AgentId {
    AgentId(Uuid::new_v4())
}

fn exec(script: &str) -> serde_json::Value {
    json!({ "exec": { "command": script }, "period_ms": 100, "timeout_ms": 5_000,
            "failure_threshold": 2 })
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_liveness_are_told_as_they_turn() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let profile = json!({
        "command": "exec sleep 60",
        "stop": { "grace_ms": 500 },
        "probes": { "readiness": exec("test -f ready"), "liveness": exec("test ! -f dead") },
    });
    managers.want(&node, agent, 1, Want::Run, &launch_with(profile)).await;
    managers.sees(agent, 1, Phase::Started).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(managers.phases(agent), [Phase::Starting, Phase::Started], "not ready yet");
    let file = |name: &str| node.workspace(agent).join(name);
    std::fs::write(file("ready"), "").unwrap();
    managers.sees(agent, 1, Phase::Ready).await;
    std::fs::remove_file(file("ready")).unwrap();
    let (not_ready, _) = managers.sees(agent, 1, Phase::NotReady).await;
    assert!(not_ready.detail.unwrap().starts_with("readiness probe: exit code 1"));
    std::fs::write(file("dead"), "").unwrap();
    let (unhealthy, _) = managers.sees(agent, 1, Phase::Unhealthy).await;
    assert!(unhealthy.detail.unwrap().starts_with("liveness probe: exit code 1"));
    // Whether it is restarted is the managers' affair.
    managers.drop_agent(&node, agent).await;
    managers.sees(agent, 1, Phase::Exited).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_tells_its_steps_and_ends_a_process_that_fails_one() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let (good, bad) = (agent(), agent());
    let profile = |second: &str| {
        json!({
            "command": "exec sleep 60",
            "stop": { "grace_ms": 500 },
            "warm_up": { "steps": [
                { "kind": "cache_priming", "command": "echo primed > cache" },
                { "kind": "model_load", "command": second, "timeout_ms": 3_000 },
            ]},
        })
    };
    managers.want(&node, good, 1, Want::Run, &launch_with(profile("grep primed cache"))).await;
    managers
        .want(&node, bad, 1, Want::Run, &launch_with(profile("echo no model >&2; exit 3")))
        .await;
    managers.sees(good, 1, Phase::Ready).await;
    let seen = managers.seen(good);
    let told: Vec<_> = seen
        .iter()
        .filter(|s| s.phase == Phase::Warming)
        .filter_map(|s| s.detail.clone())
        .collect();
    assert_eq!(told, ["step 1 of 2: cache_priming", "step 2 of 2: model_load"]);
    let (failed, _) = managers.sees(bad, 1, Phase::StartFailed).await;
    let detail = failed.detail.unwrap();
    assert_eq!(detail, "warm-up step 2 of 2: model_load: exit code 3: no model");
    assert!(!failed.permanent);
    assert!(managers.phases(bad).contains(&Phase::Terminating));
    assert!(!managers.phases(bad).contains(&Phase::Ready));
    managers.drop_agent(&node, good).await;
    managers.sees(good, 1, Phase::Exited).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_never_starts_up_is_ended() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let profile = json!({
        "command": "exec sleep 60",
        "stop": { "grace_ms": 500 },
        "sandbox": { "network": "host" },
        "probes": {
            // Nothing listens on port 1 of any ordinary host.
            "startup": { "tcp": { "port": 1 }, "period_ms": 100, "failure_threshold": 3 },
            "readiness": exec("true"),
        },
    });
    managers.want(&node, agent, 1, Want::Run, &launch_with(profile)).await;
    let (failed, _) = managers.sees(agent, 1, Phase::StartFailed).await;
    assert!(failed.detail.unwrap().starts_with("startup probe: 127.0.0.1:1: "));
    let phases = managers.phases(agent);
    let expected = [Phase::Starting, Phase::Started, Phase::Terminating, Phase::StartFailed];
    assert_eq!(phases, expected, "the readiness was not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_asked_over_nats_whether_it_is_there() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let profile = json!({
        "command": "exec sleep 60",
        "stop": { "grace_ms": 500 },
        "probes": { "readiness": { "nats": {}, "period_ms": 100, "failure_threshold": 2 } },
    });
    managers.want(&node, agent, 1, Want::Run, &launch_with(profile)).await;
    managers.sees(agent, 1, Phase::Started).await;
    // What an SDK does.
    let subject = format!("taffrail.default.agent.{agent}.control");
    let client = managers.nats.client().await;
    let mut asked = client.subscribe(subject).await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            assert!(message.payload.is_empty());
            client.publish(message.reply.unwrap(), "".into()).await.unwrap();
        }
    });
    managers.sees(agent, 1, Phase::Ready).await;
    answering.abort();
    let _ = answering.await;
    managers.sees(agent, 1, Phase::NotReady).await;
    managers.drop_agent(&node, agent).await;
    managers.sees(agent, 1, Phase::Exited).await;
}
