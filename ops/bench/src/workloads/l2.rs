//! L2: from the request that deploys an agent to the agent that is ready, through the whole
//! product with a node in it.
//!
//! The agent is `sleep`: what is left is the product's own part. Its operation succeeds once
//! the agent is ready; the caller asks for it every few milliseconds, as a script would.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cell::{Cell, Context, Host, Params};
use crate::http::Connection;
use crate::load::Samples;
use crate::server::Server;
use crate::target::Target;

/// Deploys one after the other: all, and those of a quick look.
const ROW: (u32, u32) = (100, 3);
/// Deploys at once: all, and those of a quick look.
const AT_ONCE: (u32, u32) = (50, 3);
/// Between two looks at an operation.
const LOOK: Duration = Duration::from_millis(5);
/// Longest wait for an operation.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let cell = |deploys: &'static str, at_once: bool| {
        let params = Params::default().with("deploys", deploys).with("agent", "sleep");
        let run = move |context| run(context, at_once);
        Cell::new("deploy", "L2", params, run).host(Host::Bare).unit("deploys")
    };
    vec![cell("in a row", false), cell("at once", true)]
}

async fn run(context: Context, at_once: bool) -> anyhow::Result<Samples> {
    let target = start(context.product.program(), &context.folder.join("up")).await?;
    let of = |(all, few): (u32, u32)| if context.quick { few } else { all };
    let measured = match at_once {
        true => together(&target, of(AT_ONCE)).await,
        false => in_a_row(&target, of(ROW)).await,
    };
    // The orderly end has the node end its agents, those of a run that failed too.
    let stopped = target.server().context("no server")?.stop().await;
    target.stop().await;
    stopped?;
    measured
}

/// `up` with a node that has room for all.
async fn start(program: &Path, folder: &Path) -> anyhow::Result<Target> {
    std::fs::create_dir_all(folder)?;
    let settings = folder.join("bench.toml");
    std::fs::write(&settings, format!("node_slots = {}\n", 2 * AT_ONCE.0))?;
    let settings = settings.display().to_string();
    let server = Server::start(program, folder, &["--node", "--config", &settings]).await?;
    Ok(Target::outside(server))
}

async fn in_a_row(target: &Target, count: u32) -> anyhow::Result<Samples> {
    let mut connection = Connection::open(&target.http, &target.token).await?;
    let mut took = Vec::new();
    // The first start of all finds out what the host can enforce.
    for n in 0..=count {
        let agent = register(&mut connection, n).await?;
        let begun = Instant::now();
        operate(&mut connection, &agent, "deploy").await?;
        let time = begun.elapsed();
        is_ready(&mut connection, &agent).await?;
        if n > 0 {
            took.push(time);
        }
        operate(&mut connection, &agent, "force_stop").await?;
    }
    let mut samples = Samples::timed(count.into(), took.iter().sum());
    took.iter().for_each(|time| samples.record(*time));
    let p95 = samples.histogram.value_at_quantile(0.95) as f64 / 1e3;
    Ok(samples.with("p95_ms", p95))
}

async fn together(target: &Target, count: u32) -> anyhow::Result<Samples> {
    let mut ready = Vec::new();
    for n in 0..=count {
        let mut connection = Connection::open(&target.http, &target.token).await?;
        let agent = register(&mut connection, n).await?;
        ready.push((connection, agent));
    }
    if let Some((mut connection, first)) = ready.pop() {
        operate(&mut connection, &first, "deploy").await?;
        operate(&mut connection, &first, "force_stop").await?;
    }
    let mut deploys = JoinSet::new();
    let begun = Instant::now();
    for (mut connection, agent) in ready {
        deploys.spawn(async move {
            operate(&mut connection, &agent, "deploy").await?;
            let took = begun.elapsed();
            is_ready(&mut connection, &agent).await?;
            operate(&mut connection, &agent, "force_stop").await?;
            anyhow::Ok(took)
        });
    }
    let ended = deploys.join_all().await;
    let (mut samples, mut last) = (Samples::default(), Duration::ZERO);
    for ended in ended {
        match ended {
            Ok(took) => {
                samples.ops += 1;
                samples.record(took);
                last = last.max(took);
            }
            Err(error) => {
                samples.errors += 1;
                samples.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    if let Some(error) = samples.error.as_ref().filter(|_| samples.ops == 0) {
        bail!("no deploy succeeded: {error}");
    }
    samples.seconds = last.as_secs_f64();
    let failed = samples.errors as f64;
    Ok(samples
        .with("at_once", count.into())
        .with("at_once_ms", last.as_secs_f64() * 1e3)
        .with("failed", failed))
}

async fn register(connection: &mut Connection, n: u32) -> anyhow::Result<String> {
    let body = json!({
        "name": format!("sleeper-{n}"),
        // A run whose server is killed leaves nothing behind for long.
        "profile": { "command": ["sleep", "1000"] },
    });
    let answer = connection.post("/v1/agents", body.to_string().into()).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == StatusCode::CREATED, "{}: {text}", answer.status);
    let made: Value = serde_json::from_slice(&answer.body)?;
    Ok(made["id"].as_str().context("an agent without an id")?.to_owned())
}

/// A command on an agent, until its operation has succeeded.
async fn operate(connection: &mut Connection, agent: &str, command: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    let path = format!("/v1/agents/{agent}/{command}");
    let answer = connection.post(&path, Bytes::from_static(b"{}")).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == StatusCode::ACCEPTED, "{path}: {}: {text}", answer.status);
    let taken: Value = serde_json::from_slice(&answer.body)?;
    let operation = taken["operation_id"].as_str().context("no operation")?;
    let path = format!("/v1/operations/{operation}");
    loop {
        let answer = connection.send(Method::GET, &path, &[], Bytes::new()).await?;
        // The read model may not have it yet.
        if answer.status != StatusCode::NOT_FOUND {
            let seen: Value = serde_json::from_slice(&answer.body)?;
            match seen["state"].as_str() {
                Some("succeeded") => return Ok(()),
                Some("accepted" | "running") => {}
                Some(_) | None => bail!("{command}: {seen}"),
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "{command} has not ended after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// What the operation's success says is true: there is a process, and it is believed ready.
async fn is_ready(connection: &mut Connection, agent: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let seen: Value =
            serde_json::from_slice(&connection.get(&format!("/v1/agents/{agent}")).await?)?;
        if seen["state"] == "ready" && seen["process"]["pid"].is_u64() {
            return Ok(());
        }
        // The read models follow the log.
        ensure!(begun.elapsed() < Duration::from_secs(5), "deployed, and not ready: {seen}");
        tokio::time::sleep(LOOK).await;
    }
}
