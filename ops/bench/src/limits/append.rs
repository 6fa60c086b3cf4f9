//! The append statement: in its barest form, and as the product has it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use domain::task::TaskEvent;
use domain::{Event, StreamType};
use store::{Append, Leases, NewEvent, NewResult, Writer};
use uuid::Uuid;

use super::database::Database;
use super::group::{Sent, Shape, group};
use super::limit;
use crate::cell::{Cell, Context};
use crate::commands::{ACTOR, submit, tenant};
use crate::load::Samples;

const PER_STREAM: i64 = 8;

pub(super) fn cells() -> Vec<Cell> {
    let head = |clients: usize, in_flight: usize| {
        let name = format!(
            "head-row CTE, gap-free, fenced: clients={clients} partitions=1 in-flight={in_flight}"
        );
        limit(name, "events", move |context| head_row(context, clients, in_flight))
    };
    let writer = |clients: usize| {
        let name = format!("product's append statement: clients={clients} in-flight=2");
        limit(name, "events", move |context| product(context, clients))
    };
    vec![
        head(1, 1),
        head(8, 1),
        head(64, 1).main(),
        head(256, 2).main(),
        head(1024, 2),
        writer(1),
        writer(64),
        writer(256),
    ]
}

fn shape(clients: usize, in_flight: usize) -> Shape {
    Shape { clients, sequencers: 1, in_flight, per_stream: PER_STREAM, whole_streams: false }
}

/// One statement advances the head, guarded by an epoch, takes gap-free positions from it and
/// inserts the events. Nothing else: no results, hashes, actors.
async fn head_row(context: Context, clients: usize, in_flight: usize) -> anyhow::Result<Samples> {
    let database = Database::fresh(&context).await?;
    database
        .client
        .batch_execute(
            "CREATE TABLE heads (part int PRIMARY KEY, epoch bigint NOT NULL, last bigint NOT NULL)
                 WITH (fillfactor = 10);
             INSERT INTO heads VALUES (0, 1, 0);
             CREATE TABLE pevents (
                 part int NOT NULL, position bigint NOT NULL, aggregate_id uuid NOT NULL,
                 sequence bigint NOT NULL, event_type text NOT NULL, payload bytea NOT NULL,
                 recorded_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (aggregate_id, sequence));
             CREATE UNIQUE INDEX ON pevents (part, position)",
        )
        .await?;
    let client = Arc::new(database.connect().await?);
    let statement = client
        .prepare(
            "WITH h AS (
                 UPDATE heads SET last = last + $1 WHERE part = $2 AND epoch = $3
                 RETURNING last - $1 AS base)
             INSERT INTO pevents (part, position, aggregate_id, sequence, event_type, payload)
             SELECT $2, h.base + e.ord, e.a, e.s, e.t, e.p
             FROM h, unnest($4::uuid[], $5::bigint[], $6::text[], $7::bytea[])
                  WITH ORDINALITY e(a, s, t, p, ord)
             RETURNING position",
        )
        .await?;
    let flush = move |_, batch: Vec<Sent>| {
        let (client, statement) = (client.clone(), statement.clone());
        async move {
            let streams: Vec<Uuid> = batch.iter().map(|sent| sent.stream).collect();
            let sequences: Vec<i64> = batch.iter().map(|sent| sent.sequence).collect();
            let kinds: Vec<&str> = batch.iter().map(|_| "TaskSubmitted").collect();
            let bodies: Vec<&[u8]> = batch.iter().map(|sent| sent.body.as_slice()).collect();
            let rows = client
                .query(
                    &statement,
                    &[&(batch.len() as i64), &0i32, &1i64, &streams, &sequences, &kinds, &bodies],
                )
                .await?;
            ensure!(rows.len() == batch.len(), "fenced off");
            batch.into_iter().for_each(Sent::answer);
            Ok(())
        }
    };
    group(&context.budget, shape(clients, in_flight), flush).await
}

/// The product's own statement and tables with what it stores for every command, and none of
/// what goes on before: no look-up, no decision, no hash.
async fn product(context: Context, clients: usize) -> anyhow::Result<Samples> {
    let database = Database::fresh(&context).await?;
    migrations::migrate(&database.url).await?;
    let url = migrations::service_urls(&database.url)?.service;
    let leases = Leases::new(store::connect_pool(&url, 2)?);
    let lease = leases.acquire("processor", ACTOR, Duration::from_secs(3_600), true).await?;
    let token = lease.map(|lease| lease.token).unwrap_or_default();
    let writer = Arc::new(Writer::connect(&url).await?);
    let sample = Sample::of(&database).await?;
    let flush = move |_, batch: Vec<Sent>| {
        let (writer, sample) = (writer.clone(), sample.clone());
        async move {
            let mut batch = batch;
            let append = sample.append(&mut batch);
            writer.append(token, &append).await?;
            batch.into_iter().for_each(Sent::answer);
            Ok(())
        }
    };
    group(&context.budget, shape(clients, 2), flush).await
}

/// What all events of the cell have in common.
#[derive(Clone)]
struct Sample {
    event: Event,
    now: domain::Timestamp,
    actor: Arc<str>,
}

impl Sample {
    async fn of(database: &Database) -> anyhow::Result<Self> {
        let row = database.client.query_one("SELECT clock_timestamp()", &[]).await?;
        let facts = domain::Facts::new(row.get(0), ACTOR);
        let command = domain::task::TaskCommand::Submit(submit(0)).into();
        let decided = domain::Aggregate::new(StreamType::Task).decide(&command, &facts);
        let event = decided.ok().and_then(|mut events| events.pop());
        let event = event.ok_or_else(|| anyhow::anyhow!("a task cannot be submitted"))?;
        debug_assert!(matches!(event, Event::Task(TaskEvent::Submitted(_))));
        Ok(Self { event, now: facts.now, actor: ACTOR.into() })
    }

    /// The rows of a batch; takes the payloads out of it.
    fn append(&self, batch: &mut [Sent]) -> Append {
        let mut append = Append::default();
        for (sent, ordinal) in batch.iter_mut().zip(1u64..) {
            let (tenant, command_id) = (tenant(), commands::Ids.fresh());
            let event = NewEvent {
                tenant: tenant.clone(),
                stream_type: StreamType::Task,
                stream_id: sent.stream,
                version: sent.sequence as u64,
                event_type: "submitted",
                schema_version: 1,
                event_id: commands::Ids.fresh(),
                command_id,
                actor: self.actor.clone(),
                correlation_id: Some(command_id),
                causation_position: None,
                trace: None,
                occurred_at: self.now,
                payload: Bytes::from(std::mem::take(&mut sent.body)),
                event: self.event.clone(),
            };
            append.events.push(event.hashed());
            append.results.push(NewResult {
                command_id,
                tenant,
                fingerprint: [7; 32],
                stream_type: StreamType::Task,
                stream_id: sent.stream,
                command: "submit",
                actor: self.actor.clone(),
                version: sent.sequence as u64,
                ordinal,
                events: vec!["submitted"],
                problem: None,
                credential: None,
                origin: None,
            });
        }
        append
    }
}
