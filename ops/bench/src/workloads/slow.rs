//! T-SLOW: what consumers that do not read cost everybody else.
//!
//! Commands arrive at a fixed rate while windows without and with stuck consumers take turns:
//! a hundred SSE and a hundred WebSocket clients, and a durable consumer of `TAFFRAIL_EVENTS`,
//! none of which reads or acknowledges anything. What the machine does beside falls on both
//! kinds of window. Until their buffers are full they are subscribers like any others, two
//! hundred of them: that time has figures of its own (`filling`), and W5 is about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::beside::{self, Load};
use super::slow_clients::{Stuck, TokenOfOurOwn};
use super::{settle, w1a};
use crate::cell::{Budget, Cell, Context, Mode, Params};
use crate::counters::resident;
use crate::load::{Arrivals, Samples, open};

/// Commands per second: a tenth of what two cores get through.
const RATE: f64 = 1_000.0;
/// SSE clients; as many WebSockets.
const CLIENTS: usize = 100;
/// Windows of each kind.
const TURNS: usize = 2;
/// How long their buffers take to be full at this rate.
const FILLING: Duration = Duration::from_secs(5);
/// A window with stuck consumers: the server drops them after 25 s without progress.
const STUCK: Duration = Duration::from_secs(21);
/// Before each window.
const WARM: Duration = Duration::from_millis(500);
/// When the last one must be gone.
const DROPPED: Duration = Duration::from_secs(40);
/// How long relay and read models may take to come to the end.
const SETTLE: Duration = Duration::from_secs(60);

/// The cell.
pub fn cells() -> Vec<Cell> {
    let params = Params::default()
        .with("rate", RATE)
        .with("stuck", format!("{CLIENTS} sse, {CLIENTS} websocket, 1 durable"));
    let cell = Cell::new("fanout", "slow", params, run);
    vec![cell.mode(Mode::Open).counted(&["submit", "update"])]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let target = &context.target;
    let load = Load::prepare(target).await?;
    let other = TokenOfOurOwn::make(target).await?;
    settle::settled(target, SETTLE).await?;
    let window = |measure| Budget { warm: WARM, measure, ..beside::unprobed(&context.budget) };
    let at_rate = |budget: Budget| {
        let load = load.clone();
        let operation = move |_| {
            let load = load.clone();
            async move { w1a::reply(&load.command().await?) }
        };
        async move { open(&budget, Arrivals::Constant, RATE, operation).await }
    };
    // Whatever is done for the first time is done here.
    let first = at_rate(window(context.budget.warm)).await?;

    context.budget.probe.open().await;
    let (mut without, mut filling, mut with) = (Vec::new(), Vec::new(), Vec::new());
    let (mut grown, mut grown_nats, mut dropped) = (Vec::new(), 0.0_f64, 0.0_f64);
    for turn in 0..TURNS {
        without.push(at_rate(window(context.budget.measure)).await?);
        let memory = [target.pid, target.nats_pid.unwrap_or_default()].map(Memory::watch);
        let stuck = Stuck::connect(target, &other, CLIENTS, turn).await?;
        let leaving = tokio::spawn({
            let target = target.clone();
            async move { stuck.gone(&target, DROPPED).await }
        });
        filling.push(at_rate(window(FILLING)).await?);
        with.push(at_rate(window(STUCK)).await?);
        dropped = dropped.max(leaving.await??.as_secs_f64());
        let [ours, nats] = memory.map(Memory::end);
        grown.push(ours.await?);
        grown_nats = grown_nats.max(nats.await?);
    }
    context.budget.probe.close().await;

    let joined = |windows: &[Samples]| {
        let mut all = Samples::default();
        windows.iter().for_each(|window| all.add(window.clone()));
        all
    };
    let ms = |samples: &Samples, q| samples.histogram.value_at_quantile(q) as f64 / 1e3;
    let (off, full, on) = (joined(&without), joined(&filling), joined(&with));
    ensure!(ms(&off, 0.99) > 0.0, "nothing was measured without stuck consumers");
    let growth = (ms(&on, 0.99) / ms(&off, 0.99) - 1.0) * 100.0;
    let mut samples =
        Samples { ops: on.ops, histogram: on.histogram.clone(), ..Samples::default() }
            .with("p50_ms_without", ms(&off, 0.5))
            .with("p50_ms_with", ms(&on, 0.5))
            .with("p99_ms_without", ms(&off, 0.99))
            .with("p99_ms_with", ms(&on, 0.99))
            .with("p99_ms_filling", ms(&full, 0.99))
            .with("p99_growth_percent", growth)
            // The first time also fills what is kept for subscribers of any kind.
            .with("memory_growth_mib", grown.iter().copied().fold(0.0, f64::max))
            .with("memory_growth_mib_last", grown.last().copied().unwrap_or_default())
            .with("nats_memory_growth_mib", grown_nats)
            .with("last_dropped_s", dropped);
    samples.seconds = with.iter().map(|window| window.seconds).sum();
    beside::acknowledge(&mut samples, &[&first, &off, &full, &on], load.acknowledged());
    Ok(samples)
}

/// How far a process's memory grows beyond what it was.
struct Memory {
    before: u64,
    stop: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let (before, stop) = (resident(pid), Arc::new(AtomicBool::new(false)));
        let ended = stop.clone();
        let watching = tokio::spawn(async move {
            let mut highest = 0;
            while !ended.load(Ordering::Acquire) {
                highest = highest.max(resident(pid));
                sleep(Duration::from_millis(100)).await;
            }
            highest
        });
        Self { before, stop, watching }
    }

    /// The growth in MiB.
    async fn end(self) -> anyhow::Result<f64> {
        self.stop.store(true, Ordering::Release);
        let highest = self.watching.await.context("watching the memory broke off")?;
        Ok(highest.saturating_sub(self.before) as f64 / f64::from(1 << 20))
    }
}
