//! W4a: the log folded anew, in memory and into PostgreSQL.
//!
//! Both are library calls, as in the operation that a rebuild is; so the CPU time of this
//! process is the product's own (`cpu_s`), and `events_per_cpu_s` is the figure per core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use projections::engine::Pace;
use projections::{Model, with_model};
use store::Log;

use super::fill::{Filled, Plan};
use super::w4_log::{self, Made};
use crate::cell::{Cell, Context, Host, Params};
use crate::counters::of_process;
use crate::load::Samples;

/// Open tasks of the log; the others have lived their lives.
const OPEN: u64 = 1_000;

/// The cells.
pub fn cells() -> Vec<Cell> {
    let cell = |params: Params, what: What| {
        Cell::new("rebuild", "W4a", params, move |context| run(context, what))
            .host(Host::Bare)
            .unit("events")
            .limit("bytea COPY out ordered + typed decode")
    };
    let into = |what: &str| Params::default().with("into", what);
    let mut cells = vec![
        cell(into("nothing").with("model", "none"), What::Decode),
        cell(into("memory").with("model", "tasks"), What::Memory(Model::Tasks)).main(),
        cell(into("memory").with("model", "metrics"), What::Memory(Model::Metrics)),
    ];
    for model in Model::ALL {
        let params = into("postgres").with("model", model.as_str());
        let cell = cell(params, What::Postgres(model));
        cells.push(if model == Model::Tasks { cell.main() } else { cell });
    }
    cells
}

#[derive(Clone, Copy)]
enum What {
    /// Read in order and decoded: what every fold begins with.
    Decode,
    /// Folded into rows in memory.
    Memory(Model),
    /// Folded into tables, compared with the live rows, put in their place.
    Postgres(Model),
}

async fn run(context: Context, what: What) -> anyhow::Result<Samples> {
    let events = w4_log::events(&context);
    let plan = Plan::of_events(events, OPEN);
    let Made { log, filled, .. } = w4_log::made(&context, &format!("lives_{events}"), plan).await?;
    // The first pass warms the caches up; a model's first rebuild also fills its live table.
    let begun = Instant::now();
    pass(&log, &filled, what, true).await?;
    let one = begun.elapsed();
    let (mut passes, mut took) = (0, Duration::ZERO);
    let own = of_process(std::process::id());
    context.budget.probe.open().await;
    while passes == 0 || took + one < context.budget.measure {
        let begun = Instant::now();
        pass(&log, &filled, what, false).await?;
        took += begun.elapsed();
        passes += 1;
    }
    context.budget.probe.close().await;
    let own = of_process(std::process::id()) - own;
    let used = context.budget.probe.used().unwrap_or_default();
    let total = filled.head * passes;
    Ok(Samples::timed(total, took)
        .with("events", filled.head as f64)
        .with("passes", passes as f64)
        .with("cpu_s", own / took.as_secs_f64())
        .with("events_per_cpu_s", total as f64 / (own + used.postgres).max(1e-9)))
}

async fn pass(log: &Log, filled: &Arc<Filled>, what: What, first: bool) -> anyhow::Result<()> {
    let head = filled.head;
    match what {
        What::Decode => {
            let read = decode(log).await?;
            ensure!(read == head, "{read} events were read of {head}");
        }
        What::Memory(model) => {
            let rows = with_model!(model, projection => {
                let world = replay::world_at(projection, log, head).await?;
                ensure!(world.position() == head, "the fold ended at {}", world.position());
                ensure!(world.parked().is_empty() && world.unknown() == 0, "events were passed over");
                world.rows().count() as u64
            });
            if model == Model::Tasks {
                ensure!(rows == filled.tasks, "{rows} rows of {} tasks", filled.tasks);
            }
        }
        What::Postgres(model) => {
            let report = replay::rebuild(model, log, |_, _| {}).await?;
            ensure!(report.position == head && report.parked == 0, "{report:?}");
            // The first one met empty live tables.
            ensure!(first || report.differing == Some(0), "{report:?}");
            if model == Model::Tasks {
                ensure!(report.rows == filled.tasks, "{report:?}, {} tasks", filled.tasks);
            }
        }
    }
    Ok(())
}

/// Reads the whole log in order and decodes every event.
async fn decode(log: &Log) -> anyhow::Result<u64> {
    let mut pace = Pace::default();
    let mut position = 0;
    loop {
        let events = log.read(position, pace.limit()).await?;
        for event in &events {
            let event = event.event().map_err(|error| anyhow::anyhow!("{error}"))?;
            std::hint::black_box(event);
        }
        let Some(last) = events.last() else { return Ok(position) };
        position = last.position;
        pace.took(&events);
    }
}
