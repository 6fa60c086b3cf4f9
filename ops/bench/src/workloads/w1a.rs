//! W1a: commands through the library call, no wire between.
//!
//! A stream is eight commands: a task submitted, then changed seven times. The encoding of
//! each command is part of its time, as it is in the limit cell.

use std::sync::Arc;

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

/// The cells.
pub fn cells() -> Vec<Cell> {
    let warm = |clients: usize, limit: &'static str| {
        let params = Params::default().with("clients", clients).with("cache", "warm");
        Cell::new("append", "W1a", params, move |context| run(context, clients))
            .host(Host::Inside(Tuning::default()))
            .counted(&["submit", "update"])
            .limit(limit)
    };
    vec![
        warm(1, "bare INSERT").main(),
        warm(8, "append clients=8"),
        warm(64, "append clients=64").main(),
        warm(256, "append clients=256 in-flight=2").main(),
        warm(1024, "append clients=1024 in-flight=2"),
    ]
}

async fn run(context: Context, clients: usize) -> anyhow::Result<Samples> {
    let executor = context.target.executor()?;
    let clients = (0..clients).map(|n| Caller::new(executor.clone(), n as u64)).collect();
    closed(&context.budget, clients).await
}

struct Caller {
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
