//! W1c: contention. Few streams, chosen unevenly, and every client names the version that it
//! believes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::commands::{CommandEnvelope, Executor, Ids};
use domain::task::TaskCommand;
use domain::{Code, Command, Status};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::w1a::{Caller, reply};
use crate::cell::{Cell, Context, Host, Params};
use crate::commands::{ACTOR, tenant, update};
use crate::load::{Client, Reply, Samples, closed};
use crate::product::Tuning;

/// Streams that the clients share.
const STREAMS: usize = 10_000;
/// Clients.
const CLIENTS: usize = 256;

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params = Params::default()
        .with("clients", CLIENTS)
        .with("streams", STREAMS)
        .with("choice", "zipf(1.0)");
    vec![
        Cell::new("append", "W1c", params, run)
            .host(Host::Inside(Tuning::default()))
            .counted(&["submit", "update"])
            .limit("head-row CTE, gap-free, fenced: clients=256 partitions=1 in-flight=2"),
    ]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let executor = context.target.executor()?;
    let streams = if context.quick { STREAMS / 10 } else { STREAMS };
    let ids = Caller::fill(&executor, streams, 1).await?;
    let hot = Arc::new(Hot {
        versions: ids.iter().map(|_| AtomicU64::new(1)).collect(),
        choice: Zipf::new(ids.len()),
        ids,
    });
    let clients = (0..CLIENTS as u64).map(|n| Rival {
        executor: executor.clone(),
        hot: hot.clone(),
        random: StdRng::seed_from_u64(context.budget.seed ^ n),
        n: n << 32,
    });
    let mut samples = closed(&context.budget, clients.collect()).await?;
    samples.acknowledged += streams as u64;
    let tries = (samples.ops + samples.conflicts).max(1) as f64;
    let rate = samples.conflicts as f64 / tries;
    Ok(samples.with("conflict_rate", rate))
}

/// What the clients know in common: the last version that any of them heard of.
struct Hot {
    ids: Vec<Uuid>,
    versions: Vec<AtomicU64>,
    choice: Zipf,
}

struct Rival {
    executor: Arc<dyn Executor>,
    hot: Arc<Hot>,
    random: StdRng,
    n: u64,
}

impl Client for Rival {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.n += 1;
        let chosen = self.hot.choice.draw(&mut self.random);
        let command: Command = TaskCommand::Update(update(self.n)).into();
        let stream = self.hot.ids[chosen];
        let envelope = CommandEnvelope::new(tenant(), stream, command, Ids.fresh(), ACTOR);
        let expected_version = Some(self.hot.versions[chosen].load(Ordering::Acquire));
        let envelope = CommandEnvelope { fresh: true, expected_version, ..envelope };
        let outcome = self.executor.execute(envelope).await;
        let moved_on = outcome.status == Status::Refused
            && outcome.problem.as_ref().is_some_and(|p| p.code() == Some(Code::VersionMismatch));
        self.hot.versions[chosen].fetch_max(outcome.version, Ordering::AcqRel);
        if moved_on { Ok(Reply::conflict()) } else { reply(&outcome) }
    }
}

/// The nth of N is chosen 1/n times as often as the first.
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let add = |n: usize| {
            sum += 1.0 / n as f64;
            sum
        };
        Self { cumulative: (1..=count).map(add).collect() }
    }

    fn draw(&self, random: &mut impl Rng) -> usize {
        let whole = self.cumulative.last().copied().unwrap_or_default();
        let drawn = random.random::<f64>() * whole;
        self.cumulative.partition_point(|sum| *sum < drawn).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_chosen_twice_as_often_as_the_second() {
        let (zipf, mut random) = (Zipf::new(1_000), StdRng::seed_from_u64(1));
        let mut counts = vec![0u32; 1_000];
        for _ in 0..200_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
        assert!(counts.iter().all(|count| *count > 0));
    }
}
