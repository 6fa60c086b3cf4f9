//! W5: the live stream, handed to many subscribers at once.
//!
//! `deliveries` counts what all subscribers got while batches of submissions kept the log
//! growing as fast as they could follow; `latency` is a schedule of single submissions, from
//! the intended one to the event's arrival at each subscriber. Every subscriber checks that
//! it got every position once and in order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::commands::Ids;
use anyhow::{Context as _, bail, ensure};
use broker::subject;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::w2_agent::{Wire, body};
use super::w5_nats::Subscriptions;
use super::w5_sse::Sse;
use super::{fill, many, settle};
use crate::cell::{Cell, Context, Mode, Params};
use crate::commands::tenant;
use crate::load::{Arrivals, Reply, Samples, open};
use crate::target::Target;

/// NATS connections that the subscribers share, as in the limit cell.
const CONNECTIONS: usize = 10;
/// Events of a batch.
const BATCH: u64 = 1_000;
/// Events that a subscriber of SSE may be behind before the next batch is submitted: within
/// what the gateway keeps in memory.
const BEHIND_SSE: u64 = 6_000;
/// The same over NATS. The server drops a connection with more than 64 MiB waiting, and one
/// of these carries ten copies of every event, each of about 1.2 KiB with its headers:
/// with the batch under way at most 24 MiB.
const BEHIND_NATS: u64 = 1_000;
/// Submissions per second of the schedule.
const RATE: f64 = 200.0;
/// How long a subscriber may get nothing while there is something.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Sse,
    Nats,
}

impl Over {
    const fn behind(self) -> u64 {
        match self {
            Self::Sse => BEHIND_SSE,
            Self::Nats => BEHIND_NATS,
        }
    }
}

/// The cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for over in [Over::Sse, Over::Nats] {
        for count in [1, 10, 100] {
            let params = || {
                Params::default()
                    .with("over", if over == Over::Sse { "sse" } else { "nats" })
                    .with("subscribers", count)
            };
            let cell = Cell::new("fanout", "W5", params(), move |context| {
                deliveries(context, over, count)
            })
            .unit("deliveries")
            .counted(&["submit"]);
            cells.push(match count {
                100 => {
                    cell.limit("sync=default core fan-out to 100 subscribers: deliveries").main()
                }
                _ => cell,
            });
            let cell = Cell::new("fanout", "W5", params().with("rate", RATE), move |context| {
                latency(context, over, count)
            })
            .mode(Mode::Open)
            .unit("submissions")
            .counted(&["submit"]);
            cells.push(cell);
        }
    }
    cells
}

async fn deliveries(context: Context, over: Over, count: usize) -> anyhow::Result<Samples> {
    let target = &context.target;
    let begun = start(target).await?;
    let mut crowd = Crowd::gather(target, over, count, begun, false).await?;
    let nats = target.nats().await?;
    let (mut submitted, mut window) = (0u64, None);
    let warm_until = Instant::now() + context.budget.warm;
    loop {
        let now = Instant::now();
        match window {
            None if now >= warm_until => {
                context.budget.probe.open().await;
                window = Some((Instant::now(), crowd.delivered()));
            }
            Some((from, _)) if now.duration_since(from) >= context.budget.measure => break,
            None | Some(_) => {}
        }
        if begun + submitted > crowd.slowest() + over.behind() {
            crowd.sound()?;
            tokio::time::sleep(Duration::from_micros(200)).await;
            continue;
        }
        let batch = (submitted, submitted + BATCH);
        many::submit(&nats, batch, |n| fill::submission(n, "w5")).await?;
        submitted += BATCH;
    }
    let (from, before) = window.context("no window")?;
    let (took, delivered) = (from.elapsed(), crowd.delivered() - before);
    context.budget.probe.close().await;
    let head = begun + submitted;
    crowd.finish(head).await?;
    let mut samples = Samples::timed(delivered, took)
        .with("events_per_s", delivered as f64 / count as f64 / took.as_secs_f64());
    samples.acknowledged = submitted;
    Ok(samples)
}

async fn latency(context: Context, over: Over, count: usize) -> anyhow::Result<Samples> {
    let target = &context.target;
    let begun = start(target).await?;
    let crowd = Crowd::gather(target, over, count, begun, true).await?;
    let wire = Wire { client: target.nats().await?, tenant: tenant() };
    let positions: Arc<Mutex<HashMap<u64, u64>>> = Arc::default();
    let operation = {
        let positions = positions.clone();
        move |n| {
            let (wire, positions) = (wire.clone(), positions.clone());
            async move {
                let task = body(&fill::submission(n, "w5"));
                let outcome = wire.submit(Ids.fresh(), task).await?;
                positions.lock().insert(outcome.position, n);
                Ok(Reply::command())
            }
        }
    };
    // The schedule begins a few milliseconds later; its first arrival tells when.
    let began = Instant::now() + Duration::from_millis(5);
    let mut samples = open(&context.budget, Arrivals::Constant, RATE, operation).await?;
    let positions = std::mem::take(&mut *positions.lock());
    let head = positions.keys().copied().max().context("nothing was submitted")?;
    let commands = std::mem::replace(&mut samples.histogram, Samples::default().histogram);
    for arrivals in crowd.finish(head).await? {
        for (position, at) in arrivals {
            let Some(n) = positions.get(&position) else { continue };
            let due = Duration::from_secs_f64(*n as f64 / RATE);
            if due >= context.budget.warm {
                samples.record(at.saturating_duration_since(began + due));
            }
        }
    }
    ensure!(!samples.histogram.is_empty(), "nothing was delivered in the window");
    Ok(samples.with("command_p99_ms", commands.value_at_quantile(0.99) as f64 / 1e3))
}

/// The log's end, with nothing under way.
async fn start(target: &Target) -> anyhow::Result<u64> {
    settle::settled(target, PATIENCE).await?;
    Ok(settle::ends(&target.database().await?).await?.0)
}

type Arrived = Vec<(u64, Instant)>;

/// All subscribers.
struct Crowd {
    /// The last position that each got.
    reached: Arc<[AtomicU64]>,
    begun: u64,
    running: JoinSet<anyhow::Result<Arrived>>,
    stop: Arc<AtomicU64>,
}

impl Crowd {
    /// Subscribes; with `arrivals` each writes down when an event came.
    async fn gather(
        target: &Target,
        over: Over,
        count: usize,
        begun: u64,
        arrivals: bool,
    ) -> anyhow::Result<Self> {
        let reached: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(begun)).collect();
        let stop = Arc::new(AtomicU64::new(u64::MAX));
        let mut running = JoinSet::new();
        // Subscribers by connection: SSE has one each.
        let connections = if over == Over::Nats { CONNECTIONS.min(count) } else { count };
        for nth in 0..connections {
            let (first, end) = (nth * count / connections, (nth + 1) * count / connections);
            let source = match over {
                Over::Sse => Source::Sse(Sse::open(&target.http, &target.token, begun).await?),
                Over::Nats => {
                    let (url, token) = (&target.nats_url, target.nats_token.as_deref());
                    let subject = subject::ALL_EVENTS;
                    Source::Nats(Subscriptions::open(url, token, subject, end - first).await?)
                }
            };
            let place = Place {
                reached: reached.clone(),
                subscribers: first..end,
                stop: stop.clone(),
                arrived: arrivals.then(Vec::new),
            };
            running.spawn(follow(source, place, begun));
        }
        Ok(Self { reached, begun, running, stop })
    }

    fn delivered(&self) -> u64 {
        self.reached.iter().map(|at| at.load(Ordering::Relaxed) - self.begun).sum()
    }

    fn slowest(&self) -> u64 {
        self.reached.iter().map(|at| at.load(Ordering::Relaxed)).min().unwrap_or_default()
    }

    /// Fails when somebody has ended before it was told to.
    fn sound(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.running.try_join_next() {
            ended??;
            bail!("a subscriber ended before it was told to");
        }
        Ok(())
    }

    /// Waits until everybody has everything up to the head.
    async fn finish(mut self, head: u64) -> anyhow::Result<Vec<Arrived>> {
        self.stop.store(head, Ordering::Release);
        let mut all = Vec::new();
        while let Some(arrived) = self.running.join_next().await {
            all.push(arrived??);
        }
        for at in self.reached.iter() {
            let at = at.load(Ordering::Relaxed);
            ensure!(at >= head, "a subscriber ended at {at} of {head}");
        }
        Ok(all)
    }
}

/// One connection.
enum Source {
    Sse(Sse),
    Nats(Subscriptions),
}

impl Source {
    /// Which of the connection's subscribers got which positions.
    async fn positions(&mut self, found: &mut Vec<(usize, u64)>) -> anyhow::Result<()> {
        match self {
            Self::Sse(sse) => {
                let mut positions = Vec::new();
                sse.positions(&mut positions).await?;
                found.extend(positions.into_iter().map(|position| (0, position)));
                Ok(())
            }
            Self::Nats(subscriptions) => subscriptions.positions(found).await,
        }
    }
}

struct Place {
    reached: Arc<[AtomicU64]>,
    /// Those whose events come over this connection.
    subscribers: Range<usize>,
    /// The position to end at, once that is known.
    stop: Arc<AtomicU64>,
    arrived: Option<Arrived>,
}

/// Takes events until told to stop; anything but the next position is an error.
async fn follow(mut source: Source, place: Place, begun: u64) -> anyhow::Result<Arrived> {
    let Place { reached, subscribers, stop, mut arrived } = place;
    let mut last = vec![begun; subscribers.len()];
    let mut found = Vec::new();
    let mut quiet_since = Instant::now();
    while last.iter().any(|last| *last < stop.load(Ordering::Acquire)) {
        // A look at the stop now and then, also when nothing comes.
        match timeout(Duration::from_millis(250), source.positions(&mut found)).await {
            Ok(got) => got?,
            Err(_) if quiet_since.elapsed() > PATIENCE => {
                bail!("subscribers {subscribers:?} stand at {last:?} and get nothing")
            }
            Err(_) => continue,
        }
        quiet_since = Instant::now();
        for (nth, position) in found.drain(..) {
            let last = last.get_mut(nth).context("an event for nobody")?;
            if position != *last + 1 {
                bail!("subscriber {} got {position} behind {last}", subscribers.start + nth);
            }
            *last = position;
            if let Some(arrived) = &mut arrived {
                arrived.push((position, quiet_since));
            }
        }
        for (reached, last) in reached[subscribers.clone()].iter().zip(&last) {
            reached.store(*last, Ordering::Relaxed);
        }
    }
    Ok(arrived.unwrap_or_default())
}
