//! W4b: how far the read models are behind the log under half of W1's load.
//!
//! Lag is seen from outside: from the answer to a command (it is committed) to the first look
//! at the checkpoints that finds its event in every read model. Looks are two milliseconds
//! apart, so figures below that mean "at once".

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::beside::{self, Load};
use super::{settle, w1a};
use crate::cell::{Cell, Context, Mode, Params};
use crate::load::{Arrivals, Samples, open};

/// Between two looks at the checkpoints.
const LOOK: Duration = Duration::from_millis(2);
/// How long the read models may take to come to the end after the load.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cells.
pub fn cells() -> Vec<Cell> {
    [0.5, 0.9]
        .into_iter()
        .map(|share| {
            let params = Params::default().with("load", format!("{:.0} % W1", share * 100.0));
            let cell = Cell::new("rebuild", "W4b", params, move |context| run(context, share))
                .mode(Mode::Open)
                .counted(&["submit", "update"]);
            if share == 0.5 { cell.main() } else { cell }
        })
        .collect()
}

async fn run(context: Context, share: f64) -> anyhow::Result<Samples> {
    let target = &context.target;
    let load = Load::prepare(target).await?;
    let full = load.capacity(&beside::part(&context.budget, 0.5), beside::CLIENTS).await?;
    settle::settled(target, PATIENCE).await?;
    let rate = full.ops as f64 / full.seconds * share;

    let stop = CancellationToken::new();
    let looking = tokio::spawn(look(target.database().await?, stop.clone()));
    let answers: Answers = Arc::default();
    let begun = Instant::now();
    let operation = {
        let (load, answers) = (load.clone(), answers.clone());
        move |n: u64| {
            let (load, answers) = (load.clone(), answers.clone());
            async move {
                let outcome = load.command().await?;
                let at = Instant::now();
                let reply = w1a::reply(&outcome)?;
                if !reply.busy {
                    answers[n as usize % SHARDS].lock().push((at, outcome.position));
                }
                Ok(reply)
            }
        }
    };
    let opened = begun + context.budget.warm;
    let mut samples = open(&context.budget, Arrivals::Poisson, rate, operation).await?;
    let ended = Instant::now();
    settle::settled(target, PATIENCE).await?;
    let drained = ended.elapsed();
    stop.cancel();
    let looks = looking.await??;

    let commands = std::mem::replace(&mut samples.histogram, Samples::default().histogram);
    let behind = lag(&answers, &looks, opened, &mut samples)?;
    beside::acknowledge(&mut samples, &[&full], load.acknowledged());
    Ok(samples
        .with("rate", rate)
        .with("capacity", rate / share)
        .with("command_p99_ms", commands.value_at_quantile(0.99) as f64 / 1e3)
        .with("lag_p50_events", behind.value_at_quantile(0.5) as f64)
        .with("lag_p99_events", behind.value_at_quantile(0.99) as f64)
        .with("drained_after_ms", drained.as_secs_f64() * 1e3)
        .with("looks_per_s", looks.len() as f64 / begun.elapsed().as_secs_f64()))
}

/// Lists that share the answers, so that they seldom wait for one another.
const SHARDS: usize = 16;
type Answers = Arc<[Mutex<Vec<(Instant, u64)>>; SHARDS]>;

/// One look: when, the log's end, the end of the read model that is furthest behind.
struct Look {
    at: Instant,
    head: u64,
    folded: u64,
}

async fn look(
    database: tokio_postgres::Client,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Look>> {
    let mut looks = Vec::new();
    loop {
        let last = stop.is_cancelled();
        let (head, folded) = settle::ends(&database).await?;
        looks.push(Look { at: Instant::now(), head, folded });
        if last {
            return Ok(looks);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Fills the samples' histogram with lags in time; gives back those in events.
fn lag(
    answers: &Answers,
    looks: &[Look],
    opened: Instant,
    samples: &mut Samples,
) -> anyhow::Result<Histogram<u64>> {
    for shard in answers.iter() {
        for (at, position) in shard.lock().iter().filter(|(at, _)| *at >= opened) {
            // Checkpoints only grow, so the first look that has it is found by halving.
            let first = looks.partition_point(|look| look.folded < *position);
            let seen = looks.get(first).context("an event that no read model has")?;
            samples.record(seen.at.saturating_duration_since(*at));
        }
    }
    ensure!(!samples.histogram.is_empty(), "no command was answered");
    let mut behind = Histogram::new(3)?;
    for look in looks.iter().filter(|look| look.at >= opened) {
        behind.record(look.head.saturating_sub(look.folded))?;
    }
    Ok(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_runs_from_the_answer_to_the_first_look_that_finds_the_event() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let look = |ms, head, folded| Look { at: at(ms), head, folded };
        let looks = [look(0, 0, 0), look(10, 9, 2), look(20, 9, 5), look(30, 9, 9)];
        let answers: Answers = Arc::default();
        // Before the window; found at the third look; found before its answer came.
        *answers[0].lock() = vec![(at(1), 9), (at(12), 5)];
        *answers[3].lock() = vec![(at(15), 1)];
        let mut samples = Samples::default();
        let behind = lag(&answers, &looks, at(5), &mut samples).unwrap();
        assert_eq!(samples.histogram.len(), 2);
        assert_eq!(samples.histogram.min(), 1);
        assert!(samples.histogram.max().abs_diff(8_000) < 10, "{}", samples.histogram.max());
        assert_eq!((behind.min(), behind.max()), (0, 7));

        answers[0].lock().push((at(16), 10));
        assert!(lag(&answers, &looks, at(5), &mut samples).is_err(), "no read model has it");
    }
}
