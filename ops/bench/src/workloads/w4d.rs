//! W4d: a read model made anew while it serves: how fast that is, and what readers notice.
//!
//! Readers ask for tasks by id on a fixed schedule, first alone, then while the model is made
//! anew over and over. What the rebuild costs is the CPU time of product and PostgreSQL in the
//! second window less that of the first; events per second of it is the figure per core.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use projections::Model;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{beside, fill, many, settle};
use crate::cell::{Cell, Context, Mode, Params};
use crate::counters::Reading;
use crate::http::Connection;
use crate::load::{Arrivals, Client, Reply, Samples, closed, open};

/// Tasks in the log, and in a quick look; each is one event.
const TASKS: (u64, u64) = (200_000, 20_000);
/// Connections of the readers: more than are ever needed.
const SPARE: usize = 64;
/// Clients that find out the capacity which the readers take a part of.
const CAPACITY_CLIENTS: usize = 16;
/// That part.
const LOAD: f64 = 0.25;
/// How long the read models may take to have all tasks.
const SETTLE: Duration = Duration::from_secs(300);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let cell = |model: Model| {
        let params = Params::default().with("model", model.as_str()).with("load", "25 %");
        Cell::new("rebuild", "W4d", params, move |context| run(context, model))
            .mode(Mode::Open)
            .unit("requests")
    };
    vec![cell(Model::Tasks).main(), cell(Model::Audit)]
}

async fn run(context: Context, model: Model) -> anyhow::Result<Samples> {
    let tasks = if context.quick { TASKS.1 } else { TASKS.0 };
    let nats = context.target.nats().await?;
    let ids = many::submit(&nats, (0, tasks), |n| fill::submission(n, "default")).await?;
    settle::settled(&context.target, SETTLE).await?;
    // A table that grew slowly would have been looked after on the way.
    context.target.database().await?.batch_execute("VACUUM (ANALYZE) read.tasks, events").await?;
    let asked = Arc::new((ids, AtomicUsize::new(0)));
    let full = closed(
        &beside::part(&context.budget, 0.25),
        readers(&context, &asked, CAPACITY_CLIENTS).await?,
    )
    .await?;
    let rate = full.ops as f64 / full.seconds * LOAD;

    let probe = context.budget.probe.clone();
    let before = probe.read().await;
    let alone = read(&context, &asked, rate, false).await?;
    let between = probe.read().await;
    let stop = CancellationToken::new();
    let rebuilding = tokio::spawn(rebuild(context.clone(), model, stop.clone()));
    let samples = read(&context, &asked, rate, true).await?;
    stop.cancel();
    let made = rebuilding.await??;
    let after = probe.read().await;

    let used = |first: &Reading, last: &Reading| {
        let cpu = (last.server - first.server) + (last.postgres - first.postgres);
        (cpu, (last.at - first.at).as_secs_f64())
    };
    let (cpu_alone, time_alone) = used(&before, &between);
    let (cpu, time) = used(&between, &after);
    let cost = (cpu - cpu_alone / time_alone * time).max(1e-9);
    let p99 = |samples: &Samples| samples.histogram.value_at_quantile(0.99) as f64 / 1e3;
    let (p99_alone, p99_beside) = (p99(&alone), p99(&samples));
    Ok(samples
        .with("rate", rate)
        .with("alone_p99_ms", p99_alone)
        .with("p99_ratio", p99_beside / p99_alone.max(1e-9))
        .with("rebuilds", made.count as f64)
        .with("rebuild_events_per_s", made.events as f64 / time)
        .with("rebuild_events_per_cpu_s", made.events as f64 / cost)
        .with("switch_max_ms", made.switch_ms as f64))
}

/// What was made anew.
#[derive(Default)]
struct Made {
    count: u64,
    events: u64,
    switch_ms: u64,
}

/// Makes the model anew until told to stop, and to its end.
async fn rebuild(context: Context, model: Model, stop: CancellationToken) -> anyhow::Result<Made> {
    let target = &context.target;
    let mut connection = Connection::open(&target.http, &target.token).await?;
    let path = format!("/v1/projections/{model}/rebuild");
    let mut made = Made::default();
    while !stop.is_cancelled() {
        let wait = [("prefer", "wait=60")];
        let answer = connection.send(Method::POST, &path, &wait, Bytes::from_static(b"{}")).await?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == StatusCode::OK, "a rebuild: {}: {text}", answer.status);
        let answer: Value = serde_json::from_str(&text)?;
        let report = &answer["result"];
        ensure!(report["differing"] == 0, "{report}");
        made.count += 1;
        made.events += report["events"].as_u64().context("events")?;
        made.switch_ms = made.switch_ms.max(report["switch_ms"].as_u64().context("a switch")?);
    }
    Ok(made)
}

type Asked = Arc<(Vec<Uuid>, AtomicUsize)>;

/// Reads on schedule; `counted`: this is the cell's window.
async fn read(
    context: &Context,
    asked: &Asked,
    rate: f64,
    counted: bool,
) -> anyhow::Result<Samples> {
    let (idle, free) = mpsc::channel(SPARE);
    for reader in readers(context, asked, SPARE).await? {
        idle.send(reader).await?;
    }
    let free = Arc::new(Mutex::new(free));
    let budget = if counted { context.budget.clone() } else { beside::unprobed(&context.budget) };
    open(&budget, Arrivals::Poisson, rate, move |_| {
        let (idle, free) = (idle.clone(), free.clone());
        async move {
            let mut reader = free.lock().await.recv().await.context("no connection is left")?;
            let reply = reader.operate().await;
            idle.send(reader).await?;
            reply
        }
    })
    .await
}

async fn readers(context: &Context, asked: &Asked, count: usize) -> anyhow::Result<Vec<Reader>> {
    let target = &context.target;
    let connections = Connection::several(&target.http, &target.token, count).await?;
    let reader = |connection| Reader { connection, asked: asked.clone() };
    Ok(connections.into_iter().map(reader).collect())
}

struct Reader {
    connection: Connection,
    asked: Asked,
}

impl Client for Reader {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let (ids, next) = &*self.asked;
        // A stride that shares no factor with the number of tasks meets all, in no order.
        let nth = next.fetch_add(1, Ordering::Relaxed).wrapping_mul(7_919);
        let id = ids[nth % ids.len()];
        // Anything but the task is an error, and errors are counted.
        self.connection.get(&format!("/v1/tasks/{id}")).await?;
        Ok(Reply::read())
    }
}
