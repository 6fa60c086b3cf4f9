//! The agents' own wire on a real nats-server: heartbeats, pushes, control words, claims.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;
use broker::subject::{self, AgentWord};
use broker::{Presence, RemoteClaims, TenantCheck};
use chrono::{TimeZone, Utc};
use commands::{AgentWire, Boxed, Claims, Clock};
use domain::task::{Assignment, AssignmentLease, ClaimTasks, Claimed};
use domain::values::Priority;
use domain::{AgentId, Code, Json, Problem, TaskId, TenantId, Timestamp};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{self, TestNats, until};

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn only_default() -> TenantCheck {
    Arc::new(|tenant| tenant.as_str() == "default")
}

async fn presence(nats: &TestNats) -> (Presence, Client) {
    let client = broker::connect(&nats.url, Some(&nats.token), "managers").await.unwrap();
    let clock = Clock::read_at(Timestamp::UNIX_EPOCH);
    let desired = Arc::new(|_: &TenantId, _| Some("ready".to_owned()));
    let presence = Presence::answering(client.clone(), clock, only_default(), desired);
    let running = presence.clone();
    tokio::spawn(async move { running.run(CancellationToken::new()).await });
    let client = nats.client().await;
    let probe = AgentId::nth(1);
    until("heartbeats are heard", async || {
        heartbeat(&client, probe, b"{}").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        presence.observed(&tenant(), probe).is_some()
    })
    .await;
    (presence, client)
}

async fn heartbeat(client: &Client, agent: AgentId, body: &'static [u8]) {
    let subject = subject::agent(&tenant(), agent, AgentWord::Heartbeat);
    client.publish(subject, body.into()).await.unwrap();
}

fn assignment() -> Assignment {
    Assignment {
        task_id: TaskId::nth(7),
        title: "t".into(),
        attempt: 1,
        lease: AssignmentLease {
            token: 1,
            expires_at: Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap(),
        },
        kind: "default".into(),
        queue: "default".into(),
        priority: Priority::Normal,
        payload: Json::null(),
        deadline: None,
        traceparent: None,
        started: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_observed_and_answered() {
    let nats = support::nats().await;
    let (presence, client) = presence(&nats).await;
    let agent = AgentId::nth(2);
    let subject = subject::agent(&tenant(), agent, AgentWord::Heartbeat);
    let body = r#"{"observed_state":"busy","slots_free":3,"load":0.25,"progress_seq":1}"#;
    let answer = client.request(subject.clone(), body.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer, json!({ "ok": true, "desired_state": "ready" }));
    until("it is observed", async || presence.observed(&tenant(), agent).is_some()).await;
    let observed = presence.observed(&tenant(), agent).unwrap();
    assert_eq!((observed.slots_free, observed.load), (Some(3), Some(0.25)));
    assert_eq!(observed.observed_state.as_deref(), Some("busy"));

    let answer = client.request(subject, r#"{"cpu":1}"#.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["ok"], false);
    until("it is counted", async || presence.counted().1 == 1).await;
    assert_eq!(presence.observed(&tenant(), agent).unwrap().slots_free, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_tells_at_once_whether_anybody_listened() {
    let nats = support::nats().await;
    let (presence, client) = presence(&nats).await;
    let agent = AgentId::nth(3);
    assert!(!presence.listens(tenant(), agent).await);
    assert!(!presence.push(tenant(), agent, assignment()).await);

    let tasks = subject::agent(&tenant(), agent, AgentWord::Tasks);
    let mut tasks = client.subscribe(tasks).await.unwrap();
    client.flush().await.unwrap();
    until("the subscription is known", async || presence.listens(tenant(), agent).await).await;
    let start = Instant::now();
    for _ in 0..100 {
        assert!(presence.listens(tenant(), agent).await);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(presence.push(tenant(), agent, assignment()).await);
    let pushed = loop {
        let message = tasks.next().await.unwrap();
        let probe = message.headers.as_ref().is_some_and(|h| h.get("Taffrail-Probe").is_some());
        assert_eq!(probe, message.payload.is_empty());
        if !probe {
            break message;
        }
    };
    let pushed: Assignment = serde_json::from_slice(&pushed.payload).unwrap();
    assert_eq!(pushed, assignment());

    let control = subject::agent(&tenant(), agent, AgentWord::Control);
    let mut control = client.subscribe(control).await.unwrap();
    client.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    presence.control(tenant(), agent, "drain").await;
    assert_eq!(control.next().await.unwrap().payload, r#"{"command":"drain"}"#);

    drop(tasks);
    client.flush().await.unwrap();
    until("nobody listens", async || !presence.listens(tenant(), agent).await).await;
}

/// A scheduler that has a task in one queue alone, and remembers what it took back.
#[derive(Default)]
struct OneQueue {
    back: Mutex<Vec<Assignment>>,
}

impl Claims for OneQueue {
    fn claim(
        &self,
        _: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Boxed<Result<Claimed, Problem>> {
        Box::pin(async move {
            match queue.as_str() {
                "default" => Ok(Claimed { tasks: vec![assignment()] }),
                "late" => {
                    tokio::time::sleep(Duration::from_millis(request.wait_ms)).await;
                    Ok(Claimed { tasks: vec![assignment()] })
                }
                "slow" => {
                    tokio::time::sleep(Duration::from_millis(request.wait_ms)).await;
                    Ok(Claimed::default())
                }
                _ => Err(Problem::new(Code::NotPossible, "no such queue")),
            }
        })
    }

    fn unheard(&self, tasks: Vec<Assignment>) -> Boxed<()> {
        self.back.lock().unwrap().extend(tasks);
        Box::pin(async {})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_go_to_the_scheduler() {
    let nats = support::nats().await;
    let client = nats.client().await;
    let remote = RemoteClaims::new(client.clone());
    let agent = AgentId::nth(4);
    let claim = |wait_ms| ClaimTasks { wait_ms, ..ClaimTasks::by(agent) };
    let nobody = remote.claim(tenant(), "default".into(), claim(0)).await.unwrap_err();
    assert_eq!(nobody.code(), Some(Code::Unavailable));

    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let (client, cancel) = (nats.client().await, cancel.clone());
        broker::serve_claims(client, Arc::new(OneQueue::default()), only_default(), cancel)
    });
    until("claims are served", async || {
        remote.claim(tenant(), "default".into(), claim(0)).await.is_ok()
    })
    .await;
    let claimed = remote.claim(tenant(), "default".into(), claim(0)).await.unwrap();
    assert_eq!(claimed.tasks, [assignment()]);
    let refused = remote.claim(tenant(), "other".into(), claim(0)).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::NotPossible));
    let waited = remote.claim(tenant(), "slow".into(), claim(200)).await.unwrap();
    assert!(waited.tasks.is_empty());

    // Under its own name the agent may leave its id out, but not give another's.
    let own = subject::agent_claim(&tenant(), agent, "default");
    let ask = async |body: Value| {
        let answer = client.request(own.clone(), body.to_string().into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    assert_eq!(ask(json!({ "max": 1 })).await["tasks"][0]["lease"]["token"], 1);
    let forged = ask(json!({ "agent_id": AgentId::nth(5) })).await;
    assert_eq!(forged["problem"]["status"], 403);
    let wrong = ask(json!({ "max": 257 })).await;
    assert_eq!(wrong["problem"]["errors"][0]["pointer"], "/max");
    assert_eq!(wrong["tasks"], json!([]));
    cancel.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_claimant_who_has_gone_was_given_is_taken_back() {
    let nats = support::nats().await;
    let claims = Arc::new(OneQueue::default());
    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let (client, claims, cancel) = (nats.client().await, claims.clone(), cancel.clone());
        broker::serve_claims(client, claims, only_default(), cancel)
    });
    let remote = RemoteClaims::new(nats.client().await);
    let agent = AgentId::nth(6);
    let claim = |wait_ms| ClaimTasks { wait_ms, ..ClaimTasks::by(agent) };
    until("claims are served", async || {
        remote.claim(tenant(), "default".into(), claim(0)).await.is_ok()
    })
    .await;
    assert!(remote.claim(tenant(), "late".into(), claim(100)).await.is_ok());
    assert!(claims.back.lock().unwrap().is_empty(), "whoever waits has them");

    // Somebody behind the gateway gives up: its connection stays.
    let waits = remote.claim(tenant(), "late".into(), claim(500));
    assert!(tokio::time::timeout(Duration::from_millis(200), waits).await.is_err());
    until("the task is back", async || claims.back.lock().unwrap().len() == 1).await;

    // An agent is killed while it waits.
    let killed = nats.client().await;
    let subject = subject::agent_claim(&tenant(), agent, "late");
    let asking = killed.clone();
    let asked = tokio::spawn(async move {
        let body = r#"{"max":1,"wait_ms":500}"#;
        asking.request(subject, body.into()).await.is_ok()
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    asked.abort();
    killed.drain().await.unwrap();
    until("this one too", async || claims.back.lock().unwrap().len() == 2).await;
    cancel.cancel();
    serving.await.unwrap();
}
