//! L3: a fleet that only lives: 10,000 agents, each of which sends a heartbeat every 5 s over
//! core NATS, and what that costs the product.
//!
//! Then some of them, whose silence counts after 3 s, fall silent: the delay from that
//! threshold until it is in the log, and until the list of unhealthy agents has them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::commands::Ids;
use anyhow::{Context as _, ensure};
use async_nats::{Client, Subject};
use bytes::Bytes;
use domain::Status;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::settle;
use crate::cell::{Cell, Context, Params};
use crate::commands::tenant;
use crate::counters::{of_process, of_tree, resident};
use crate::http::Connection;
use crate::load::Samples;
use crate::nats::PATIENCE;
use crate::target::Target;

/// Agents: all, and those of a quick look.
const AGENTS: (u64, u64) = (10_000, 500);
/// Between two heartbeats of one agent.
const EVERY: Duration = Duration::from_secs(5);
/// The shortest window that is measured, except in a quick look.
const WINDOW: Duration = Duration::from_secs(30);
/// Agents that fall silent, how often they beat before, and when that counts.
const WATCHED: u64 = 20;
const WATCHED_EVERY: Duration = Duration::from_secs(1);
const UNHEALTHY_AFTER: Duration = Duration::from_secs(3);
/// Commands in one batch.
const BATCH: u64 = 1_000;
/// Between two rounds of heartbeats that are due.
const TICK: Duration = Duration::from_millis(10);
/// Between two looks for unhealthy agents.
const LOOK: Duration = Duration::from_millis(10);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params =
        Params::default().with("of", "heartbeats").with("agents", AGENTS.0).with("every", "5 s");
    vec![Cell::new("fleet", "L3", params, run).unit("heartbeats")]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let target = context.target.clone();
    let agents = if context.quick { AGENTS.1 } else { AGENTS.0 };
    let client = target.nats().await?;
    let begun = Instant::now();
    register(&client, agents).await?;
    let registered = begun.elapsed();
    settle::settled(&target, Duration::from_secs(60)).await?;
    sleep(Duration::from_secs(1)).await;
    let quiet = used(&target, context.budget.measure.min(Duration::from_secs(5))).await;

    let stop = CancellationToken::new();
    let watched = stop.child_token();
    let fleet = beat(&client, WATCHED..agents, EVERY, stop.clone());
    let few = beat(&client, 0..WATCHED, WATCHED_EVERY, watched.clone());
    // Until each of them has been heard once.
    sleep(EVERY + Duration::from_millis(500)).await;
    let window =
        if context.quick { context.budget.measure } else { context.budget.measure.max(WINDOW) };
    context.budget.probe.open().await;
    let busy = used(&target, window).await;
    context.budget.probe.close().await;
    let memory = resident(target.pid) as f64 / 1e6;
    let servers_memory = target.nats_pid.map_or(0.0, |pid| resident(pid) as f64 / 1e6);
    heard(&target, agents).await?;

    watched.cancel();
    let last = few.await??;
    let mut shown = shown(&target, &last).await?;
    let mut recorded = recorded(&target, &last).await?;
    stop.cancel();
    fleet.await??;
    shown.sort_unstable();
    recorded.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let max = |delays: &[Duration]| delays.last().copied().map_or(0.0, ms);
    let middle = |delays: &[Duration]| delays.get(delays.len() / 2).copied().map_or(0.0, ms);
    let beats = (agents - WATCHED) as f64 / EVERY.as_secs_f64()
        + WATCHED as f64 / WATCHED_EVERY.as_secs_f64();
    Ok(Samples::timed((beats * window.as_secs_f64()) as u64, window)
        .with("agents", agents as f64)
        .with("cpu_percent", busy.product)
        .with("cpu_percent_with_servers", busy.product + busy.postgres + busy.nats)
        .with("cpu_percent_nats", busy.nats)
        .with("cpu_percent_postgres", busy.postgres)
        .with("cpu_percent_without_heartbeats", quiet.product)
        .with("resident_mb", memory)
        .with("resident_mb_nats", servers_memory)
        .with("registered_per_s", agents as f64 / registered.as_secs_f64())
        .with("detected_p50_ms", middle(&recorded))
        .with("detected_max_ms", max(&recorded))
        .with("shown_p50_ms", middle(&shown))
        .with("shown_max_ms", max(&shown)))
}

/// The nth agent.
fn agent(n: u64) -> Uuid {
    Uuid::from_u128((1 << 100) | u128::from(n))
}

/// Registers them all and makes them ready.
async fn register(client: &Client, agents: u64) -> anyhow::Result<()> {
    let register = |n: u64| {
        let mut body = json!({
            "name": format!("agent-{n}"),
            "capabilities": [format!("model-{}", n % 50), "tools"],
        });
        if n < WATCHED {
            body["watch"] = json!({ "unhealthy_after_ms": UNHEALTHY_AFTER.as_millis() as u64 });
        }
        json!({ "type": "agent", "id": agent(n), "command": "register", "body": body })
    };
    let ready = |n| json!({ "type": "agent", "id": agent(n), "command": "mark_ready", "body": {} });
    for first in (0..agents).step_by(BATCH as usize) {
        let these = first..(first + BATCH).min(agents);
        decided(client, these.clone().map(register).collect()).await?;
        decided(client, these.map(ready).collect()).await?;
    }
    Ok(())
}

/// Has a batch decided; all of it must be accepted.
async fn decided(client: &Client, commands: Vec<Value>) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Answer {
        outcomes: Vec<domain::Outcome>,
    }
    let count = commands.len();
    let body = json!({ "commands": commands }).to_string();
    let subject = broker::subject::request_batch(&tenant(), Ids.fresh());
    let request = async_nats::Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subject, request).await?;
    let answer: Answer = serde_json::from_slice(&answer.payload)
        .with_context(|| String::from_utf8_lossy(&answer.payload).into_owned())?;
    let refused = answer.outcomes.iter().find(|outcome| outcome.status != Status::Accepted);
    ensure!(refused.is_none() && answer.outcomes.len() == count, "{refused:?}");
    Ok(())
}

/// Heartbeats of some agents, evenly spread; the end is told when each was heard last.
fn beat(
    client: &Client,
    agents: std::ops::Range<u64>,
    every: Duration,
    stop: CancellationToken,
) -> JoinHandle<anyhow::Result<Vec<Instant>>> {
    let client = client.clone();
    let subjects: Arc<[Subject]> = agents
        .map(|n| format!("taffrail.{}.agent.{}.heartbeat", tenant(), agent(n)).into())
        .collect();
    tokio::spawn(async move {
        let (begun, count) = (Instant::now(), subjects.len());
        let mut last = vec![begun; count];
        let mut sent = 0;
        loop {
            let due = begun.elapsed().as_secs_f64() / every.as_secs_f64() * count as f64;
            while sent < due as usize {
                let (at, round) = (sent % count, sent / count);
                let body = format!(
                    r#"{{"observed_state":"ready","slots_free":1,"progress_seq":{round}}}"#
                );
                client.publish(subjects[at].clone(), Bytes::from(body)).await?;
                last[at] = Instant::now();
                sent += 1;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(TICK) => {}
            }
        }
        client.flush().await?;
        Ok(last)
    })
}

/// Per cent of a core.
struct Share {
    product: f64,
    postgres: f64,
    nats: f64,
}

async fn used(target: &Target, time: Duration) -> Share {
    let read = || {
        let of = |pid: Option<u32>, read: fn(u32) -> f64| pid.map_or(0.0, read);
        [of_process(target.pid), of(target.postgres_pid, of_tree), of(target.nats_pid, of_process)]
    };
    let (begun, before) = (Instant::now(), read());
    sleep(time).await;
    let (passed, after) = (begun.elapsed().as_secs_f64(), read());
    let share = |n: usize| (after[n] - before[n]) / passed * 100.0;
    Share { product: share(0), postgres: share(1), nats: share(2) }
}

/// Heartbeats arrived: nobody is taken for silent, and one of them is shown with its last.
async fn heard(target: &Target, agents: u64) -> anyhow::Result<()> {
    let database = target.database().await?;
    let ready = "SELECT count(*) FROM read.agents WHERE state = 'ready'";
    let ready = settle::number(&database, ready).await?;
    ensure!(ready == agents, "{ready} of {agents} agents are ready");
    let mut connection = Connection::open(&target.http, &target.token).await?;
    let path = format!("/v1/agents/{}", agent(agents - 1));
    let seen: Value = serde_json::from_slice(&connection.get(&path).await?)?;
    ensure!(seen["last_heartbeat"].is_string(), "never heard: {seen}");
    Ok(())
}

/// Per agent: from its threshold until the list of unhealthy agents has it.
async fn shown(target: &Target, last: &[Instant]) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(&target.http, &target.token).await?;
    let begun = Instant::now();
    let (mut delays, mut seen) = (Vec::new(), BTreeSet::new());
    while delays.len() < last.len() {
        ensure!(begun.elapsed() < PATIENCE, "{} of {} were seen", delays.len(), last.len());
        sleep(LOOK).await;
        let page = connection.get("/v1/agents?state=unhealthy&limit=100").await?;
        let now = Instant::now();
        let page: Value = serde_json::from_slice(&page)?;
        for found in page["items"].as_array().context("a list")? {
            let id: Uuid = found["id"].as_str().context("an id")?.parse()?;
            let n = (id.as_u128() & u128::from(u64::MAX)) as usize;
            let last = last.get(n).with_context(|| format!("{id} beats, and is unhealthy"))?;
            let delay = now.checked_duration_since(*last + UNHEALTHY_AFTER);
            let delay = delay.with_context(|| format!("{id} is unhealthy before its time"))?;
            if seen.insert(id) {
                delays.push(delay);
            }
        }
    }
    Ok(delays)
}

/// Per agent: from its threshold until the log has it. The database runs by the same wall
/// clock, on the same machine.
async fn recorded(target: &Target, last: &[Instant]) -> anyhow::Result<Vec<Duration>> {
    let database = target.database().await?;
    let sql = "SELECT max(recorded_at) FROM events WHERE stream_id = $1";
    let mut delays = Vec::new();
    for (n, last) in (0..).zip(last) {
        let at: SystemTime = database.query_one(sql, &[&agent(n)]).await?.get(0);
        let since = SystemTime::now().duration_since(at).unwrap_or_default();
        let silent = last.elapsed().saturating_sub(since);
        delays.push(silent.saturating_sub(UNHEALTHY_AFTER));
    }
    Ok(delays)
}
