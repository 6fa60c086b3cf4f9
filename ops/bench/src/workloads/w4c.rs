//! W4c: one stream read and folded, as the processor does for an aggregate that it does
//! not have in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use domain::TenantId;
use store::Log;
use uuid::Uuid;

use super::fill::Plan;
use super::w4_log::{self, Made};
use crate::cell::{Cell, Context, Host, Params};
use crate::commands::tenant;
use crate::load::{Client, Reply, Samples, closed};

/// Streams per length: more than what stays in any one page, little enough to fill quickly.
const STREAMS: &[(u64, u64)] = &[(10, 4_000), (100, 1_000), (1_000, 100)];

/// The cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for &(length, _) in STREAMS {
        for (callers, keys) in [(1, 1), (8, 1), (1, 8)] {
            let params = Params::default()
                .with("events", length)
                .with("callers", callers)
                .with("keys", keys);
            let cell = Cell::new("rebuild", "W4c", params, move |context| {
                run(context, length, callers, keys)
            });
            let cell = cell.host(Host::Bare).unit("loads");
            let cell = if (callers, length) == (8, 100) {
                cell.limit("bytea rehydrate events=100 pipelined=8 one conn").main()
            } else {
                cell
            };
            cells.push(cell);
        }
    }
    cells
}

async fn run(
    context: Context,
    length: u64,
    callers: usize,
    keys: usize,
) -> anyhow::Result<Samples> {
    let plan = Plan { streams: STREAMS, ..Plan::default() };
    let Made { log, filled, .. } = w4_log::made(&context, "streams", plan).await?;
    let ids = filled.streams.iter().find(|(l, _)| *l == length).map(|(_, ids)| ids.clone());
    let ids: Arc<[Uuid]> = ids.unwrap_or_default().into();
    let next = Arc::new(AtomicUsize::new(0));
    let callers = (0..callers).map(|_| Caller {
        log: log.clone(),
        tenant: tenant(),
        ids: ids.clone(),
        next: next.clone(),
        keys,
        length,
    });
    closed(&context.budget, callers.collect()).await
}

struct Caller {
    log: Log,
    tenant: TenantId,
    ids: Arc<[Uuid]>,
    next: Arc<AtomicUsize>,
    keys: usize,
    length: u64,
}

impl Client for Caller {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let first = self.next.fetch_add(self.keys, Ordering::Relaxed);
        let keys: Vec<_> = (first..first + self.keys)
            .map(|nth| (self.tenant.clone(), self.ids[nth % self.ids.len()]))
            .collect();
        let found = self.log.rehydrate(&keys).await?;
        for key in &keys {
            let version = found.streams.get(key).map(|stream| stream.version);
            ensure!(version == Some(self.length), "a stream of {version:?} events");
        }
        Ok(Reply::units(self.keys as u64))
    }
}
