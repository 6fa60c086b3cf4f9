//! Plain INSERTs, one row and a hundred at a time, on one connection.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use commands::Ids;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::database::Database;
use super::limit;
use crate::cell::{Cell, Context};
use crate::commands::payload_json;
use crate::load::{self, Reply, Samples, closed};

/// Payloads that are made once: the cell measures the database, not the generator.
const BODIES: u64 = 4_096;
/// Events of one stream.
const PER_STREAM: usize = 8;

pub(super) fn cells() -> Vec<Cell> {
    vec![
        limit("Insert batch=1 conns=1", "events", |context| insert(context, 1, "jsonb")).main(),
        limit("Unnest batch=100 conns=1", "events", |context| insert(context, 100, "jsonb")),
        limit("bytea Unnest batch=100 conns=1", "events", |context| insert(context, 100, "bytea")),
    ]
}

/// JSON bytes as they are, for `jsonb` and for `bytea`.
#[derive(Debug)]
pub(super) struct Raw<'a>(pub &'a [u8]);

impl ToSql for Raw<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if *kind == Type::JSONB {
            out.put_u8(1); // the version of jsonb's binary form
        }
        out.put_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB || *kind == Type::BYTEA
    }

    to_sql_checked!();
}

async fn insert(context: Context, batch: usize, payload: &str) -> anyhow::Result<Samples> {
    let database = Database::with_events(&context, payload).await?;
    let client = database.connect().await?;
    let into = "INSERT INTO events (aggregate_id, sequence, event_type, payload)";
    let sql = if batch == 1 {
        format!("{into} VALUES ($1, $2, $3, $4)")
    } else {
        format!(
            "{into} SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::{payload}[])"
        )
    };
    let statement = client.prepare(&sql).await?;
    let bodies = (0..BODIES).map(payload_json).collect();
    let inserter = Inserter { client, statement, bodies, batch, n: 0, stream: Ids.fresh() };
    closed(&context.budget, vec![inserter]).await
}

struct Inserter {
    client: Client,
    statement: Statement,
    bodies: Arc<[Vec<u8>]>,
    batch: usize,
    n: usize,
    stream: Uuid,
}

impl load::Client for Inserter {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let rows: Vec<(Uuid, i64, usize)> = (0..self.batch)
            .map(|_| {
                let step = self.n % PER_STREAM;
                if step == 0 {
                    self.stream = Ids.fresh();
                }
                self.n += 1;
                (self.stream, step as i64 + 1, self.n % self.bodies.len())
            })
            .collect();
        let kind = "TaskSubmitted";
        if let [(stream, sequence, body)] = rows.as_slice() {
            let body = Raw(&self.bodies[*body]);
            self.client.execute(&self.statement, &[stream, sequence, &kind, &body]).await?;
        } else {
            let streams: Vec<Uuid> = rows.iter().map(|row| row.0).collect();
            let sequences: Vec<i64> = rows.iter().map(|row| row.1).collect();
            let kinds = vec![kind; rows.len()];
            let bodies: Vec<Raw<'_>> = rows.iter().map(|row| Raw(&self.bodies[row.2])).collect();
            self.client.execute(&self.statement, &[&streams, &sequences, &kinds, &bodies]).await?;
        }
        Ok(Reply::units(self.batch as u64))
    }
}
