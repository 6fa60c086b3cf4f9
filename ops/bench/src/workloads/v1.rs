//! V1: checking an export of the log, without any server: reading lines, hashing events,
//! comparing roots and signatures. One thread, so the figure is per core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use commands::Clock;
use replay::seal::check::Lines;
use replay::seal::export::{Export, Range};
use replay::seal::key::KEY_FILE;
use replay::seal::{Checker, Outside, SealFile, Sealer};
use store::{Feed, Leases, Log, Reader};
use tokio_util::sync::CancellationToken;

use super::fill::Plan;
use super::w4_log::{self, Made};
use crate::cell::{Cell, Context, Host, Params};
use crate::counters::of_process;
use crate::load::Samples;

/// Open tasks of the log; the others have lived their lives.
const OPEN: u64 = 1_000;
/// Bytes that are handed over at once, as `taffrail verify` reads them.
const BLOCK: usize = 1 << 20;
/// How long sealing and exporting may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params = Params::default().with("from", "memory");
    vec![Cell::new("verify", "V1", params, run).host(Host::Bare).unit("events").main()]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let events = w4_log::events(&context);
    let plan = Plan::of_events(events, OPEN);
    let Made { log, filled, .. } = w4_log::made(&context, &format!("lives_{events}"), plan).await?;
    let folder = context.folder.join("seals");
    std::fs::create_dir_all(&folder)?;
    seal(&log, filled.head, &folder).await?;
    let export = Arc::new(exported(&log).await?);
    let (probe, measure) = (context.budget.probe.clone(), context.budget.measure);
    probe.open().await;
    let own = of_process(std::process::id());
    let bytes = export.clone();
    let (passes, took) = tokio::task::spawn_blocking(move || passes(&bytes, measure)).await??;
    let own = of_process(std::process::id()) - own;
    probe.close().await;
    let total = filled.head * passes;
    Ok(Samples::timed(total, took)
        .with("events", filled.head as f64)
        .with("passes", passes as f64)
        .with("bytes_per_event", export.len() as f64 / filled.head as f64)
        .with("events_per_cpu_s", total as f64 / own.max(1e-9)))
}

/// Has the log sealed to its end.
async fn seal(log: &Log, head: u64, folder: &std::path::Path) -> anyhow::Result<()> {
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("sealer", "bench", PATIENCE, true).await?;
    let token = lease.context("the sealer's lease")?.token;
    let reader = Reader { log: log.clone(), feed: Feed::at(head) };
    let clock = Clock::read_at(leases.now().await?);
    let outside: Vec<Arc<dyn Outside>> = vec![Arc::new(SealFile::of(folder))];
    let sealer = Arc::new(Sealer::new(reader, clock, folder.join(KEY_FILE), outside)?);
    let (mut sealed, cancel) = (sealer.sealed(), CancellationToken::new());
    let running = tokio::spawn({
        let (sealer, cancel) = (sealer.clone(), cancel.clone());
        async move { sealer.run(token, cancel).await }
    });
    tokio::time::timeout(PATIENCE, sealed.wait_for(|sealed| sealed.position >= head)).await??;
    cancel.cancel();
    running.await?;
    Ok(())
}

async fn exported(log: &Log) -> anyhow::Result<Vec<u8>> {
    let range = Range { wait: Some(PATIENCE), ..Range::default() };
    let (mut export, mut bytes) = (Export::begin(log, range).await?, Vec::new());
    while let Some(lines) = export.next().await? {
        bytes.extend_from_slice(&lines);
    }
    Ok(bytes)
}

/// Whole passes, at least one.
fn passes(export: &[u8], measure: Duration) -> anyhow::Result<(u64, Duration)> {
    let (begun, mut passes) = (Instant::now(), 0);
    while passes == 0 || begun.elapsed() < measure {
        let mut lines = Lines::new(Checker::new(&[], &[])?);
        for block in export.chunks(BLOCK) {
            lines.feed(block)?;
        }
        let report = lines.finish(false)?;
        ensure!(report.not_yet_sealed.is_none(), "{report:?}");
        passes += 1;
    }
    Ok((passes, begun.elapsed()))
}
