//! W2: the life of a task: submitted, claimed, started, completed; four durable events, all
//! relayed and projected.
//!
//! W2a counts from the first submission to the last completion, W2b from the intended
//! submission of each task to its completion, W2c from the first claim to the last
//! completion of tasks that were all there before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::commands::Ids;
use anyhow::{Context as _, bail, ensure};
use async_nats::Client as Nats;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fill;
use super::w2_agent::{CONNECTIONS, Fleet, Tally, Wire, body};
use super::{beside, many, settle};
use crate::cell::{Cell, Context, Mode, Params};
use crate::commands::tenant;
use crate::load::{Arrivals, Reply, Samples, open};
use crate::target::Target;

/// Whose results in the log are counted; the assignments are the scheduler's own.
const COUNTED: &[&str] = &["submit", "start", "complete"];
/// Submitters of W2a, as the published figures of other queues have them.
const SUBMITTERS: usize = 32;
/// As many as its limit cell has clients: each waits for its commit, so that their number bounds
/// the rate.
const MANY_SUBMITTERS: usize = 256;
/// Lives before those that count.
const WARM_UP: u64 = 1_000;
/// Most tasks of a cell, per second of its time: above what one machine gets through.
const MOST_PER_SECOND: f64 = 20_000.0;
/// Tasks that wait before W2c begins, per second of the cell's time; its bounds.
const WAITING_PER_SECOND: f64 = 5_000.0;
const WAITING: (f64, f64) = (5_000.0, 100_000.0);
/// Slots of a worker that drains a queue.
const LARGE_PREFETCH: usize = 500;
/// How long tasks that were submitted may take to be done beyond the cell's own time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let fleet = |workers: usize, prefetch: usize, submitters: usize| {
        Params::default()
            .with("workers", workers)
            .with("prefetch", prefetch)
            .with("submitters", submitters)
            .with("connections", workers.min(CONNECTIONS))
    };
    let workers = |workers, prefetch| fleet(workers, prefetch, SUBMITTERS);
    let of = |count: usize, prefetch: usize, submitters: usize| {
        let params = fleet(count, prefetch, submitters);
        let cell = Cell::new("tasks", "W2a", params, move |context| {
            life(context, count, prefetch, submitters)
        });
        cell.unit("tasks")
            .counted(COUNTED)
            .limit("4-step lives + queue table + relay bytea clients=256 writers=2")
    };
    let a = |count: usize, prefetch: usize| of(count, prefetch, SUBMITTERS);
    let b = |share: f64| {
        let params = workers(512, 16).with("rate", format!("{:.0} % of W2a", share * 100.0));
        let cell =
            Cell::new("tasks", "W2b", params, move |context| steady(context, 512, 16, share));
        cell.mode(Mode::Open).unit("tasks").counted(COUNTED)
    };
    let params = Params::default().with("workers", 24).with("prefetch", LARGE_PREFETCH);
    let c = Cell::new("tasks", "W2c", params, drain).unit("tasks").counted(COUNTED);
    vec![
        a(1, 1),
        a(8, 1),
        a(64, 1),
        a(64, 16).main(),
        a(512, 1).main(),
        a(512, 16),
        of(512, 16, MANY_SUBMITTERS),
        b(0.25),
        b(0.5),
        b(0.75),
        c.main(),
    ]
}

async fn connections(target: &Target, count: usize) -> anyhow::Result<Vec<Nats>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(target.nats().await?);
    }
    Ok(all)
}

/// A fleet at work, and what it writes down.
struct Working {
    tally: Arc<Tally>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Working {
    fn begin(fleet: &Arc<Fleet>, tasks: u64) -> Self {
        let (tally, stop) = (Arc::new(Tally::new(tasks)), CancellationToken::new());
        let (fleet, ours, ended) = (fleet.clone(), tally.clone(), stop.clone());
        let running = tokio::spawn(async move { fleet.work(&ours, &ended).await });
        Self { tally, stop, running }
    }

    /// Waits until so many tasks are done.
    async fn done(&self, tasks: u64, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.tally.done() < tasks {
            // A worker that broke off tells why when it is asked to end.
            let broke = self.running.is_finished();
            if broke || begun.elapsed() > within {
                bail!("{} of {tasks} tasks are done (broken off: {broke})", self.tally.done());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn end(self) -> anyhow::Result<Arc<Tally>> {
        self.stop.cancel();
        self.running.await??;
        Ok(self.tally)
    }

    /// All tasks done, and the workers at rest.
    async fn finish(self, tasks: u64, within: Duration) -> anyhow::Result<Arc<Tally>> {
        let done = self.done(tasks, within).await;
        let ended = self.end().await;
        done.and(ended)
    }
}

/// Submitters in a closed loop until the time is up or there are enough; how many there were.
async fn submitted(
    submitters: usize,
    clients: &[Nats],
    queue: &str,
    tally: &Arc<Tally>,
    most: u64,
    time: Duration,
) -> anyhow::Result<u64> {
    let next = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + time;
    let mut submitting = tokio::task::JoinSet::new();
    for (_, client) in (0..submitters).zip(clients.iter().cycle()) {
        let wire = Wire { client: client.clone(), tenant: tenant() };
        let (queue, tally, next) = (queue.to_owned(), tally.clone(), next.clone());
        submitting.spawn(async move {
            let mut own = 0;
            while Instant::now() < until {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= most {
                    break;
                }
                tally.submit(n, Instant::now());
                wire.submit(Ids.fresh(), body(&fill::submission(n, &queue))).await?;
                own += 1;
            }
            anyhow::Ok(own)
        });
    }
    let mut all = 0;
    while let Some(own) = submitting.join_next().await {
        all += own??;
    }
    Ok(all)
}

/// Workers on a queue, warmed up; the commands that were acknowledged for it.
async fn warmed_up(
    context: &Context,
    clients: &[Nats],
    queue: &str,
    (workers, prefetch): (usize, usize),
) -> anyhow::Result<(Arc<Fleet>, u64)> {
    let fleet = Fleet::register(clients, queue, workers, prefetch).await?;
    let fleet = Arc::new(fleet);
    let working = Working::begin(&fleet, WARM_UP);
    let time = context.budget.warm.max(Duration::from_secs(1));
    let tasks = submitted(SUBMITTERS, clients, queue, &working.tally, WARM_UP, time).await?;
    let tally = working.finish(tasks, PATIENCE).await?;
    settle::settled(&context.target, PATIENCE).await?;
    Ok((fleet, tally.acknowledged(tasks)))
}

/// W2a.
async fn life(
    context: Context,
    workers: usize,
    prefetch: usize,
    submitters: usize,
) -> anyhow::Result<Samples> {
    let clients = connections(&context.target, CONNECTIONS).await?;
    let queue = "w2a";
    let (fleet, before) = warmed_up(&context, &clients, queue, (workers, prefetch)).await?;
    let check = Check::begin(&context.target).await?;
    let time = context.budget.measure;
    let most = (time.as_secs_f64() * MOST_PER_SECOND) as u64;
    let working = Working::begin(&fleet, most);
    context.budget.probe.open().await;
    let tasks = submitted(submitters, &clients, queue, &working.tally, most, time).await?;
    let submitting = working.tally.elapsed();
    let tally = working.finish(tasks, time + PATIENCE).await?;
    context.budget.probe.close().await;
    let settled = settle::settled(&context.target, time + PATIENCE).await?;
    check.end(&context.target, tasks).await?;
    let span = tally.span();
    let mut samples = Samples::timed(tasks, span)
        .with("submitted_per_s", tasks as f64 / submitting.as_secs_f64())
        .with("drained_after_s", span.saturating_sub(submitting).as_secs_f64())
        .with("relayed_after_ms", settled.relay.as_secs_f64() * 1e3)
        .with("projected_after_ms", settled.projections.as_secs_f64() * 1e3);
    // With the queue's growth in it: a closed loop's percentiles, no latency.
    tally.lives().into_iter().for_each(|us| samples.record(Duration::from_micros(us)));
    samples.acknowledged = before + tally.acknowledged(tasks);
    samples.conflicts = tally.lost();
    Ok(samples)
}

/// W2b: a schedule of submissions at a share of what W2a gets through.
async fn steady(
    context: Context,
    workers: usize,
    prefetch: usize,
    share: f64,
) -> anyhow::Result<Samples> {
    let clients = connections(&context.target, CONNECTIONS).await?;
    let queue = "w2b";
    let (fleet, before) = warmed_up(&context, &clients, queue, (workers, prefetch)).await?;
    // What it gets through at full load.
    let part = beside::part(&context.budget, 0.5);
    let most = (part.measure.as_secs_f64() * MOST_PER_SECOND) as u64;
    let working = Working::begin(&fleet, most);
    let full = submitted(SUBMITTERS, &clients, queue, &working.tally, most, part.measure).await?;
    let tally = working.finish(full, PATIENCE).await?;
    let capacity = full as f64 / tally.span().as_secs_f64();
    let before = before + tally.acknowledged(full);
    settle::settled(&context.target, PATIENCE).await?;

    let check = Check::begin(&context.target).await?;
    let rate = capacity * share;
    let whole = context.budget.warm + context.budget.measure;
    let most = (whole.as_secs_f64() * rate * 1.5) as u64 + 1_000;
    let working = Working::begin(&fleet, most);
    let operation = {
        let (tally, clients) = (working.tally.clone(), clients.clone());
        move |n| {
            let client = clients[n as usize % clients.len()].clone();
            let tally = tally.clone();
            async move {
                ensure!(n < most, "more arrivals than there is room for");
                let wire = Wire { client, tenant: tenant() };
                let waits = tally.wait(n);
                wire.submit(Ids.fresh(), body(&fill::submission(n, queue))).await?;
                let done = tokio::time::timeout(PATIENCE, waits).await;
                done.context("a task was not done in time")?.context("the tally is gone")?;
                // The commands are counted by the tally.
                Ok(Reply::units(1))
            }
        }
    };
    let mut samples = open(&context.budget, Arrivals::Poisson, rate, operation).await?;
    let tasks = working.tally.done();
    let tally = working.finish(tasks, PATIENCE).await?;
    let settled = settle::settled(&context.target, PATIENCE).await?;
    check.end(&context.target, tasks).await?;
    samples.acknowledged = before + tally.acknowledged(tasks);
    samples.conflicts = tally.lost();
    Ok(samples
        .with("rate", rate)
        .with("capacity", capacity)
        .with("projected_after_ms", settled.projections.as_secs_f64() * 1e3))
}

/// W2c.
async fn drain(context: Context) -> anyhow::Result<Samples> {
    let clients = connections(&context.target, CONNECTIONS).await?;
    let queue = "w2c";
    let (fleet, before) = warmed_up(&context, &clients, queue, (24, LARGE_PREFETCH)).await?;
    let seconds = context.budget.measure.as_secs_f64();
    let tasks = (seconds * WAITING_PER_SECOND).clamp(WAITING.0, WAITING.1) as u64;
    many::submit(&clients[0], (0, tasks), |n| fill::submission(n, queue)).await?;
    settle::settled(&context.target, PATIENCE).await?;
    let check = Check::begin(&context.target).await?;
    context.budget.probe.open().await;
    let working = Working::begin(&fleet, tasks);
    let tally = working.finish(tasks, context.budget.measure + PATIENCE).await?;
    context.budget.probe.close().await;
    let settled = settle::settled(&context.target, PATIENCE).await?;
    check.end(&context.target, tasks).await?;
    let mut samples = Samples::timed(tasks, tally.span())
        .with("tasks", tasks as f64)
        .with("projected_after_ms", settled.projections.as_secs_f64() * 1e3);
    samples.acknowledged = before + tally.acknowledged(tasks);
    samples.conflicts = tally.lost();
    Ok(samples)
}

/// Counts completions in the log itself.
struct Check {
    completed: u64,
}

const COMPLETED: &str =
    "SELECT count(*) FROM events WHERE stream_type = 'task' AND event_type = 'completed'";

impl Check {
    async fn begin(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { completed: settle::number(&target.database().await?, COMPLETED).await? })
    }

    async fn end(&self, target: &Target, tasks: u64) -> anyhow::Result<()> {
        let now = settle::number(&target.database().await?, COMPLETED).await?;
        let completed = now - self.completed;
        ensure!(completed == tasks, "{completed} completions in the log of {tasks} tasks");
        Ok(())
    }
}
