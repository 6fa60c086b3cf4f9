//! The two ways to make load, and what comes of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cell::Budget;

/// Longest latency that is told from longer ones.
const LONGEST_US: u64 = 60_000_000;
/// Operations of an open loop that may be under way; beyond that the server is not merely
/// late, it is away, and the load would only fill our own memory.
const MOST_UNDER_WAY: u64 = 200_000;
/// Histograms that share an open loop's answers, so that they seldom wait for one another.
const SHARDS: usize = 16;

/// What became of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    /// Commands whose outcome was durable when it came: the log must have them all.
    pub commands: u64,
    /// What is counted per second; 1 unless said otherwise.
    pub units: u64,
    /// It was decided, and somebody else had been faster.
    pub conflict: bool,
    /// It was not taken (busy): nothing is in the log.
    pub busy: bool,
}

impl Reply {
    /// One command, done.
    #[must_use]
    pub const fn command() -> Self {
        Self::commands(1)
    }

    /// One operation of so many commands.
    #[must_use]
    pub const fn commands(commands: u64) -> Self {
        Self { commands, units: 1, conflict: false, busy: false }
    }

    /// A question that writes nothing.
    #[must_use]
    pub const fn read() -> Self {
        Self::commands(0)
    }

    /// So many units at once.
    #[must_use]
    pub const fn units(units: u64) -> Self {
        Self { units, ..Self::commands(0) }
    }

    /// One command, refused because its stream had moved on; the refusal is in the log.
    #[must_use]
    pub const fn conflict() -> Self {
        Self { units: 0, conflict: true, ..Self::commands(1) }
    }

    /// Not taken.
    #[must_use]
    pub const fn busy() -> Self {
        Self { units: 0, busy: true, ..Self::commands(0) }
    }
}

/// What a cell measured in one round.
#[derive(Debug, Clone)]
pub struct Samples {
    /// Units that were done within the window.
    pub ops: u64,
    /// The window's length in seconds.
    pub seconds: f64,
    /// Latencies in µs of what ended within the window (closed) or was due in it (open).
    pub histogram: Histogram<u64>,
    /// Operations that failed or were not taken.
    pub errors: u64,
    /// Operations that lost a race.
    pub conflicts: u64,
    /// Commands that were acknowledged, warm-up included.
    pub acknowledged: u64,
    /// Operations whose outcome nobody knows: the log may or may not have their commands.
    pub unknown: u64,
    /// What went wrong first.
    pub error: Option<String>,
    /// Figures of this workload alone, by name.
    pub extra: BTreeMap<String, f64>,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            ops: 0,
            seconds: 0.0,
            histogram: histogram(),
            errors: 0,
            conflicts: 0,
            acknowledged: 0,
            unknown: 0,
            error: None,
            extra: BTreeMap::new(),
        }
    }
}

impl Samples {
    /// A figure that no loop made: so many units in so much time.
    #[must_use]
    pub fn timed(ops: u64, took: Duration) -> Self {
        Self { ops, seconds: took.as_secs_f64(), ..Self::default() }
    }

    /// Adds a figure of this workload alone.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// Adds a latency.
    pub fn record(&mut self, latency: Duration) {
        record(&mut self.histogram, latency);
    }

    fn count(&mut self, reply: &anyhow::Result<Reply>) {
        match reply {
            Ok(reply) => {
                self.acknowledged += reply.commands;
                self.conflicts += u64::from(reply.conflict);
                self.errors += u64::from(reply.busy);
            }
            Err(error) => {
                self.errors += 1;
                self.unknown += 1;
                self.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// Takes another generator's samples over.
    pub fn add(&mut self, other: Self) {
        self.ops += other.ops;
        self.errors += other.errors;
        self.conflicts += other.conflicts;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        if self.error.is_none() {
            self.error = other.error;
        }
        // Both are of the same shape, and grow as needed.
        let _ = self.histogram.add(other.histogram);
    }
}

/// 1 µs to 60 s with three digits; small until something slow comes.
fn histogram() -> Histogram<u64> {
    // Three digits are within what the library takes.
    Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are valid"))
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US);
    // Grows as needed; `saturating_record` would not, and everything slow would look fast.
    let _ = histogram.record(us);
}

/// One of a closed loop's clients.
pub trait Client: Send + 'static {
    /// Does one operation; an error means that its outcome is not known.
    fn operate(&mut self) -> impl Future<Output = anyhow::Result<Reply>> + Send;
}

/// Has each client operate, again and again, through warm-up and window; every operation
/// that was begun is waited for.
///
/// # Errors
/// When a client's task breaks, or all that came were errors.
pub async fn closed<C: Client>(budget: &Budget, clients: Vec<C>) -> anyhow::Result<Samples> {
    let begin = Instant::now();
    let opens = begin + budget.warm;
    let closes = opens + budget.measure;
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(ask(client, opens, closes))).collect();
    tokio::time::sleep_until(opens.into()).await;
    budget.probe.open().await;
    tokio::time::sleep_until(closes.into()).await;
    budget.probe.close().await;
    let mut all = Samples { seconds: budget.measure.as_secs_f64(), ..Samples::default() };
    for task in tasks {
        all.add(task.await.context("a client broke")?);
    }
    sound(all)
}

async fn ask<C: Client>(mut client: C, opens: Instant, closes: Instant) -> Samples {
    let mut samples = Samples::default();
    loop {
        let start = Instant::now();
        if start >= closes {
            return samples;
        }
        let reply = client.operate().await;
        let end = Instant::now();
        samples.count(&reply);
        match &reply {
            Ok(reply) if !reply.busy => {
                if end >= opens && end < closes {
                    samples.ops += reply.units;
                    // Losing a race has a latency too, but not that of the work.
                    if !reply.conflict {
                        record(&mut samples.histogram, end - start);
                    }
                }
            }
            // A server that fails at once is not to be asked a million times.
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// At random, independently of one another.
    Poisson,
}

/// The times of arrivals, counted from the start; the same for the same seed.
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    random: StdRng,
    index: u64,
    at: f64,
}

impl Schedule {
    /// So many arrivals per second.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self { arrivals, rate, random: StdRng::seed_from_u64(seed), index: 0, at: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = match self.arrivals {
            // Multiplied, not added up: no drift over millions.
            Arrivals::Constant => self.index as f64 / self.rate,
            Arrivals::Poisson => {
                let draw: f64 = self.random.random();
                self.at += -(1.0 - draw).ln() / self.rate;
                self.at
            }
        };
        self.index += 1;
        Some(Duration::from_secs_f64(due))
    }
}

struct OpenLoop {
    shards: Vec<Mutex<Samples>>,
    issued: AtomicU64,
    ended: AtomicU64,
    overrun: AtomicBool,
}

impl OpenLoop {
    fn under_way(&self) -> u64 {
        self.issued.load(Ordering::Acquire) - self.ended.load(Ordering::Acquire)
    }
}

/// Begins an operation at every arrival, whatever became of those before; latency counts
/// from the time that the schedule named.
///
/// Adds `backlog` (under way when the window closed), `arrivals`, `sustained` (1 where the
/// backlog is below 1 % of the arrivals and p99 below ten times p50) and `late_us` (p99 of how
/// late this generator itself was: what is above the target's latency is not the target's).
///
/// # Errors
/// When all that came were errors, or operations piled up without end.
pub async fn open<F, Fut>(
    budget: &Budget,
    arrivals: Arrivals,
    rate: f64,
    operation: F,
) -> anyhow::Result<Samples>
where
    F: Fn(u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<Reply>> + Send,
{
    let shared = Arc::new(OpenLoop {
        shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        issued: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        overrun: AtomicBool::new(false),
    });
    let (warm, whole) = (budget.warm, budget.warm + budget.measure);
    let schedule = Schedule::new(arrivals, rate, budget.seed);
    let runtime = tokio::runtime::Handle::current();
    let start = Instant::now() + Duration::from_millis(5);
    let operation = Arc::new(operation);
    let pacing = {
        let shared = shared.clone();
        // A thread: the runtime's timers tick in whole milliseconds.
        tokio::task::spawn_blocking(move || {
            let mut late = histogram();
            let mut due_in_window = 0u64;
            for (index, at) in (0u64..).zip(schedule.take_while(|at| *at < whole)) {
                let due = start + at;
                let wait = due.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                }
                if shared.under_way() > MOST_UNDER_WAY {
                    shared.overrun.store(true, Ordering::Release);
                    break;
                }
                let counted = at >= warm;
                due_in_window += u64::from(counted);
                record(&mut late, due.elapsed());
                shared.issued.fetch_add(1, Ordering::AcqRel);
                let (shared, operation) = (shared.clone(), operation.clone());
                runtime.spawn(async move {
                    let reply = operation(index).await;
                    let took = due.elapsed();
                    {
                        let mut samples = shared.shards[index as usize % SHARDS].lock();
                        samples.count(&reply);
                        if let Ok(reply) = &reply
                            && counted
                            && !reply.busy
                        {
                            samples.ops += reply.units;
                            record(&mut samples.histogram, took);
                        }
                    }
                    shared.ended.fetch_add(1, Ordering::AcqRel);
                });
            }
            (late, due_in_window)
        })
    };
    tokio::time::sleep_until((start + warm).into()).await;
    budget.probe.open().await;
    tokio::time::sleep_until((start + whole).into()).await;
    let backlog = shared.under_way();
    budget.probe.close().await;
    let (late, arrivals) = pacing.await.context("the schedule broke")?;
    while shared.under_way() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if shared.overrun.load(Ordering::Acquire) {
        bail!("more than {MOST_UNDER_WAY} operations piled up: the rate is beyond the server");
    }
    let mut all = Samples { seconds: budget.measure.as_secs_f64(), ..Samples::default() };
    for shard in &shared.shards {
        all.add(std::mem::take(&mut *shard.lock()));
    }
    let (p50, p99) = (all.histogram.value_at_quantile(0.5), all.histogram.value_at_quantile(0.99));
    let sustained = backlog as f64 <= arrivals as f64 * 0.01 && p99 <= p50.saturating_mul(10);
    let all = all
        .with("backlog", backlog as f64)
        .with("arrivals", arrivals as f64)
        .with("sustained", f64::from(u8::from(sustained)))
        .with("late_us", late.value_at_quantile(0.99) as f64);
    sound(all)
}

/// Nothing but errors is no measurement.
fn sound(samples: Samples) -> anyhow::Result<Samples> {
    match &samples.error {
        Some(error) if samples.ops == 0 => bail!("every operation failed; the first: {error}"),
        Some(_) | None => Ok(samples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Probe;

    fn budget(ms: u64) -> Budget {
        Budget {
            warm: Duration::from_millis(ms / 4),
            measure: Duration::from_millis(ms),
            probe: Probe::new(None, [None; 3]),
            seed: 1,
        }
    }

    struct Napper(Duration, Arc<AtomicU64>);

    impl Client for Napper {
        async fn operate(&mut self) -> anyhow::Result<Reply> {
            tokio::time::sleep(self.0).await;
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(Reply::command())
        }
    }

    #[tokio::test]
    async fn a_closed_loop_counts_the_window_and_acknowledges_everything() {
        let done = Arc::new(AtomicU64::new(0));
        let clients = (0..3).map(|_| Napper(Duration::from_millis(5), done.clone())).collect();
        let samples = closed(&budget(200), clients).await.unwrap();
        let done = done.load(Ordering::Relaxed);
        assert_eq!(samples.acknowledged, done, "warm-up included");
        assert!(samples.ops > 0 && samples.ops < done, "{} of {done}", samples.ops);
        assert_eq!(samples.histogram.len(), samples.ops);
        assert!(samples.histogram.min() >= 5_000, "{}", samples.histogram.min());
    }

    #[tokio::test]
    async fn busy_and_failed_operations_are_errors_and_only_failures_are_unknown() {
        struct Moody(u32);
        impl Client for Moody {
            async fn operate(&mut self) -> anyhow::Result<Reply> {
                self.0 += 1;
                match self.0 % 4 {
                    0 => bail!("no answer"),
                    1 => Ok(Reply::busy()),
                    2 => Ok(Reply::conflict()),
                    _ => Ok(Reply::command()),
                }
            }
        }
        let samples = closed(&budget(100), vec![Moody(0)]).await.unwrap();
        assert!(samples.unknown > 0 && samples.errors > samples.unknown);
        assert!(samples.conflicts > 0);
        assert_eq!(samples.error.as_deref(), Some("no answer"));
    }

    #[test]
    fn constant_arrivals_do_not_drift_and_random_ones_keep_their_mean_and_seed() {
        let at = Schedule::new(Arrivals::Constant, 1_000.0, 7).nth(60_000).unwrap();
        assert_eq!(at, Duration::from_secs(60));
        let times: Vec<Duration> =
            Schedule::new(Arrivals::Poisson, 1_000.0, 7).take(20_000).collect();
        assert!(times.is_sorted());
        let last = times.last().unwrap().as_secs_f64();
        assert!((last - 20.0).abs() < 1.0, "{last}");
        let again: Vec<Duration> =
            Schedule::new(Arrivals::Poisson, 1_000.0, 7).take(20_000).collect();
        assert_eq!(times, again);
        let gaps: Vec<f64> =
            times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // An exponential distribution's deviation equals its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
    }

    /// The server stands still for 200 ms: a closed loop would see one slow answer per
    /// client, the open one sees what every arrival of that time suffered.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_loop_counts_from_the_intended_start() {
        let begin = Instant::now();
        let samples = open(&budget(400), Arrivals::Constant, 500.0, move |_| async move {
            let (from, until) = (Duration::from_millis(200), Duration::from_millis(400));
            let now = begin.elapsed();
            if now >= from && now < until {
                tokio::time::sleep(until - now).await;
            }
            Ok(Reply::command())
        })
        .await
        .unwrap();
        assert_eq!(samples.extra["arrivals"], 200.0);
        assert_eq!(samples.ops, 200);
        assert_eq!(samples.acknowledged, 250, "warm-up included");
        let suffered = samples.histogram.iter_recorded().filter(|v| v.value_iterated_to() > 50_000);
        let suffered: u64 = suffered.map(|v| v.count_since_last_iteration()).sum();
        assert!(suffered >= 50, "{suffered}");
    }
}
