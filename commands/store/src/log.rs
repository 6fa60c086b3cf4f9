//! Reading the log: by position, by stream, in bulk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deadpool_postgres::Pool;
use domain::{Aggregate, Claim, Event, Recorded, StreamType, TenantId, Timestamp};
use futures::future::try_join_all;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::row::{RECORDED_COLUMNS, recorded_from_row};
use crate::scan::Scan;
use crate::{StoreError, Writer};

/// Names the code that folds streams; a snapshot of another name is ignored. Raise it
/// whenever an aggregate's `apply` or its fields change.
const FOLD: &str = "1";

/// A stream within its tenant.
pub type StreamKey = (TenantId, Uuid);

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the last event; 0 when there is none.
    pub position: u64,
    /// Generation of the store.
    pub epoch: u64,
    /// Of the last append.
    pub recorded_at: Timestamp,
}

/// A folded stream, kept to save the fold.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The version it stands at.
    pub version: u64,
    /// The folded state.
    pub state: Aggregate,
}

/// Streams as they were found in the log.
#[derive(Debug, Default)]
pub struct Rehydrated {
    /// The folded streams; one without events is absent.
    pub streams: HashMap<StreamKey, Snapshot>,
    /// Streams with an event that this release cannot read, and why.
    pub unreadable: HashMap<StreamKey, String>,
}

/// What became of a command, as stored.
#[derive(Debug, Clone)]
pub struct CommandRecord {
    /// The command's id.
    pub command_id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// SHA-256 of what was asked for.
    pub fingerprint: Vec<u8>,
    /// Its stream.
    pub stream_id: Uuid,
    /// The stream's version after it.
    pub version: u64,
    /// Of its last event, or the head at the decision.
    pub position: u64,
    /// The names of its events, in order.
    pub events: Vec<String>,
    /// The refusal, as a JSON problem document.
    pub problem: Option<String>,
}

/// The event log, for readers and (through [`Log::writer`]) the one writer.
#[derive(Debug, Clone)]
pub struct Log {
    pool: Pool,
    url: Arc<str>,
}

impl Log {
    /// The log behind a pool; `url` is where writers connect.
    pub fn new(pool: Pool, url: &str) -> Self {
        Self { pool, url: url.into() }
    }

    /// The pool that reads go through.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A connection to append with.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn writer(&self) -> Result<Writer, StoreError> {
        Writer::connect(&self.url).await
    }

    /// The end of the log.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let client = self.pool.get().await?;
        let sql = "SELECT position, epoch, recorded_at FROM log_head WHERE shard = 0";
        let row = client.query_one(&client.prepare_cached(sql).await?, &[]).await?;
        Ok(Head {
            position: row.get::<_, i64>(0) as u64,
            epoch: row.get::<_, i64>(1) as u64,
            recorded_at: row.get(2),
        })
    }

    /// Begins a new generation of the store, after an older copy was put back.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn bump_epoch(&self) -> Result<u64, StoreError> {
        let client = self.pool.get().await?;
        let sql = "UPDATE log_head SET epoch = epoch + 1 WHERE shard = 0 RETURNING epoch";
        Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0) as u64)
    }

    /// The events behind a position, in order and without a hole.
    ///
    /// # Errors
    /// [`StoreError::Hole`] when a position is missing.
    pub async fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let sql = format!(
            "SELECT {RECORDED_COLUMNS} FROM events e WHERE e.position > $1 \
             ORDER BY e.position LIMIT $2"
        );
        // Somebody's cursor from outside may lie behind all that can ever be.
        let Ok(from) = i64::try_from(after) else { return Ok(Vec::new()) };
        let events = self.select(&sql, &[&from, &(limit as i64)]).await?;
        for (expected, event) in (after + 1..).zip(&events) {
            if event.position != expected {
                let found = event.position;
                tracing::error!(expected, found, "the log has a hole");
                return Err(StoreError::Hole { expected, found });
            }
        }
        Ok(events)
    }

    /// A long stretch of the log: the events behind `after` up to `to`, read and decoded
    /// ahead of the caller.
    pub fn scan(&self, after: u64, to: u64) -> Scan {
        Scan::begin(self.pool.clone(), after, to)
    }

    /// The events of one stream behind a version.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn read_stream(
        &self,
        tenant: &TenantId,
        stream_id: Uuid,
        after_version: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let sql = format!(
            "SELECT {RECORDED_COLUMNS} FROM events e \
             WHERE e.tenant = $1 AND e.stream_id = $2 AND e.version > $3 \
             ORDER BY e.version LIMIT $4"
        );
        let (after, limit) = (after_version as i64, limit as i64);
        self.select(&sql, &[&tenant.as_str(), &stream_id, &after, &limit]).await
    }

    /// Folds many streams at once, each from its snapshot if there is one: a statement per
    /// stream and one for the snapshots, all in one round trip. A stream without events is
    /// absent from the answer.
    ///
    /// A statement over all keys would be planned anew for every list of them, which costs
    /// more than reading a short stream.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn rehydrate(&self, keys: &[StreamKey]) -> Result<Rehydrated, StoreError> {
        if keys.is_empty() {
            return Ok(Rehydrated::default());
        }
        let client = self.pool.get().await?;
        let (events, snapshot, snapshots) = tokio::try_join!(
            client.prepare_cached(
                "SELECT e.version, e.stream_type, e.event_type, e.schema_version, e.payload,
                        e.position
                 FROM events e
                 WHERE e.tenant = $1 AND e.stream_id = $2
                   AND e.version > COALESCE((SELECT s.version FROM snapshots s
                                             WHERE s.tenant = $1 AND s.stream_id = $2
                                               AND s.fold = $3), 0)
                 ORDER BY e.version",
            ),
            client.prepare_cached(
                "SELECT s.stream_id, s.version, s.state FROM snapshots s
                 WHERE s.tenant = $1 AND s.stream_id = $2 AND s.fold = $3",
            ),
            client.prepare_cached(
                "SELECT s.stream_id, s.version, s.state FROM snapshots s
                 WHERE s.tenant = $1 AND s.stream_id = ANY($2) AND s.fold = $3",
            ),
        )?;
        let mut by_tenant: HashMap<&TenantId, Vec<Uuid>> = HashMap::new();
        for (tenant, id) in keys {
            by_tenant.entry(tenant).or_default().push(*id);
        }
        let pages = keys.iter().map(|(tenant, id)| {
            let (client, events, tenant) = (&client, &events, tenant.as_str());
            async move { client.query(events, &[&tenant, id, &FOLD]).await }
        });
        let kept = by_tenant.iter().map(|(tenant, ids)| {
            let (client, name) = (&client, tenant.as_str());
            let (snapshot, snapshots) = (&snapshot, &snapshots);
            async move {
                let rows = match ids.as_slice() {
                    // A list would be planned anew; this is the stream that came alone.
                    [id] => client.query(snapshot, &[&name, id, &FOLD]).await?,
                    _ => client.query(snapshots, &[&name, ids, &FOLD]).await?,
                };
                Ok((*tenant, rows))
            }
        });
        // The events first: a snapshot that is written in between can then only be newer,
        // which shows below; the other way round a stream could end at an old one unnoticed.
        let (pages, kept) = tokio::try_join!(biased; try_join_all(pages), try_join_all(kept))?;
        drop(client);

        let mut found = Rehydrated::default();
        for (tenant, row) in
            kept.iter().flat_map(|(tenant, rows)| rows.iter().map(move |row| (*tenant, row)))
        {
            // An unreadable snapshot is no harm: the stream is folded from its start below.
            if let Ok(state) = serde_json::from_slice(row.get(2)) {
                let version = row.get::<_, i64>(1) as u64;
                found.streams.insert((tenant.clone(), row.get(0)), Snapshot { version, state });
            }
        }
        let mut again = HashSet::new();
        for (key, rows) in keys.iter().zip(&pages) {
            for row in rows {
                let version = row.get::<_, i64>(0) as u64;
                let bad =
                    |reason: &str| StoreError::Row { position: row.get(5), reason: reason.into() };
                let kind: StreamType =
                    row.get::<_, &str>(1).parse().map_err(|()| bad("stream type"))?;
                let stream = found
                    .streams
                    .entry(key.clone())
                    .or_insert_with(|| Snapshot { version: 0, state: Aggregate::new(kind) });
                if version != stream.version + 1 {
                    again.insert(key.clone());
                    break;
                }
                let shape = u16::try_from(row.get::<_, i16>(3)).map_err(|_| bad("shape"))?;
                match Event::decode(kind, row.get(2), shape, row.get(4)) {
                    Ok(event) => stream.state.apply(&event),
                    Err(error) => {
                        let reason = error.at(row.get::<_, i64>(5) as u64).to_string();
                        found.unreadable.entry(key.clone()).or_insert(reason);
                        break;
                    }
                }
                stream.version = version;
            }
        }
        // A snapshot that could not be read, or was written between the two queries.
        for key in
            again.into_iter().filter(|key| !found.unreadable.contains_key(key)).collect::<Vec<_>>()
        {
            let (tenant, id) = &key;
            let events = self.read_stream(tenant, *id, 0, usize::MAX >> 1).await?;
            let Some(first) = events.first() else { continue };
            let mut stream = Snapshot { version: 0, state: Aggregate::new(first.stream_type) };
            match events.iter().try_for_each(|event| advance(&mut stream, event)) {
                Ok(()) => found.streams.insert(key, stream).map(|_| ()),
                Err(reason) => found.unreadable.insert(key, reason).map(|_| ()),
            };
        }
        Ok(found)
    }

    /// Keeps a folded stream; an older version never replaces a newer one.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn keep_snapshot(
        &self,
        (tenant, stream_id): &StreamKey,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        let state = serde_json::to_vec(&snapshot.state).map_err(|error| StoreError::Row {
            position: 0,
            reason: format!("a state cannot be written: {error}"),
        })?;
        let client = self.pool.get().await?;
        client
            .execute(
                "INSERT INTO snapshots AS s (tenant, stream_id, version, fold, state)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (tenant, stream_id) DO UPDATE
                    SET version = excluded.version, fold = excluded.fold, state = excluded.state
                  WHERE s.version < excluded.version OR s.fold <> excluded.fold",
                &[&tenant.as_str(), stream_id, &(snapshot.version as i64), &FOLD, &state],
            )
            .await?;
        Ok(())
    }

    /// What became of commands, for those that have a result.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn results(
        &self,
        ids: &[(Uuid, TenantId)],
    ) -> Result<Vec<CommandRecord>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.pool.get().await?;
        let sql = client
            .prepare_cached(
                "SELECT r.command_id, r.tenant, r.fingerprint, r.stream_id, r.version, r.position,
                        r.events, r.problem
                 FROM unnest($1::uuid[], $2::text[]) k(command_id, tenant),
                      LATERAL (SELECT * FROM command_results r
                               WHERE r.command_id = k.command_id AND r.tenant = k.tenant
                               LIMIT 1) r",
            )
            .await?;
        let commands: Vec<Uuid> = ids.iter().map(|(id, _)| *id).collect();
        let tenants: Vec<&str> = ids.iter().map(|(_, tenant)| tenant.as_str()).collect();
        let rows = client.query(&sql, &[&commands, &tenants]).await?;
        rows.iter()
            .map(|row| {
                let position: i64 = row.get(5);
                let tenant = TenantId::parse(row.get(1))
                    .ok_or_else(|| StoreError::Row { position, reason: "tenant".into() })?;
                let events: &str = row.get(6);
                Ok(CommandRecord {
                    command_id: row.get(0),
                    tenant,
                    fingerprint: row.get(2),
                    stream_id: row.get(3),
                    version: row.get::<_, i64>(4) as u64,
                    position: position as u64,
                    events: events.split(',').filter(|e| !e.is_empty()).map(Into::into).collect(),
                    problem: row.get(7),
                })
            })
            .collect()
    }

    /// Who owns unique things, for those that are owned.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn owners(
        &self,
        claims: &[(TenantId, Claim)],
    ) -> Result<HashMap<(TenantId, Claim), Uuid>, StoreError> {
        if claims.is_empty() {
            return Ok(HashMap::new());
        }
        let client = self.pool.get().await?;
        let sql = client
            .prepare_cached(
                "SELECT k.ord, c.stream_id
                 FROM unnest($1::text[], $2::text[], $3::text[])
                      WITH ORDINALITY k(tenant, kind, value, ord)
                 JOIN unique_claims c USING (tenant, kind, value)",
            )
            .await?;
        let tenants: Vec<&str> = claims.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let kinds: Vec<&str> = claims.iter().map(|(_, claim)| claim.kind).collect();
        let values: Vec<&str> = claims.iter().map(|(_, claim)| claim.value.as_str()).collect();
        let rows = client.query(&sql, &[&tenants, &kinds, &values]).await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let index = usize::try_from(row.get::<_, i64>(0) - 1).ok()?;
                Some((claims.get(index)?.clone(), row.get(1)))
            })
            .collect())
    }

    async fn select(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, parameters).await?;
        rows.iter().map(recorded_from_row).collect()
    }
}

fn advance(stream: &mut Snapshot, event: &Recorded) -> Result<(), String> {
    stream.state.apply(event.event().map_err(ToString::to_string)?);
    stream.version = event.version;
    Ok(())
}
