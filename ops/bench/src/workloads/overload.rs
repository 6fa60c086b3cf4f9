//! Overload: five times as many commands as the server gets through, on a schedule.
//!
//! What counts is that it goes on working: accepted commands per second against the peak of
//! a closed loop (`goodput`), refusals that come at once and say when to come back, nothing
//! lost that was accepted, memory that stays where it is. The commands change tasks that are
//! there, so that whatever memory grows holds commands and not the world.
//!
//! Over HTTP there is one request under way per connection, so as many as there are
//! connections; arrivals that find none free for a second are never sent (`unsent`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::commands::Ids;
use anyhow::{Context as _, ensure};
use async_nats::{Client as Nats, HeaderMap};
use broker::subject;
use bytes::Bytes;
use domain::{Status, StreamType};
use futures::StreamExt;
use hdrhistogram::Histogram;
use hyper::StatusCode;
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_postgres::Client as Database;
use uuid::Uuid;

use super::beside::{self, Load};
use super::{many, settle};
use crate::cell::{Cell, Context, Mode, Params};
use crate::commands::{tenant, update_body};
use crate::counters::resident;
use crate::http::Connection;
use crate::load::{Client, Reply, Samples, closed};

/// How many times the peak arrives.
const TIMES: f64 = 5.0;
/// Clients of the closed loop that finds the peak.
const PEAK_CLIENTS: usize = 256;
/// Streams that are changed.
const STREAMS: u64 = 2_000;
/// Bodies that commands take turns with.
const BODIES: u64 = 64;
/// HTTP connections, where the machine allows so many.
const CONNECTIONS: u64 = 2_000;
/// Descriptors that this process and the server need for everything else.
const OTHER_FILES: u64 = 300;
/// An arrival that could not be sent for so long is not sent at all.
const TOO_LATE: Duration = Duration::from_secs(1);
/// How long answers may be waited for after the last arrival.
const LAST_ANSWERS: Duration = Duration::from_secs(20);
/// Silence after which nobody expects another answer.
const QUIET: Duration = Duration::from_secs(3);
/// How long relay and read models may take to come to the end.
const SETTLE: Duration = Duration::from_secs(300);
/// Ids or positions that the log is asked for at once.
const ASKED: usize = 10_000;

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params =
        |door: &str| Params::default().with("door", door).with("load", format!("{TIMES} x peak"));
    let nats = Cell::new("nats", "overload", params("nats req"), over_nats);
    let http = Cell::new("http", "overload", params("http"), over_http);
    let of = |cell: Cell| cell.mode(Mode::Open).counted(&["submit", "update"]).main();
    vec![of(nats), of(http)]
}

/// What became of the flood.
struct Flood {
    begin: Instant,
    accepted_us: Histogram<u64>,
    refused_us: Histogram<u64>,
    accepted: u64,
    /// Accepted before the window closed.
    in_window: u64,
    refused: u64,
    without_retry_after: u64,
    others: u64,
    window: Duration,
}

impl Flood {
    fn new(begin: Instant, window: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            begin,
            accepted_us: Histogram::new(3)?,
            refused_us: Histogram::new(3)?,
            accepted: 0,
            in_window: 0,
            refused: 0,
            without_retry_after: 0,
            others: 0,
            window,
        })
    }

    fn accepted(&mut self, due: Instant) {
        self.accepted += 1;
        self.in_window += u64::from(self.begin.elapsed() <= self.window);
        let _ = self.accepted_us.record(due.elapsed().as_micros() as u64);
    }

    fn refused(&mut self, sent: Instant, says_when: bool) {
        self.refused += 1;
        self.without_retry_after += u64::from(!says_when);
        let _ = self.refused_us.record(sent.elapsed().as_micros() as u64);
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.accepted += other.accepted;
        self.in_window += other.in_window;
        self.refused += other.refused;
        self.without_retry_after += other.without_retry_after;
        self.others += other.others;
        self.accepted_us.add(&other.accepted_us)?;
        self.refused_us.add(&other.refused_us)?;
        Ok(())
    }
}

/// What both doors have in common once the flood is over.
struct After {
    peak: f64,
    arrivals: u64,
    sent: u64,
    memory: Memory,
    /// p99 of how late the generator itself sent, in ms.
    late_ms: f64,
}

async fn samples(context: &Context, flood: Flood, after: After) -> anyhow::Result<Samples> {
    let After { peak, arrivals, sent, memory, late_ms } = after;
    let target = &context.target;
    let before = memory.before;
    let highest = memory.end().await?;
    settle::settled(target, SETTLE).await?;
    let rested = resident(target.pid);
    let answered = flood.accepted + flood.refused + flood.others;
    let seconds = flood.window.as_secs_f64();
    let ms = |histogram: &Histogram<u64>, q| histogram.value_at_quantile(q) as f64 / 1e3;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let growth = |bytes: u64| (bytes as f64 / before.max(1) as f64 - 1.0) * 100.0;
    let goodput = flood.in_window as f64 / seconds;
    let mut samples = Samples::timed(flood.in_window, flood.window)
        .with("peak", peak)
        .with("goodput_of_peak", goodput / peak)
        .with("offered_per_s", arrivals as f64 / seconds)
        .with("sent", sent as f64)
        .with("unsent", (arrivals - sent) as f64)
        .with("refused", flood.refused as f64)
        .with("refused_p50_ms", ms(&flood.refused_us, 0.5))
        .with("refused_p99_ms", ms(&flood.refused_us, 0.99))
        .with("refused_without_retry_after", flood.without_retry_after as f64)
        .with("unanswered", (sent - answered) as f64)
        .with("late_p99_ms", late_ms)
        .with("resident_mb_before", mb(before))
        .with("resident_mb_highest", mb(highest))
        .with("resident_mb_after", mb(rested))
        .with("growth_percent_highest", growth(highest))
        .with("growth_percent_after", growth(rested));
    samples.errors = flood.refused + flood.others;
    // What got no answer may be in the log or not.
    samples.unknown = sent - answered + flood.others;
    samples.acknowledged = flood.accepted;
    samples.histogram = flood.accepted_us;
    Ok(samples)
}

async fn over_nats(context: Context) -> anyhow::Result<Samples> {
    let target = &context.target;
    let load = Load::prepare(target).await?;
    let full = load.capacity(&beside::part(&context.budget, 0.5), PEAK_CLIENTS).await?;
    let peak = full.ops as f64 / full.seconds;
    settle::settled(target, SETTLE).await?;
    let (out, back) = (target.nats().await?, target.nats().await?);
    let streams = many::submit(&out, "overload", (0, STREAMS)).await?;
    settle::settled(target, SETTLE).await?;
    let memory = Memory::watch(target.pid);

    let arrivals = (peak * TIMES * context.budget.measure.as_secs_f64()) as u64;
    context.budget.probe.open().await;
    let sender = Arc::new(Sender::new(&out, streams, peak * TIMES, arrivals));
    let answers = back.subscribe(format!("{}.*", sender.inbox)).await?;
    back.flush().await?;
    let flood = Flood::new(sender.begin, context.budget.measure)?;
    let hearing = tokio::spawn(hear(answers, sender.clone(), flood));
    let sending = tokio::spawn(sender.clone().send(out));
    let late = sending.await??;
    context.budget.probe.close().await;
    let (flood, ids) = hearing.await??;
    let lost = missing(&target.database().await?, RESULTS, &ids).await?;
    ensure!(lost == 0, "{lost} accepted commands are not in the log");
    let late_ms = late.value_at_quantile(0.99) as f64 / 1e3;
    let after = After { peak, arrivals, sent: arrivals, memory, late_ms };
    let mut samples = samples(&context, flood, after).await?;
    beside::acknowledge(&mut samples, &[&full], load.acknowledged() + STREAMS);
    Ok(samples)
}

/// Publishes requests on a schedule; answers come to one subscription.
struct Sender {
    begin: Instant,
    inbox: String,
    subjects: Vec<String>,
    bodies: Vec<Bytes>,
    /// The upper bits of every command's id.
    ids: u128,
    rate: f64,
    /// Microseconds from the beginning to when it was sent.
    sent: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Sender {
    fn new(client: &Nats, streams: Vec<Uuid>, rate: f64, arrivals: u64) -> Self {
        let subject = |id| subject::request(&tenant(), StreamType::Task, id, "update");
        Self {
            begin: Instant::now(),
            inbox: client.new_inbox(),
            subjects: streams.into_iter().map(subject).collect(),
            bodies: (0..BODIES).map(update_body).collect(),
            ids: Ids.fresh().as_u128() & !u128::from(u64::MAX >> 24),
            rate,
            sent: (0..arrivals).map(|_| AtomicU64::new(0)).collect(),
            over: AtomicBool::new(false),
        }
    }

    fn due(&self, n: u64) -> Instant {
        self.begin + Duration::from_secs_f64(n as f64 / self.rate)
    }

    fn id(&self, n: u64) -> Uuid {
        Uuid::from_u128(self.ids | u128::from(n))
    }

    /// Sends all arrivals; how late each was sent.
    async fn send(self: Arc<Self>, client: Nats) -> anyhow::Result<Histogram<u64>> {
        let mut late = Histogram::new(3)?;
        let (mut n, all) = (0u64, self.sent.len() as u64);
        while n < all {
            let due = (self.begin.elapsed().as_secs_f64() * self.rate) as u64;
            if n >= due {
                // A millisecond's arrivals together: a timer for each would cost more.
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            while n < due.min(all) {
                let mut headers = HeaderMap::new();
                headers.insert("Taffrail-Command-Id", self.id(n).to_string());
                let subject = self.subjects[n as usize % self.subjects.len()].clone();
                let body = self.bodies[n as usize % self.bodies.len()].clone();
                let reply = format!("{}.{n}", self.inbox);
                late.record(self.due(n).elapsed().as_micros() as u64)?;
                let now = self.begin.elapsed().as_micros() as u64;
                self.sent[n as usize].store(now, Ordering::Relaxed);
                client.publish_with_reply_and_headers(subject, reply, headers, body).await?;
                n += 1;
            }
        }
        client.flush().await?;
        self.over.store(true, Ordering::Release);
        Ok(late)
    }
}

/// The part of an outcome that is looked at; reading all of it would cost the server's CPU.
#[derive(Deserialize)]
struct Brief {
    status: Status,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

/// Takes answers until all have come or no more do; the flood and what was accepted.
async fn hear(
    mut answers: async_nats::Subscriber,
    sender: Arc<Sender>,
    mut flood: Flood,
) -> anyhow::Result<(Flood, Vec<Uuid>)> {
    let mut ids = Vec::new();
    let mut ended: Option<Instant> = None;
    loop {
        let answered = flood.accepted + flood.refused + flood.others;
        if sender.over.load(Ordering::Acquire) {
            let ended = *ended.get_or_insert_with(Instant::now);
            if answered == sender.sent.len() as u64 || ended.elapsed() > LAST_ANSWERS {
                return Ok((flood, ids));
            }
        }
        let Ok(message) = timeout(QUIET, answers.next()).await else {
            if ended.is_some() {
                return Ok((flood, ids));
            }
            continue;
        };
        let message = message.context("the inbox was closed")?;
        let n = message.subject.rsplit('.').next().and_then(|n| n.parse::<u64>().ok());
        let n = n.context("an answer to nobody")?;
        let sent = &sender.sent[n as usize];
        let sent = sender.begin + Duration::from_micros(sent.load(Ordering::Relaxed));
        match serde_json::from_slice::<Brief>(&message.payload) {
            Ok(Brief { status: Status::Accepted, .. }) => {
                flood.accepted(sender.due(n));
                ids.push(sender.id(n));
            }
            Ok(Brief { status: Status::Busy, retry_after_ms }) => {
                flood.refused(sent, retry_after_ms.is_some());
            }
            // No processor listened for a moment, or something worse.
            Ok(Brief { .. }) | Err(_) => flood.others += 1,
        }
    }
}

async fn over_http(context: Context) -> anyhow::Result<Samples> {
    let target = &context.target;
    let streams = many::submit(&target.nats().await?, "overload", (0, STREAMS)).await?;
    let streams: Arc<[Uuid]> = streams.into();
    let bodies: Arc<[Bytes]> = (0..BODIES).map(update_body).collect();
    let caller = |(nth, connection): (u64, Connection)| Caller {
        connection,
        streams: streams.clone(),
        bodies: bodies.clone(),
        nth,
    };
    let connections = Connection::several(&target.http, &target.token, PEAK_CLIENTS).await?;
    let callers = (0..).zip(connections).map(caller).collect();
    let full = closed(&beside::part(&context.budget, 0.5), callers).await?;
    let peak = full.ops as f64 / full.seconds;
    settle::settled(target, SETTLE).await?;

    // Both ends' descriptors, since the server may have the same limit.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = CONNECTIONS.min(files.saturating_sub(OTHER_FILES)).max(64);
    let connections = Connection::several(&target.http, &target.token, count as usize).await?;
    let memory = Memory::watch(target.pid);
    context.budget.probe.open().await;
    let (rate, window) = (peak * TIMES, context.budget.measure);
    let begin = Instant::now() + Duration::from_millis(20);
    let arrivals = (rate * window.as_secs_f64()) as u64;
    let running: Vec<_> = (0..)
        .zip(connections)
        .map(caller)
        .map(|caller| tokio::spawn(caller.keep_to(begin, rate, count, arrivals, window)))
        .collect();
    let mut flood = Flood::new(begin, window)?;
    let (mut positions, mut sent) = (Vec::new(), 0);
    for caller in running {
        let done = caller.await??;
        flood.add(&done.flood)?;
        positions.extend(done.positions);
        sent += done.sent;
    }
    context.budget.probe.close().await;
    let lost = missing(&target.database().await?, EVENTS, &positions).await?;
    ensure!(lost == 0, "{lost} accepted commands are not in the log");
    let after = After { peak, arrivals, sent, memory, late_ms: 0.0 };
    let mut samples = samples(&context, flood, after).await?;
    beside::acknowledge(&mut samples, &[&full], STREAMS);
    Ok(samples)
}

struct Caller {
    connection: Connection,
    streams: Arc<[Uuid]>,
    bodies: Arc<[Bytes]>,
    nth: u64,
}

/// What one connection's share of the flood came to.
struct Done {
    flood: Flood,
    positions: Vec<i64>,
    sent: u64,
}

#[derive(Deserialize)]
struct Changed {
    position: i64,
}

impl Caller {
    async fn change(&mut self, n: u64) -> anyhow::Result<crate::http::Answer> {
        let id = self.streams[n as usize % self.streams.len()];
        let body = self.bodies[n as usize % self.bodies.len()].clone();
        self.connection.post(&format!("/v1/tasks/{id}/update"), body).await
    }

    /// Sends every `count`th arrival when it is due, or as soon as the answer before came.
    async fn keep_to(
        mut self,
        begin: Instant,
        rate: f64,
        count: u64,
        arrivals: u64,
        window: Duration,
    ) -> anyhow::Result<Done> {
        let mut done = Done { flood: Flood::new(begin, window)?, positions: vec![], sent: 0 };
        let mut n = self.nth;
        while n < arrivals {
            let due = begin + Duration::from_secs_f64(n as f64 / rate);
            sleep_until(due.into()).await;
            if due.elapsed() <= TOO_LATE {
                done.sent += 1;
                let sent = Instant::now();
                let answer = self.change(n).await?;
                match answer.status {
                    StatusCode::OK => {
                        done.flood.accepted(due);
                        done.positions
                            .push(serde_json::from_slice::<Changed>(&answer.body)?.position);
                    }
                    StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                        let says_when = answer.headers.contains_key("retry-after");
                        done.flood.refused(sent, says_when);
                    }
                    _ => done.flood.others += 1,
                }
            }
            n += count;
        }
        Ok(done)
    }
}

impl Client for Caller {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.nth += 1;
        let answer = self.change(self.nth).await?;
        Ok(if answer.status == StatusCode::OK { Reply::command() } else { Reply::busy() })
    }
}

const RESULTS: &str = "SELECT count(DISTINCT command_id) FROM command_results
    WHERE command_id = ANY($1) AND problem IS NULL";
const EVENTS: &str = "SELECT count(DISTINCT position) FROM events WHERE position = ANY($1)";

/// How many of these the log does not have.
async fn missing<T>(database: &Database, sql: &str, all: &[T]) -> anyhow::Result<u64>
where
    for<'a> &'a [T]: tokio_postgres::types::ToSql,
    T: Sync,
{
    let statement = database.prepare(sql).await?;
    let mut found = 0;
    for some in all.chunks(ASKED) {
        found += database.query_one(&statement, &[&some]).await?.get::<_, i64>(0) as u64;
    }
    Ok((all.len() as u64).saturating_sub(found))
}

/// The server's memory while the flood lasts.
struct Memory {
    before: u64,
    stop: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let before = resident(pid);
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let watching = tokio::spawn(async move {
            let mut highest = before;
            while !ended.load(Ordering::Acquire) {
                highest = highest.max(resident(pid));
                sleep(Duration::from_millis(100)).await;
            }
            highest
        });
        Self { before, stop, watching }
    }

    async fn end(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Release);
        Ok(self.watching.await?)
    }
}
