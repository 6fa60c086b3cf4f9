//! An export into an empty instance: everything in one transaction, so that there is all of
//! it or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use deadpool_postgres::{Pool, Transaction};
use domain::task::TaskEvent;
use domain::{ClaimChange, Event, Recorded, TenantId};
use futures::{Stream, StreamExt};
use serde::Serialize;
use store::StoreError;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::check::{Checker, Fault, Report};
use super::fast::Known;
use super::leaf::Columns;
use super::line::{Line, MAX_LINE_BYTES, read};
use super::record::Seal;
use super::table::{bigint, document, kind};

/// Rows of one statement.
const ROWS: usize = 2_000;
/// Payload bytes of one statement.
const BYTES: usize = 4 << 20;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are events already.
    #[error(
        "this instance has events already, up to position {position}; import into an empty one"
    )]
    NotEmpty {
        /// Of its last event.
        position: u64,
    },
    /// The export does not hold.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The export did not come to its end.
    #[error("the export broke off: {0}")]
    Broken(String),
}

impl From<tokio_postgres::Error> for ImportError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What was imported.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Imported {
    /// How many events.
    pub events: u64,
    /// The last position.
    pub position: u64,
    /// The generation that begins with it.
    pub epoch: u64,
    /// How many seals came with them.
    pub seals: u64,
    /// Who signed those, in hex.
    pub keys: Vec<String>,
}

/// What the next commands depend on beside the events.
#[derive(Default)]
struct Owned {
    claims: BTreeMap<(TenantId, &'static str, String), Uuid>,
    /// A task's parent and what it waits for.
    links: BTreeMap<(TenantId, Uuid), (Option<Uuid>, BTreeSet<Uuid>)>,
}

impl Owned {
    fn take(&mut self, event: &Recorded, decoded: &Event) {
        match decoded.claim_change() {
            Some(ClaimChange::Take(claim)) => {
                let key = (event.tenant.clone(), claim.kind, claim.value);
                self.claims.insert(key, event.stream_id);
            }
            Some(ClaimChange::Free(claim)) => {
                self.claims.remove(&(event.tenant.clone(), claim.kind, claim.value));
            }
            None => {}
        }
        let Event::Task(task) = decoded else { return };
        let (parent, on) = if let TaskEvent::Submitted(new) = task {
            (new.parent_id, Some(&new.depends_on))
        } else if let TaskEvent::Updated(changes) = task {
            (None, changes.depends_on.as_ref())
        } else {
            return;
        };
        let parent = parent.map(|id| id.0);
        let on = on.map(|on| on.iter().map(|id| id.0).collect::<BTreeSet<_>>());
        let key = (event.tenant.clone(), event.stream_id);
        let waits = on.as_ref().is_some_and(|on| !on.is_empty());
        if parent.is_some() || waits || self.links.contains_key(&key) {
            let links = self.links.entry(key).or_default();
            links.0 = parent.or(links.0);
            links.1 = on.unwrap_or_else(|| std::mem::take(&mut links.1));
        }
    }
}

/// Imports an export that comes in pieces; checks every line before anything counts.
///
/// The instance begins a new epoch: two that go on from one log must not be taken for each
/// other. Commands that are repeated after it find that they were decided.
///
/// # Errors
/// When the instance is not empty, the export does not hold, or the database fails: then
/// nothing was changed.
pub async fn import<E: std::fmt::Display>(
    pool: &Pool,
    pieces: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Imported, ImportError> {
    let mut client = pool.get().await.map_err(StoreError::from)?;
    let transaction = client.transaction().await?;
    // Nobody appends until this is over.
    let head = "SELECT position, EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM seals)
                FROM log_head WHERE shard = 0 FOR UPDATE";
    let head = transaction.query_one(head, &[]).await?;
    let (position, filled): (i64, bool) = (head.get(0), head.get(1));
    if position > 0 || filled {
        return Err(ImportError::NotEmpty { position: position.unsigned_abs() });
    }
    let mut import = Import {
        transaction,
        checker: Checker::new(&[], &[])?,
        known: Known::default(),
        owned: Owned::default(),
        rows: Vec::new(),
        bytes: 0,
        seals: Vec::new(),
        line: 0,
        epoch: 0,
    };
    let mut pieces = std::pin::pin!(pieces);
    let mut rest = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| ImportError::Broken(error.to_string()))?;
        rest.extend_from_slice(&piece);
        while let Some(at) = memchr::memchr(b'\n', &rest) {
            let line = rest.split_to(at + 1);
            import.line(&line[..at]).await?;
        }
        if rest.len() > MAX_LINE_BYTES {
            return Err(import
                .checker
                .unreadable(import.line + 1, "the line is too long".into())
                .into());
        }
    }
    if !rest.is_empty() {
        let line = import.line + 1;
        return Err(import.checker.unreadable(line, "the line is cut off".into()).into());
    }
    import.finish().await
}

struct Import<'a> {
    transaction: Transaction<'a>,
    checker: Checker,
    known: Known,
    owned: Owned,
    rows: Vec<Arc<Recorded>>,
    bytes: usize,
    seals: Vec<Seal>,
    line: u64,
    epoch: u64,
}

impl Import<'_> {
    async fn line(&mut self, text: &[u8]) -> Result<(), ImportError> {
        self.line += 1;
        let number = self.line;
        let line =
            read(text, &mut self.known).map_err(|what| self.checker.unreadable(number, what))?;
        let (event, seal) = match &line {
            Line::Event(event) => (Some(recorded(event)), None),
            Line::Sealed(seal) => (None, Some((**seal).clone())),
            Line::Begun(_) | Line::Edge(_) | Line::Broken(_) | Line::Ended(_) => (None, None),
        };
        self.checker.line(number, line)?;
        if let Some(header) = self.checker.header().filter(|header| header.from != 1) {
            let what = format!(
                "the export begins at position {}; only one from position 1 on makes an instance",
                header.from
            );
            return Err(Fault { position: 1, to: None, line: Some(number), what }.into());
        }
        if let Some(event) = event {
            let decoded = event.event().map_err(|error| {
                let what = format!("{error}: import it with the release that knows it");
                Fault { position: event.position, to: None, line: Some(number), what }
            })?;
            self.owned.take(&event, decoded);
            self.epoch = event.epoch;
            self.bytes += event.payload.len();
            self.rows.push(Arc::new(event));
            if self.rows.len() >= ROWS || self.bytes >= BYTES {
                self.flush().await?;
            }
        }
        // One that goes further than the events belongs to a tree that is not here.
        self.seals.extend(seal.filter(|seal| seal.size <= self.checker.position()));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ImportError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let sql = "INSERT INTO events SELECT * FROM unnest(
                $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::uuid[], $6::bigint[],
                $7::text[], $8::smallint[], $9::uuid[], $10::uuid[], $11::text[], $12::uuid[],
                $13::bigint[], $14::text[], $15::timestamptz[], $16::timestamptz[], $17::bytea[],
                $18::bytea[])";
        let statement = self.transaction.prepare_cached(sql).await?;
        let columns = Rows(&rows);
        let columns: [Box<dyn ToSql + Sync + Send + '_>; 18] = [
            columns.of(|e| bigint(e.position)),
            columns.of(|e| bigint(e.epoch)),
            columns.of(|e| e.tenant.as_str()),
            columns.of(|e| e.stream_type.as_str()),
            columns.of(|e| e.stream_id),
            columns.of(|e| bigint(e.version)),
            columns.of(|e| &*e.event_type),
            columns.of(|e| e.schema_version as i16),
            columns.of(|e| e.event_id),
            columns.of(|e| e.command_id),
            columns.of(|e| &*e.actor),
            columns.of(|e| e.correlation_id),
            columns.of(|e| e.causation_position.map(bigint)),
            columns.of(|e| e.trace.as_deref()),
            columns.of(|e| e.occurred_at),
            columns.of(|e| e.recorded_at),
            columns.of(|e| &*e.payload),
            columns.of(|e| e.hash.as_slice()),
        ];
        let values: Vec<&(dyn ToSql + Sync)> =
            columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
        self.transaction.execute(&statement, &values).await?;
        Ok(())
    }

    async fn finish(mut self) -> Result<Imported, ImportError> {
        if !self.rows.is_empty() {
            self.flush().await?;
        }
        let nodes = self.checker.take_nodes();
        let header_epoch = self.checker.header().map_or(0, |header| header.epoch);
        let report = self.checker.finish(false)?;
        let Report { events, to: position, seals: _, keys, not_yet_sealed, .. } = report;
        if let Some((first, _)) = not_yet_sealed {
            let what = "the export has no seal of these events".to_owned();
            return Err(Fault { position: first, to: Some(position), line: None, what }.into());
        }
        let epoch = self.epoch.max(header_epoch) + 1;
        let transaction = self.transaction;
        // What was asked for is not in an export: an empty fingerprint stands for anything.
        let results = "INSERT INTO command_results
             SELECT command_id, tenant, ''::bytea, min(stream_type),
                    (array_agg(stream_id ORDER BY position))[1], 'imported', min(actor),
                    max(version), max(position), string_agg(event_type, ',' ORDER BY position),
                    NULL, max(recorded_at)
             FROM events GROUP BY command_id, tenant";
        transaction.execute(results, &[]).await?;
        for ((tenant, kind, value), stream) in &self.owned.claims {
            let sql = "INSERT INTO unique_claims VALUES ($1, $2, $3, $4)";
            let sql = transaction.prepare_cached(sql).await?;
            transaction.execute(&sql, &[&tenant.as_str(), kind, value, stream]).await?;
        }
        for ((tenant, task), (parent, on)) in &self.owned.links {
            let sql = "INSERT INTO task_links VALUES ($1, $2, $3, $4)";
            let sql = transaction.prepare_cached(sql).await?;
            let links = parent.iter().map(|target| ("part_of", target));
            for (kind, target) in links.chain(on.iter().map(|target| ("depends_on", target))) {
                transaction.execute(&sql, &[&tenant.as_str(), &kind, target, task]).await?;
            }
        }
        let sql = "INSERT INTO seals (number, kind, size, epoch, sealed_at, doc)
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let sql = transaction.prepare_cached(sql).await?;
        for seal in &self.seals {
            let (number, size, epoch) =
                (bigint(seal.number), bigint(seal.size), bigint(seal.epoch));
            let values: [&(dyn ToSql + Sync); 6] =
                [&number, &kind(seal), &size, &epoch, &seal.time, &document(seal)?];
            transaction.execute(&sql, &values).await?;
        }
        let sql = "INSERT INTO seal_nodes (height, index, hash) VALUES ($1, $2, $3)";
        let sql = transaction.prepare_cached(sql).await?;
        for ((height, index), hash) in &nodes {
            let values: [&(dyn ToSql + Sync); 3] =
                [&i16::from(*height), &bigint(*index), &hash.as_slice()];
            transaction.execute(&sql, &values).await?;
        }
        let sql = "UPDATE log_head SET position = $1, epoch = $2,
                     recorded_at = COALESCE((SELECT recorded_at FROM events WHERE position = $1),
                                            recorded_at)
                   WHERE shard = 0";
        transaction.execute(sql, &[&bigint(position), &bigint(epoch)]).await?;
        transaction.commit().await?;
        Ok(Imported { events, position, epoch, seals: self.seals.len() as u64, keys })
    }
}

struct Rows<'a>(&'a [Arc<Recorded>]);

impl<'a> Rows<'a> {
    fn of<V>(&self, value: impl Fn(&'a Recorded) -> V) -> Box<dyn ToSql + Sync + Send + 'a>
    where
        V: ToSql + Sync + Send + 'a,
    {
        Box::new(self.0.iter().map(|event| value(event)).collect::<Vec<V>>())
    }
}

fn recorded(event: &Columns<'_>) -> Recorded {
    Recorded {
        position: event.position,
        epoch: event.epoch,
        tenant: event.tenant.clone(),
        stream_type: event.stream_type,
        stream_id: event.stream_id,
        version: event.version,
        event_type: event.event_type.into(),
        schema_version: event.schema_version,
        event_id: event.event_id,
        command_id: event.command_id,
        actor: (&*event.actor).into(),
        correlation_id: event.correlation_id,
        causation_position: event.causation_position,
        trace: event.trace.as_deref().map(Into::into),
        occurred_at: event.occurred_at,
        recorded_at: event.recorded_at,
        payload: Bytes::copy_from_slice(&event.payload),
        hash: event.hash,
        decoded: OnceLock::new(),
    }
}
