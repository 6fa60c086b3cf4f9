//! Reading a log back: in order and decoded, and stream by stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::ensure;
use commands::Ids;
use futures::{TryStreamExt, pin_mut};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::database::Database;
use super::limit;
use super::write::Raw;
use crate::cell::{Cell, Context};
use crate::commands::{Payload, payload_json};
use crate::load::{self, Reply, Samples, closed};

/// Events of one stream.
const PER_STREAM: u64 = 100;
/// Events of the log; a tenth for a quick look.
const EVENTS: u64 = 200_000;
/// Loads that are under way on the one connection.
const PIPELINED: usize = 8;

pub(super) fn cells() -> Vec<Cell> {
    let rehydrate = |events: i64| {
        let name = format!("bytea rehydrate events={events} pipelined={PIPELINED} one conn");
        limit(name, "loads", move |context| rehydrate(context, events))
    };
    vec![
        limit("bytea COPY out ordered + typed decode", "events", copy_out).main(),
        limit("bytea keyset page=5000 + typed decode", "events", pages),
        rehydrate(10),
        rehydrate(100),
    ]
}

/// A log of streams; their ids.
async fn filled(context: &Context) -> anyhow::Result<(Database, Vec<Uuid>)> {
    let database = Database::with_events(context, "bytea").await?;
    let events = if context.quick { EVENTS / 10 } else { EVENTS };
    let sql = "COPY events (aggregate_id, sequence, event_type, payload) FROM STDIN BINARY";
    let sink = database.client.copy_in(sql).await?;
    let writer = BinaryCopyInWriter::new(sink, &[Type::UUID, Type::INT8, Type::TEXT, Type::BYTEA]);
    pin_mut!(writer);
    let mut streams = Vec::new();
    let mut stream = Uuid::nil();
    for n in 0..events {
        if n % PER_STREAM == 0 {
            stream = Ids.fresh();
            streams.push(stream);
        }
        let sequence = (n % PER_STREAM + 1) as i64;
        let body = payload_json(n);
        writer.as_mut().write(&[&stream, &sequence, &"TaskSubmitted", &Raw(&body)]).await?;
    }
    writer.finish().await?;
    database.client.batch_execute("VACUUM ANALYZE events").await?;
    Ok((database, streams))
}

async fn copy_out(context: Context) -> anyhow::Result<Samples> {
    let (database, streams) = filled(&context).await?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    // Whole passes, at least one: a pass has no latency, only a pace.
    while samples.ops == 0 || begin.elapsed() < context.budget.measure {
        let out = database
            .client
            .copy_out(
                "COPY (SELECT position, aggregate_id, sequence, event_type, payload FROM events
                       ORDER BY position) TO STDOUT BINARY",
            )
            .await?;
        let kinds = [Type::INT8, Type::UUID, Type::INT8, Type::TEXT, Type::BYTEA];
        let rows = BinaryCopyOutStream::new(out, &kinds);
        pin_mut!(rows);
        let mut read = 0;
        while let Some(row) = rows.try_next().await? {
            let payload: Payload = serde_json::from_slice(row.get::<&[u8]>(4))?;
            read += u64::from(payload.priority >= 0);
        }
        ensure!(read == streams.len() as u64 * PER_STREAM, "{read} events came back");
        samples.ops += read;
    }
    samples.seconds = begin.elapsed().as_secs_f64();
    Ok(samples)
}

async fn pages(context: Context) -> anyhow::Result<Samples> {
    let (database, streams) = filled(&context).await?;
    let statement = database
        .client
        .prepare(
            "SELECT position, aggregate_id, sequence, event_type, payload FROM events
             WHERE position > $1 ORDER BY position LIMIT 5000",
        )
        .await?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    while samples.ops == 0 || begin.elapsed() < context.budget.measure {
        let (mut last, mut read) = (0i64, 0);
        loop {
            let rows = database.client.query(&statement, &[&last]).await?;
            let Some(row) = rows.last() else { break };
            last = row.get(0);
            for row in &rows {
                let payload: Payload = serde_json::from_slice(row.get::<_, &[u8]>(4))?;
                read += u64::from(payload.priority >= 0);
            }
        }
        ensure!(read == streams.len() as u64 * PER_STREAM, "{read} events came back");
        samples.ops += read;
    }
    samples.seconds = begin.elapsed().as_secs_f64();
    Ok(samples)
}

async fn rehydrate(context: Context, events: i64) -> anyhow::Result<Samples> {
    let (database, streams) = filled(&context).await?;
    let client = database.connect().await?;
    let statement = client
        .prepare(
            "SELECT sequence, event_type, payload FROM events
             WHERE aggregate_id = $1 AND sequence <= $2 ORDER BY sequence",
        )
        .await?;
    let shared = Arc::new(Loads { client, statement, streams, next: AtomicU64::new(0), events });
    closed(&context.budget, (0..PIPELINED).map(|_| Loader(shared.clone())).collect()).await
}

struct Loads {
    client: Client,
    statement: Statement,
    streams: Vec<Uuid>,
    next: AtomicU64,
    events: i64,
}

struct Loader(Arc<Loads>);

impl load::Client for Loader {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let Loads { client, statement, streams, next, events } = &*self.0;
        // A prime step: no stream comes again soon, and all come.
        let at = next.fetch_add(7_919, Ordering::Relaxed) as usize % streams.len();
        let rows = client.query(statement, &[&streams[at], events]).await?;
        let mut folded = 0i64;
        for row in &rows {
            let payload: Payload = serde_json::from_slice(row.get::<_, &[u8]>(2))?;
            folded += i64::from(payload.priority);
        }
        std::hint::black_box(folded);
        ensure!(rows.len() as i64 == *events, "{} events came back", rows.len());
        Ok(Reply::read())
    }
}
