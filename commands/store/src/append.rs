//! One append is one SQL statement (invariant 3).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::recorded::Hashed;
use domain::{Claim, Event, Recorded, StreamType, TenantId, Timestamp};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::StoreError;
use crate::seeded::{Planted, planted};
use crate::server::connect_alone;

/// Advances the head where the token is the writer's, then inserts what hangs on it.
/// The last SELECT takes its row from `h`, because a batch of refusals inserts no event.
const APPEND: &str = "
WITH h AS (
    UPDATE log_head SET position = position + $1,
                        recorded_at = GREATEST(clock_timestamp(), recorded_at)
    WHERE shard = 0 AND token = $2
    RETURNING position - $1 AS base, epoch, recorded_at
), e AS (
    INSERT INTO events (position, epoch, tenant, stream_type, stream_id, version, event_type,
                        schema_version, event_id, command_id, actor, correlation_id,
                        causation_position, trace, occurred_at, recorded_at, payload, hash)
    SELECT h.base + u.ord, h.epoch, u.tenant, u.stream_type, u.stream_id, u.version, u.event_type,
           u.schema_version, u.event_id, u.command_id, u.actor, u.correlation_id,
           u.causation_position, u.trace, u.occurred_at, h.recorded_at, u.payload, u.hash
    FROM h, unnest($3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::text[], $8::smallint[],
                   $9::uuid[], $10::uuid[], $11::text[], $12::uuid[], $13::bigint[], $14::text[],
                   $15::timestamptz[], $16::bytea[], $17::bytea[])
         WITH ORDINALITY AS u(tenant, stream_type, stream_id, version, event_type, schema_version,
                              event_id, command_id, actor, correlation_id, causation_position,
                              trace, occurred_at, payload, hash, ord)
), r AS (
    INSERT INTO command_results (command_id, tenant, fingerprint, stream_type, stream_id, command,
                                 actor, version, position, events, problem, recorded_at)
    SELECT u.command_id, u.tenant, u.fingerprint, u.stream_type, u.stream_id, u.command, u.actor,
           u.version, h.base + u.ordinal, u.events, u.problem, h.recorded_at
    FROM h, unnest($18::uuid[], $19::text[], $20::bytea[], $21::text[], $22::uuid[], $23::text[],
                   $24::text[], $25::bigint[], $26::bigint[], $27::text[], $28::text[])
         AS u(command_id, tenant, fingerprint, stream_type, stream_id, command, actor, version,
              ordinal, events, problem)
), taken AS (
    INSERT INTO unique_claims (tenant, kind, value, stream_id)
    SELECT u.tenant, u.kind, u.value, u.stream_id
    FROM h, unnest($29::text[], $30::text[], $31::text[], $32::uuid[])
         AS u(tenant, kind, value, stream_id)
), freed AS (
    DELETE FROM unique_claims c
    USING h, unnest($33::text[], $34::text[], $35::text[], $36::uuid[])
         AS u(tenant, kind, value, stream_id)
    WHERE c.tenant = u.tenant AND c.kind = u.kind AND c.value = u.value
      AND c.stream_id = u.stream_id
)
SELECT base, epoch, recorded_at FROM h";

/// An event that is decided and hashed, but has no place in the log yet.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the same fields as Recorded")]
pub struct NewEvent {
    pub tenant: TenantId,
    pub stream_type: StreamType,
    pub stream_id: Uuid,
    pub version: u64,
    pub event_type: &'static str,
    pub schema_version: u16,
    pub event_id: Uuid,
    pub command_id: Uuid,
    pub actor: Arc<str>,
    pub correlation_id: Option<Uuid>,
    pub causation_position: Option<u64>,
    pub trace: Option<Arc<str>>,
    pub occurred_at: Timestamp,
    pub payload: Bytes,
    pub hash: [u8; 32],
    pub event: Event,
}

impl NewEvent {
    /// Sets the hash over all fields that are known before the append.
    #[must_use]
    pub fn hashed(mut self) -> Self {
        self.hash = Hashed {
            tenant: &self.tenant,
            stream_type: self.stream_type,
            stream_id: self.stream_id,
            version: self.version,
            event_type: self.event_type,
            schema_version: self.schema_version,
            event_id: self.event_id,
            command_id: self.command_id,
            actor: &self.actor,
            correlation_id: self.correlation_id,
            causation_position: self.causation_position,
            trace: self.trace.as_deref(),
            occurred_at: self.occurred_at,
            payload: &self.payload,
        }
        .hash();
        self
    }

    fn recorded(self, position: u64, epoch: u64, recorded_at: Timestamp) -> Recorded {
        Recorded {
            position,
            epoch,
            tenant: self.tenant,
            stream_type: self.stream_type,
            stream_id: self.stream_id,
            version: self.version,
            event_type: self.event_type.into(),
            schema_version: self.schema_version,
            event_id: self.event_id,
            command_id: self.command_id,
            actor: self.actor,
            correlation_id: self.correlation_id,
            causation_position: self.causation_position,
            trace: self.trace,
            occurred_at: self.occurred_at,
            recorded_at,
            payload: self.payload,
            hash: self.hash,
            decoded: OnceLock::from(Ok(self.event)),
        }
    }
}

/// What became of a command, to be stored beside its events.
#[derive(Debug, Clone)]
pub struct NewResult {
    /// The command's id.
    pub command_id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// SHA-256 of what was asked for.
    pub fingerprint: [u8; 32],
    /// The kind of its stream.
    pub stream_type: StreamType,
    /// Its stream.
    pub stream_id: Uuid,
    /// Its name.
    pub command: &'static str,
    /// Who asked.
    pub actor: Arc<str>,
    /// The stream's version after it.
    pub version: u64,
    /// How many events of the batch stand before or in it: its position behind the base.
    pub ordinal: u64,
    /// The names of its events.
    pub events: Vec<&'static str>,
    /// The refusal, as a JSON problem document.
    pub problem: Option<String>,
}

/// A batch that is to become durable as a whole.
#[derive(Debug, Default)]
pub struct Append {
    /// In the order of their positions.
    pub events: Vec<NewEvent>,
    /// One per command.
    pub results: Vec<NewResult>,
    /// Unique things that streams own from now on.
    pub taken: Vec<(TenantId, Claim, Uuid)>,
    /// Unique things that their streams no longer own.
    pub freed: Vec<(TenantId, Claim, Uuid)>,
}

/// Where a batch came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The position before the batch's first event.
    pub base: u64,
    /// The generation of the store.
    pub epoch: u64,
    /// The batch's time.
    pub recorded_at: Timestamp,
}

impl Append {
    /// The events as recorded, after they were written.
    pub fn recorded(self, written: Written) -> Vec<Arc<Recorded>> {
        let place = |(index, event): (usize, NewEvent)| {
            let position = written.base + index as u64 + 1;
            Arc::new(event.recorded(position, written.epoch, written.recorded_at))
        };
        self.events.into_iter().enumerate().map(place).collect()
    }
}

/// The one connection that appends; several batches may be in flight on it.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    append: Statement,
}

impl Writer {
    /// Connects and prepares. A writer that hangs inside its transaction is cut off by
    /// the server, so it cannot hold the head's lock for long (reliability D3).
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let client = connect_alone(url).await?;
        client
            .batch_execute(
                "SET lock_timeout = '2s'; SET statement_timeout = '5s';
                 SET idle_in_transaction_session_timeout = '10s'",
            )
            .await?;
        if planted(Planted::AcksBeforeFlush) {
            client.batch_execute("SET synchronous_commit = off").await?;
        }
        let append = client.prepare(APPEND).await?;
        Ok(Self { client, append })
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Makes a batch durable; returns after the commit's flush.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the token is not the current one; a unique
    /// violation when a stream moved on or a command id has a result already. In each
    /// case nothing of the batch is written.
    pub async fn append(&self, token: i64, batch: &Append) -> Result<Written, StoreError> {
        let e = &batch.events;
        let r = &batch.results;
        let count = e.len() as i64;
        let columns: [Column<'_>; 34] = [
            column(e, |e| e.tenant.as_str()),
            column(e, |e| e.stream_type.as_str()),
            column(e, |e| e.stream_id),
            column(e, |e| e.version as i64),
            column(e, |e| e.event_type),
            column(e, |e| e.schema_version as i16),
            column(e, |e| e.event_id),
            column(e, |e| e.command_id),
            column(e, |e| &*e.actor),
            column(e, |e| e.correlation_id),
            column(e, |e| e.causation_position.map(|p| p as i64)),
            column(e, |e| e.trace.as_deref()),
            column(e, |e| e.occurred_at),
            column(e, |e| &*e.payload),
            column(e, |e| e.hash.as_slice()),
            column(r, |r| r.command_id),
            column(r, |r| r.tenant.as_str()),
            column(r, |r| r.fingerprint.as_slice()),
            column(r, |r| r.stream_type.as_str()),
            column(r, |r| r.stream_id),
            column(r, |r| r.command),
            column(r, |r| &*r.actor),
            column(r, |r| r.version as i64),
            column(r, |r| r.ordinal as i64),
            column(r, |r| r.events.join(",")),
            column(r, |r| r.problem.as_deref()),
            column(&batch.taken, |(tenant, ..)| tenant.as_str()),
            column(&batch.taken, |(_, claim, _)| claim.kind),
            column(&batch.taken, |(_, claim, _)| claim.value.as_str()),
            column(&batch.taken, |(.., stream_id)| *stream_id),
            column(&batch.freed, |(tenant, ..)| tenant.as_str()),
            column(&batch.freed, |(_, claim, _)| claim.kind),
            column(&batch.freed, |(_, claim, _)| claim.value.as_str()),
            column(&batch.freed, |(.., stream_id)| *stream_id),
        ];
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&count, &token];
        parameters.extend(columns.iter().map(|column| &**column as &(dyn ToSql + Sync)));
        let row = self.client.query_opt(&self.append, &parameters).await?;
        let row = row.ok_or(StoreError::LeaseLost)?;
        Ok(Written {
            base: row.get::<_, i64>(0) as u64,
            epoch: row.get::<_, i64>(1) as u64,
            recorded_at: row.get(2),
        })
    }
}

type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;

fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Column<'a>
where
    Vec<V>: ToSql + Sync + Send + 'a,
{
    Box::new(rows.iter().map(value).collect::<Vec<V>>())
}
