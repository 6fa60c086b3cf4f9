//! W1a: commands through the library call, no wire between.
//!
//! A stream is eight commands: a task submitted, then changed seven times. The encoding of
//! each command is part of its time, as it is in the limit cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::commands::{CommandEnvelope, Executor, Ids};
use anyhow::bail;
use domain::task::TaskCommand;
use domain::{Command, Outcome, Status, TenantId};
use uuid::Uuid;

use crate::cell::{Cell, Context, Host, Params};
use crate::commands::{ACTOR, submit, tenant, update};
use crate::load::{Client, Reply, Samples, closed};
use crate::product::Tuning;

/// Commands per stream.
const PER_STREAM: u32 = 8;
/// Clients beside which sealing is measured: enough to keep the log busy.
const SEALING: usize = 256;
/// Clients that fill a log.
const FILLERS: u64 = 512;

/// Streams of the cold cell, and how many of them the processor keeps: each call finds its
/// stream in the database alone.
const COLD_STREAMS: usize = 20_000;
const COLD_CACHE: usize = 1_000;

/// The cells.
pub fn cells() -> Vec<Cell> {
    let warm = |clients: usize, limit: &'static str| {
        let params = Params::default().with("clients", clients).with("cache", "warm");
        Cell::new("append", "W1a", params, move |context| run(context, clients))
            .host(Host::Inside(Tuning::default()))
            .counted(&["submit", "update"])
            .limit(limit)
    };
    let cold = |clients: usize| {
        let params = Params::default()
            .with("clients", clients)
            .with("cache", "cold")
            .with("events", "8 and more");
        Cell::new("append", "W1a", params, move |context| run_cold(context, clients))
            .host(Host::Inside(Tuning { cache: Some(COLD_CACHE), ..Tuning::default() }))
            .counted(&["submit", "update"])
            .limit("bytea rehydrate events=10 pipelined=8 one conn")
    };
    vec![
        warm(1, "Insert batch=1 conns=1").main(),
        warm(8, "head-row CTE, gap-free, fenced: clients=8 partitions=1 in-flight=1"),
        warm(64, "head-row CTE, gap-free, fenced: clients=64 partitions=1 in-flight=1").main(),
        warm(256, "head-row CTE, gap-free, fenced: clients=256 partitions=1 in-flight=2").main(),
        warm(1024, "head-row CTE, gap-free, fenced: clients=1024 partitions=1 in-flight=2"),
        cold(256),
    ]
}

/// V2: the same with and without the sealer beside it, in turn: what sealing costs.
pub fn sealing() -> Vec<Cell> {
    let cell = |sealing: bool| {
        let word = if sealing { "on" } else { "off" };
        let params = Params::default().with("clients", SEALING).with("sealing", word);
        Cell::new("append", "V2", params, |context| run(context, SEALING))
            .host(Host::Inside(Tuning { unsealed: !sealing, ..Tuning::default() }))
            .counted(&["submit", "update"])
    };
    vec![cell(false), cell(true)]
}

async fn run(context: Context, clients: usize) -> anyhow::Result<Samples> {
    let executor = context.target.executor()?;
    let clients = (0..clients).map(|n| Caller::new(executor.clone(), (n as u64) << 32)).collect();
    closed(&context.budget, clients).await
}

/// One stream after the other, round and round: with fewer places in the cache than streams,
/// none is found there.
async fn run_cold(context: Context, clients: usize) -> anyhow::Result<Samples> {
    let executor = context.target.executor()?;
    let streams = if context.quick { 2 * COLD_CACHE } else { COLD_STREAMS };
    let ids: Arc<[Uuid]> = Caller::fill(&executor, streams, PER_STREAM).await?.into();
    let next = Arc::new(AtomicU64::new(0));
    let clients = (0..clients).map(|n| Visitor {
        executor: executor.clone(),
        ids: ids.clone(),
        next: next.clone(),
        n: (n as u64) << 32,
    });
    let mut samples = closed(&context.budget, clients.collect()).await?;
    samples.acknowledged += streams as u64 * u64::from(PER_STREAM);
    Ok(samples)
}

struct Visitor {
    executor: Arc<dyn Executor>,
    ids: Arc<[Uuid]>,
    next: Arc<AtomicU64>,
    n: u64,
}

impl Client for Visitor {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.n += 1;
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % self.ids.len();
        let command: Command = TaskCommand::Update(update(self.n)).into();
        let envelope = CommandEnvelope::new(tenant(), self.ids[at], command, Ids.fresh(), ACTOR);
        let envelope = CommandEnvelope { fresh: true, ..envelope };
        reply(&self.executor.execute(envelope).await)
    }
}

/// A client that makes streams of its own.
pub(super) struct Caller {
    executor: Arc<dyn Executor>,
    tenant: TenantId,
    n: u64,
    stream: Uuid,
    step: u32,
}

impl Caller {
    fn new(executor: Arc<dyn Executor>, n: u64) -> Self {
        Self { executor, tenant: tenant(), n, stream: Ids.fresh(), step: 0 }
    }

    /// Makes streams of so many commands each, by many hands; their ids.
    pub(super) async fn fill(
        executor: &Arc<dyn Executor>,
        streams: usize,
        length: u32,
    ) -> anyhow::Result<Vec<Uuid>> {
        let left = Arc::new(AtomicU64::new(streams as u64));
        let makers = (0..FILLERS).map(|n| {
            let (left, executor) = (left.clone(), executor.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                let mut caller = Self::new(executor, n << 48);
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    caller.step = PER_STREAM;
                    for _ in 0..length {
                        while caller.operate().await?.busy {
                            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        }
                    }
                    ids.push(caller.stream);
                }
                anyhow::Ok(ids)
            })
        });
        let mut ids = Vec::with_capacity(streams);
        for made in futures::future::join_all(makers).await {
            ids.extend(made??);
        }
        Ok(ids)
    }
}

impl Client for Caller {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.n += 1;
        if self.step == PER_STREAM {
            self.step = 0;
            self.stream = Ids.fresh();
        }
        let new_stream = self.step == 0;
        let command: Command = if new_stream {
            TaskCommand::Submit(submit(self.n)).into()
        } else {
            TaskCommand::Update(update(self.n)).into()
        };
        let envelope =
            CommandEnvelope::new(self.tenant.clone(), self.stream, command, Ids.fresh(), ACTOR);
        // As the gateway has it for a request without a key: both ids were made just now.
        let envelope = CommandEnvelope { fresh: true, new_stream, ..envelope };
        let reply = reply(&self.executor.execute(envelope).await)?;
        if !reply.busy {
            self.step += 1;
        }
        Ok(reply)
    }
}

/// What an outcome counts as; a refusal is none that a workload expects.
pub(super) fn reply(outcome: &Outcome) -> anyhow::Result<Reply> {
    match outcome.status {
        Status::Accepted => Ok(Reply::command()),
        Status::Busy => Ok(Reply::busy()),
        Status::Refused | Status::Invalid | Status::Duplicate => {
            let detail = outcome.problem.as_ref().map_or("", |problem| problem.detail.as_str());
            bail!("{:?}: {detail}", outcome.status)
        }
    }
}
