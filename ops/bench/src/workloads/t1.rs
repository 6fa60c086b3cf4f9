//! T1: questions about the past over a long log: any query as of a random position, the same
//! moment again, two moments compared, because of what, since when.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::StatusCode;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fill::Plan;
use super::settle::{self, number};
use super::w7::{check, filled};
use crate::cell::{Cell, Context, Host, Params};
use crate::http::Connection;
use crate::load::Samples;
use crate::server::Server;
use crate::target::Target;

/// Events of the log: all, and those of a quick look.
const EVENTS: (u64, u64) = (5_000_000, 50_000);
/// Tasks that wait at the end.
const OPEN: u64 = 10_000;
/// Questions of each kind.
const QUESTIONS: u64 = 200;
/// Comparisons and searches, which take longer.
const LONG: u64 = 20;
/// How long relay and read models may take for the whole log.
const CATCH_UP: Duration = Duration::from_secs(1_800);

/// The cell.
pub fn cells() -> Vec<Cell> {
    let cell = Cell::new("time", "T1", Params::default(), run);
    vec![cell.host(Host::Bare).unit("questions").main()]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let folder = context.folder.join("up");
    let events = if context.quick { EVENTS.1 } else { EVENTS.0 };
    let open = OPEN.min(events / 10);
    let filled = filled(&context, &folder, Plan::of_events(events, open)).await?;
    let program = context.product.program().to_owned();
    let begun = Instant::now();
    let target = Target::outside(Server::start(&program, &folder, &[]).await?);
    settle::settled(&target, CATCH_UP).await?;
    let caught_up = begun.elapsed();
    check(&target, filled.tasks).await?;
    let database = target.database().await?;
    database.batch_execute("VACUUM (ANALYZE)").await?;
    database.batch_execute("CHECKPOINT").await?;
    let log = number(&database, "SELECT pg_total_relation_size('events')").await?;
    let past = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
                WHERE c.relnamespace = 'past'::regnamespace AND c.relkind = 'r'";
    let past = number(&database, past).await?;

    let mut asker = Asker {
        connection: Connection::open(&target.http, &target.token).await?,
        dice: StdRng::seed_from_u64(context.budget.seed),
        head: filled.head,
        done: filled.done,
    };
    let mut samples = Samples::default()
        .with("events", filled.head as f64)
        .with("caught_up_s", caught_up.as_secs_f64())
        .with("past_of_log", past as f64 / log as f64);
    let (mut first, mut again) = (Times::new()?, Times::new()?);
    for nth in 0..QUESTIONS {
        let path = asker.question(nth);
        let took = asker.get(&path).await?;
        samples.ops += 1;
        samples.seconds += took.as_secs_f64();
        samples.record(took);
        first.add(took)?;
        again.add(asker.get(&path).await?)?;
    }
    let mut diff = Times::new()?;
    for _ in 0..LONG {
        let (a, b) = (asker.position(), asker.position());
        let path = format!("/v1/time/diff?from={}&to={}", a.min(b), a.max(b));
        diff.add(asker.get(&path).await?)?;
    }
    let mut why = Times::new()?;
    for _ in 0..QUESTIONS {
        let path = format!("/v1/time/why?event={}", asker.position());
        why.add(asker.get(&path).await?)?;
    }
    let (mut bisect, mut by_state) = (Times::new()?, Times::new()?);
    for _ in 0..LONG {
        let title = format!("row.title == 'Summarise document {}'", asker.life());
        bisect.add(asker.bisect(&title).await?)?;
        by_state.add(asker.bisect(&format!("row.state == 'failed' && {title}")).await?)?;
    }
    target.stop().await;
    for (name, times) in [
        ("as_of", first),
        ("as_of_again", again),
        ("diff", diff),
        ("why", why),
        ("bisect", bisect),
        ("bisect_by_state", by_state),
    ] {
        for (part, at) in [("p50", 0.5), ("p95", 0.95), ("max", 1.0)] {
            samples = samples.with(&format!("{name}_{part}_ms"), times.at(at));
        }
    }
    Ok(samples)
}

/// Latencies in microseconds.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new(3)?))
    }

    fn add(&mut self, took: Duration) -> anyhow::Result<()> {
        Ok(self.0.record(u64::try_from(took.as_micros())?)?)
    }

    /// In milliseconds.
    fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

struct Asker {
    connection: Connection,
    dice: StdRng,
    head: u64,
    done: Vec<Uuid>,
}

impl Asker {
    fn position(&mut self) -> u64 {
        self.dice.random_range(1..=self.head)
    }

    /// One of the tasks that came to an end.
    fn life(&mut self) -> u64 {
        self.dice.random_range(0..self.head / 5)
    }

    /// Each of the usual questions in turn, each about another moment.
    fn question(&mut self, nth: u64) -> String {
        let at = self.position();
        let task = self.done[self.dice.random_range(0..self.done.len())];
        match nth % 5 {
            0 => format!("/v1/tasks?limit=50&as_of={at}"),
            1 => format!("/v1/tasks?state=in_progress&limit=50&as_of={at}"),
            2 => format!("/v1/queues?as_of={at}"),
            3 => format!("/v1/agents?limit=50&as_of={at}"),
            // The named tasks are the log's first ones.
            _ => format!(
                "/v1/tasks/{task}?as_of={}",
                at.max(5 * self.done.len() as u64).min(self.head)
            ),
        }
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.connection.get(path).await.with_context(|| path.to_owned())?;
        Ok(begun.elapsed())
    }

    async fn bisect(&mut self, condition: &str) -> anyhow::Result<Duration> {
        let body = Bytes::from(json!({ "model": "tasks", "condition": condition }).to_string());
        let begun = Instant::now();
        let answer = self.connection.post("/v1/time/bisect", body).await?;
        let took = begun.elapsed();
        ensure!(answer.status == StatusCode::OK, "{condition}: {}", answer.status);
        let told: Value = serde_json::from_slice(&answer.body)?;
        let fails = condition.contains("failed");
        ensure!(told["found"]["position"].is_null() == fails, "{condition}: {told}");
        Ok(took)
    }
}
