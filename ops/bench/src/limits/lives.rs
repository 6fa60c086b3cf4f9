//! Lives of four steps with a table of the queue beside the log and every event relayed: the
//! barest form of W2a.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::database::Database;
use super::group::{Sent, Shape, group};
use super::limit;
use crate::cell::{Cell, Context};
use crate::load::Samples;

/// Publications whose acknowledgement may be outstanding.
const UNACKNOWLEDGED: usize = 4_096;
const CLIENTS: usize = 256;
const WRITERS: usize = 2;

pub(super) fn cells() -> Vec<Cell> {
    let name =
        format!("4-step lives + queue table + relay bytea clients={CLIENTS} writers={WRITERS}");
    vec![limit(name, "tasks", lives).main()]
}

async fn lives(context: Context) -> anyhow::Result<Samples> {
    let database = Database::with_events(&context, "bytea").await?;
    database
        .client
        .batch_execute(
            "CREATE TABLE queue (task_id uuid PRIMARY KEY, state smallint NOT NULL,
                                 seq bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())
                 WITH (fillfactor = 50)",
        )
        .await?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let client = database.connect().await?;
        let statement = client
            .prepare(
                "WITH e AS (
                     INSERT INTO events (position, aggregate_id, sequence, event_type, payload)
                     SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::text[],
                                          $5::bytea[]))
                 INSERT INTO queue (task_id, state, seq)
                 SELECT a, s::smallint, s FROM unnest($2::uuid[], $3::bigint[]) q(a, s)
                 ON CONFLICT (task_id) DO UPDATE
                    SET state = EXCLUDED.state, seq = EXCLUDED.seq, updated_at = now()",
            )
            .await?;
        writers.push((client, statement));
    }
    let writers = Arc::new(writers);
    let stream = jetstream::new(context.target.nats().await?);
    let _ = stream.delete_stream("LIVES").await;
    stream
        .create_stream(stream::Config {
            name: "LIVES".into(),
            subjects: vec!["lives.>".into()],
            storage: stream::StorageType::File,
            ..Default::default()
        })
        .await?;
    let position = Arc::new(AtomicI64::new(0));
    let places = Arc::new(Semaphore::new(UNACKNOWLEDGED));
    let relay = stream.clone();
    let flush = move |number: usize, batch: Vec<Sent>| {
        let (writers, relay) = (writers.clone(), relay.clone());
        let (position, places) = (position.clone(), places.clone());
        async move {
            let count = batch.len() as i64;
            let first = position.fetch_add(count, Ordering::Relaxed) + 1;
            let positions: Vec<i64> = (first..first + count).collect();
            let streams: Vec<Uuid> = batch.iter().map(|sent| sent.stream).collect();
            let sequences: Vec<i64> = batch.iter().map(|sent| sent.sequence).collect();
            let kinds: Vec<&str> = batch.iter().map(|_| "TaskSubmitted").collect();
            let bodies: Vec<&[u8]> = batch.iter().map(|sent| sent.body.as_slice()).collect();
            let (client, statement) = &writers[number];
            client.execute(statement, &[&positions, &streams, &sequences, &kinds, &bodies]).await?;
            for sent in &batch {
                let place = places.clone().acquire_owned().await?;
                let body = Bytes::copy_from_slice(&sent.body);
                let acknowledged = relay.publish("lives.task", body).await?;
                tokio::spawn(async move {
                    let _ = acknowledged.await;
                    drop(place);
                });
            }
            batch.into_iter().for_each(Sent::answer);
            Ok(())
        }
    };
    let shape = Shape {
        clients: CLIENTS,
        sequencers: WRITERS,
        in_flight: 1,
        per_stream: 4,
        whole_streams: true,
    };
    let samples = group(&context.budget, shape, flush).await;
    stream.delete_stream("LIVES").await?;
    samples
}
