//! Agents as real processes that are stopped (SIGSTOP) beyond their lease and go on: their
//! late answers change nothing, and each task is completed once.
//!
//! `TAFFRAIL_FAULT=long cargo test -p taffrail --test it paused:: -- --nocapture` is the long
//! form, with 100 pauses; its figures are in docs/faults.md.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::agents::{RunningAgent, fresh, submit};
use crate::support::{Product, SOON, product, unique};

/// What a pause came to.
#[derive(Debug, Default)]
struct Seen {
    pauses: usize,
    tasks: usize,
    expired: usize,
    lost: usize,
    by_agents: usize,
    stale: usize,
}

async fn events(product: &Product, task: &str) -> Vec<Value> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("{}/v1/tasks/{task}/events", product.http);
    let asked = reqwest::Client::new().get(url).bearer_auth(&product.token).send().await;
    let page: Value = asked.unwrap().json().await.unwrap();
    page["items"].as_array().expect("events").clone()
}

fn kind(event: &Value) -> &str {
    event["type"].as_str().and_then(|kind| kind.split('.').nth(3)).unwrap_or_default()
}

async fn until_it_has(product: &Product, task: &str, name: &str) {
    let begin = Instant::now();
    while !events(product, task).await.iter().any(|event| kind(event) == name) {
        assert!(begin.elapsed() < SOON, "{task} is not {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// By its log: completed once, and whatever an agent did to it, it held it then.
fn check(task: &str, events: &[Value], seen: &mut Seen) {
    let mut holder: Option<String> = None;
    let mut completed = 0;
    for event in events {
        let (kind, actor) = (kind(event), event["actor"].as_str().unwrap_or_default());
        match kind {
            "assigned" => {
                let agent = event["data"]["agent_id"].as_str().expect("an agent");
                holder = Some(format!("agent:{agent}"));
            }
            "lease_expired" => {
                seen.expired += 1;
                holder = None;
            }
            _ => {}
        }
        seen.by_agents += usize::from(actor.starts_with("agent:"));
        if actor.starts_with("agent:") && Some(actor) != holder.as_deref() {
            seen.stale += 1;
            eprintln!("{task}: {kind} by {actor}, {holder:?} holds it");
        }
        completed += usize::from(kind == "completed");
    }
    assert_eq!(completed, 1, "{task}: {events:#?}");
    seen.tasks += 1;
}

/// All agents get a task each; most of them stand still until another has taken theirs.
async fn round(
    product: &Product,
    capability: &str,
    agents: &mut BTreeMap<String, RunningAgent>,
    long: bool,
    seen: &mut Seen,
) {
    // Of what they took over in the round before.
    agents.values().for_each(RunningAgent::forget);
    let tasks: Vec<String> =
        agents.keys().map(|_| submit(product, capability, &["--queue", capability])).collect();
    let mut paused = Vec::new();
    // Some stay, to take over from the others.
    let stay = agents.len() / 3;
    for (nth, (name, agent)) in agents.iter().enumerate() {
        let notice = agent.wait("task", "started");
        if nth >= stay {
            agent.signal(Signal::STOP);
            let task = notice["task_id"].as_str().expect("a task").to_owned();
            paused.push((name.clone(), task));
        }
    }
    for (_, task) in &paused {
        // Back while the task waits, or only when another has done it.
        let name = if long { "completed" } else { "lease_expired" };
        until_it_has(product, task, name).await;
    }
    for (name, _) in &paused {
        agents[name].signal(Signal::CONT);
        agents[name].wait("task", "lost");
        seen.lost += 1;
    }
    seen.pauses += paused.len();
    for task in &tasks {
        until_it_has(product, task, "completed").await;
        check(task, &events(product, task).await, seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_beyond_its_lease_writes_nothing_afterwards() {
    let long = std::env::var("TAFFRAIL_FAULT").is_ok_and(|form| form == "long");
    let (agents, pauses) = if long { (9, 100) } else { (3, 4) };
    let product = product().await;
    let capability = fresh("paused");
    let mut running = BTreeMap::new();
    for nth in 0..agents {
        let name = format!("paused-{nth}-{}-{}", std::process::id(), unique());
        // Its answer is ready while it stands still.
        let agent = RunningAgent::start(
            product,
            &name,
            &capability,
            &["--queue", &capability],
            "sleep 2.5; echo 1",
        );
        running.insert(name, agent);
    }
    let (mut seen, begin) = (Seen::default(), Instant::now());
    let mut turn = 0;
    while seen.pauses < pauses {
        round(product, &capability, &mut running, turn % 2 == 0, &mut seen).await;
        turn += 1;
    }
    eprintln!("{seen:?} in {:?}", begin.elapsed());
    assert!(seen.stale == 0 && seen.by_agents >= seen.tasks, "{seen:?}");
    assert!(seen.expired >= seen.pauses && seen.lost == seen.pauses, "{seen:?}");
}
