//! A read model's tables: loading rows, and writing rows and checkpoint in one
//! statement.
//!
//! Invariant: rows change only where the checkpoint still is what the writer read
//! (position and generation), and with it; who comes second changes nothing.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use deadpool_postgres::{Client, GenericClient, Transaction};
use domain::{TenantId, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::aside::aside;
use super::commit::{BEGIN, Write};
use super::fold::{Parked, Rows, Slot, StreamKey};
use super::folder::Folded;
use super::statements::{Values, load_sql, pass_sql, write_sql};
use super::{Cell, Key, Numbers, Projection};
use crate::ProjectionError;

/// Which version of a model's tables: the one that is read, or one of those beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// What queries read.
    Live,
    /// What a rebuild fills.
    Shadow,
    /// What was read before another version took its place.
    Retired,
}

impl Schema {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "read",
            Self::Shadow => "rebuild",
            Self::Retired => "retired",
        }
    }

    /// Where the past versions of its rows are.
    pub const fn past(self) -> &'static str {
        match self {
            Self::Live => "past",
            Self::Shadow => "rebuild_past",
            Self::Retired => "retired_past",
        }
    }
}

/// How far a read model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last event folded.
    pub position: u64,
    /// Grows whenever the rows were replaced as a whole.
    pub generation: i64,
}

/// The tables of one read model in one schema.
pub struct Storage<P> {
    schema: Schema,
    load: String,
    write: Arc<str>,
    /// The same where past versions go with them.
    write_past: Arc<str>,
    /// Moves the checkpoint past events that touch no row.
    pass: Arc<str>,
    model: PhantomData<fn() -> P>,
}

impl<P: Projection> Storage<P> {
    /// The statements for a schema's tables.
    pub fn new(schema: Schema) -> Self {
        Self {
            schema,
            load: load_sql::<P>(schema),
            write: write_sql::<P>(schema, false).into(),
            write_past: write_sql::<P>(schema, true).into(),
            pass: pass_sql(schema).into(),
            model: PhantomData,
        }
    }

    /// The schema.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// How far the model is, and the log's head in the same snapshot.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn checkpoint<C: GenericClient>(
        &self,
        client: &C,
    ) -> Result<(Checkpoint, u64), ProjectionError> {
        let sql = format!(
            "SELECT c.position, c.generation, h.position
             FROM {}.checkpoints c CROSS JOIN log_head h WHERE c.model = $1 AND h.shard = 0",
            self.schema.as_str()
        );
        let row = client.query_one(&client.prepare_cached(&sql).await?, &[&P::NAME]).await?;
        let head: i64 = row.try_get(2)?;
        Ok((checkpoint_of(&row)?, u64::try_from(head).unwrap_or(0)))
    }

    /// The streams that stand still.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn parked<C: GenericClient>(
        &self,
        client: &C,
    ) -> Result<HashMap<StreamKey, Parked>, ProjectionError> {
        let sql = format!(
            "SELECT tenant, stream_id, position, reason, skipped FROM {}.parked WHERE model = $1",
            self.schema.as_str()
        );
        let mut parked = HashMap::new();
        for row in client.query(&client.prepare_cached(&sql).await?, &[&P::NAME]).await? {
            let Some(tenant) = TenantId::parse(row.try_get(0)?) else { continue };
            let at = Parked {
                position: u64::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0),
                reason: row.try_get(3)?,
                skipped: u64::try_from(row.try_get::<_, i64>(4)?).unwrap_or(0),
                changed: false,
            };
            parked.insert((tenant, row.try_get(1)?), at);
        }
        Ok(parked)
    }

    /// The stored rows among some keys.
    ///
    /// # Errors
    /// When the database cannot be reached, or a row has another shape than ours.
    pub async fn load<C: GenericClient>(
        &self,
        client: &C,
        keys: Vec<(TenantId, P::Key)>,
    ) -> Result<Rows<P>, ProjectionError> {
        let mut rows = Rows::<P>::with_capacity(keys.len());
        if P::WRITE_ONCE || keys.is_empty() {
            return Ok(rows);
        }
        let tenants: Vec<&str> = keys.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let cells = <P::Key as Key>::KIND.array(keys.iter().map(|(_, key)| key.cell()));
        let statement = client.prepare_cached(&self.load).await?;
        for found in client.query(&statement, &[&tenants, &*cells]).await? {
            let nth: i64 = found.try_get(0)?;
            let Some(key) = usize::try_from(nth - 1).ok().and_then(|at| keys.get(at)) else {
                continue;
            };
            let at = u64::try_from(found.try_get::<_, i64>(2)?).unwrap_or(0);
            rows.insert(key.clone(), Slot::stored(read_row::<P>(found.try_get(1)?)?, at));
        }
        Ok(rows)
    }

    /// Writes the touched rows and moves the checkpoint, all or nothing.
    ///
    /// False: the checkpoint was not where `from` says; nothing was written.
    ///
    /// # Errors
    /// When the database refuses or cannot be reached; the outcome may be unknown then,
    /// so the checkpoint must be read again.
    pub async fn write(
        &self,
        client: &mut Client,
        from: Checkpoint,
        folded: &Folded<P>,
    ) -> Result<bool, ProjectionError> {
        let Folded { rows, parked, numbers, to, .. } = folded;
        let Write { sql, values, .. } =
            aside(rows.len(), || self.writing(from, *to, rows, numbers));
        let statement = client.prepare_cached(&sql).await?;
        let parameters = values.parameters();
        if !parked.values().any(|at| at.changed) {
            let (begun, written, ended) = futures::join!(
                client.batch_execute(BEGIN),
                client.query_opt(&statement, &parameters),
                client.batch_execute("COMMIT"),
            );
            begun?;
            let moved = written?.is_some();
            ended?;
            return Ok(moved);
        }
        let transaction = client.transaction().await?;
        transaction.batch_execute("SET LOCAL synchronous_commit = off").await?;
        let moved = transaction.query_opt(&statement, &parameters).await?.is_some();
        if moved {
            self.write_parked(&transaction, parked).await?;
        }
        transaction.commit().await?;
        Ok(moved)
    }

    /// Writes the rows inside somebody's transaction (the last step of a rebuild).
    ///
    /// # Errors
    /// As [`Storage::write`].
    pub async fn write_within(
        &self,
        transaction: &Transaction<'_>,
        from: Checkpoint,
        folded: &Folded<P>,
    ) -> Result<bool, ProjectionError> {
        let Folded { rows, parked, numbers, to, .. } = folded;
        let Write { sql, values, .. } = self.writing(from, *to, rows, numbers);
        let written = transaction.query_opt(&*sql, &values.parameters()).await?;
        self.write_parked(transaction, parked).await?;
        Ok(written.is_some())
    }

    /// The statement that writes the touched rows and moves the checkpoint; no row comes
    /// back when the checkpoint was not where `from` says.
    pub(super) fn writing(
        &self,
        from: Checkpoint,
        to: (u64, Timestamp),
        rows: &Rows<P>,
        numbers: &Numbers,
    ) -> Write {
        let (sql, values) = if rows.values().any(|slot| !slot.past.is_empty()) {
            (&self.write_past, Values::of::<P>(from, to, rows, numbers).and_past::<P>(rows))
        } else if rows.values().any(|slot| slot.touched) || numbers.changed() {
            (&self.write, Values::of::<P>(from, to, rows, numbers))
        } else {
            (&self.pass, Values::checkpoint::<P>(from, to))
        };
        Write { model: P::NAME, sql: sql.clone(), values }
    }

    async fn write_parked(
        &self,
        transaction: &Transaction<'_>,
        parked: &HashMap<StreamKey, Parked>,
    ) -> Result<(), ProjectionError> {
        let sql = format!(
            "INSERT INTO {}.parked (model, tenant, stream_id, position, reason, skipped)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (model, tenant, stream_id) DO UPDATE SET skipped = EXCLUDED.skipped",
            self.schema.as_str()
        );
        for ((tenant, stream), at) in parked.iter().filter(|(_, at)| at.changed) {
            let (position, skipped) = (at.position as i64, at.skipped as i64);
            let reason = at.reason.replace('\0', "\u{fffd}");
            let values: [&(dyn ToSql + Sync); 6] =
                [&P::NAME, &tenant.as_str(), stream, &position, &reason, &skipped];
            transaction.execute(&sql, &values).await?;
        }
        Ok(())
    }

    /// Whether the rows were made by another version of the fold; before the first event
    /// there are none, and the version becomes ours.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn is_outdated<C: GenericClient>(&self, client: &C) -> Result<bool, ProjectionError> {
        let schema = self.schema.as_str();
        let ours = format!(
            "UPDATE {schema}.checkpoints SET fold = $2
             WHERE model = $1 AND position = 0 AND fold <> $2"
        );
        client.execute(&ours, &[&P::NAME, &P::VERSION]).await?;
        let sql = format!("SELECT fold <> $2 FROM {schema}.checkpoints WHERE model = $1");
        Ok(client.query_one(&sql, &[&P::NAME, &P::VERSION]).await?.try_get(0)?)
    }

    /// Empties the tables: the model begins at the log's first event again.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn reset(&self, client: &mut Client) -> Result<Checkpoint, ProjectionError> {
        let schema = self.schema.as_str();
        let transaction = client.transaction().await?;
        let row = transaction
            .query_one(
                &format!(
                    "UPDATE {schema}.checkpoints SET position = 0, generation = generation + 1,
                            recorded_at = 'epoch', updated_at = clock_timestamp(), fold = $2
                     WHERE model = $1 RETURNING position, generation"
                ),
                &[&P::NAME, &P::VERSION],
            )
            .await?;
        transaction.execute(&format!("DELETE FROM {schema}.{}", P::NAME), &[]).await?;
        // What was read before may know events that are no more.
        transaction
            .execute("DELETE FROM retired.checkpoints WHERE model = $1", &[&P::NAME])
            .await?;
        if !P::WRITE_ONCE {
            let past = format!("DELETE FROM {}.{}", self.schema.past(), P::NAME);
            transaction.execute(&past, &[]).await?;
        }
        transaction
            .execute(&format!("DELETE FROM {schema}.parked WHERE model = $1"), &[&P::NAME])
            .await?;
        transaction
            .execute(&format!("DELETE FROM {schema}.numbers WHERE model = $1"), &[&P::NAME])
            .await?;
        transaction.commit().await?;
        checkpoint_of(&row)
    }
}

/// Reads a stored row.
pub(crate) fn read_row<P: Projection>(doc: &str) -> Result<P::Row, ProjectionError> {
    serde_json::from_str(doc)
        .map_err(|error| ProjectionError::Row { model: P::NAME, reason: error.to_string() })
}

fn checkpoint_of(row: &Row) -> Result<Checkpoint, ProjectionError> {
    let position: i64 = row.try_get(0)?;
    Ok(Checkpoint { position: u64::try_from(position).unwrap_or(0), generation: row.try_get(1)? })
}

/// What the table has of a row, as text, to be held against [`stored_sql`].
pub fn stored<P: Projection>(key: &P::Key, row: &P::Row) -> String {
    if P::DOCUMENT {
        return document(row);
    }
    let cells: Vec<String> = P::index(key, row).into_iter().map(Cell::written).collect();
    cells.join("|")
}

/// The same as an expression over the table's columns.
pub fn stored_sql<P: Projection>() -> String {
    if P::DOCUMENT {
        return "doc".into();
    }
    let cells: Vec<String> =
        P::COLUMNS.iter().map(|column| format!("coalesce({}::text, '')", column.name)).collect();
    format!("concat_ws('|', {})", cells.join(", "))
}

/// A row as it is stored; rows hold nothing that JSON cannot.
pub fn document<R: serde::Serialize>(row: &R) -> String {
    serde_json::to_string(row).unwrap_or_else(|_| "null".into())
}
