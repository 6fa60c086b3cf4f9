//! Asking the read models: one transaction and one round trip per question.
//!
//! Invariants: every question runs as the gateway's role with `app.tenant` set for its
//! transaction alone, so row-level security holds whatever the filter says; the
//! position of an answer comes from the same statement, hence the same snapshot, as
//! its rows.

mod cursor;
mod gather;
mod sql;
mod standing;
mod together;
mod wait;

use std::sync::Arc;

use deadpool_postgres::Pool;
use domain::TenantId;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::metrics::Numbers;
use crate::tasks::{TaskPage, TaskText};
use crate::{Model, Progress, QueryError};

pub use cursor::Cursor;
pub(crate) use cursor::ListKind;
pub(crate) use gather::ById;
pub use gather::Gathered;
pub(crate) use sql::{FIRST, Sql, bigint, position_of};
pub use standing::{ModelView, PreviousView, RebuildView};
pub(crate) use together::Together;

/// Longest page of any list.
pub const MAX_LIMIT: usize = 200;

/// Answers questions about one tenant at a time.
#[derive(Debug, Clone)]
pub struct Queries {
    pool: Pool,
    progress: Progress,
    polling: Arc<tokio::sync::Mutex<()>>,
    gather: Arc<gather::Gather>,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) pages: Arc<Together<TaskPage, Answer<Page<TaskText>>>>,
}

/// An answer with the position that it reflects.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// The checkpoint of the read model (the lowest, where several were asked).
    pub position: u64,
    /// How long the first event not yet seen has been waiting; 0 when all are seen.
    pub lag_ms: u64,
}

impl<T> Answer<T> {
    /// The same place, another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: change(self.value), position: self.position, lag_ms: self.lag_ms }
    }
}

/// A page of a list, newest first unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Cuts the one entry more than was asked for, and points behind the last that stays.
    pub(crate) fn cut(mut items: Vec<T>, limit: usize, next: impl Fn(&T) -> Cursor) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(|last| next(last).to_string()) } else { None };
        Self { items, next }
    }
}

/// What every statement tells beside its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) position: u64,
    pub(crate) lag_ms: u64,
    /// The log's head in the same snapshot.
    pub(crate) head: u64,
}

impl Seen {
    pub(crate) fn answer<T>(self, value: T) -> Answer<T> {
        Answer { value, position: self.position, lag_ms: self.lag_ms }
    }
}

impl Queries {
    /// Queries through a pool whose role is the gateway's.
    pub fn new(pool: Pool, progress: Progress) -> Self {
        let (polling, gather, numbers, pages) = Default::default();
        Self { pool, progress, polling, gather, numbers, pages }
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What is known of the checkpoints in this process.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Runs a page's SELECT beside the checkpoint of the models behind it.
    ///
    /// The page's rows come back with the columns of `Seen` in front (see
    /// [`sql::FIRST`]); where there is none, one row of nulls carries them.
    pub(crate) async fn select(
        &self,
        tenant: &TenantId,
        models: &[Model],
        page: Sql,
    ) -> Result<(Seen, Vec<Row>), QueryError> {
        let rows = self.rows(tenant, page.beside_checkpoint(models)).await?;
        let first = rows.first().ok_or_else(|| QueryError::Row("no checkpoint".into()))?;
        let seen = Seen {
            position: position_of(first, 0)?,
            lag_ms: position_of(first, 1)?,
            head: position_of(first, 2)?,
        };
        if let [model] = models {
            self.progress.advance(*model, seen.position);
        }
        let found = rows.into_iter().filter(|row| row.get::<_, Option<bool>>(3).is_some());
        Ok((seen, found.collect()))
    }

    /// Runs one statement in a transaction of a tenant: four messages, one round trip.
    pub(crate) async fn rows(&self, tenant: &TenantId, sql: Sql) -> Result<Vec<Row>, QueryError> {
        let client = self.pool.get().await?;
        let set = client.prepare_cached(sql.settings()).await?;
        let statement = client.prepare_cached(&sql.text).await?;
        let tenant = tenant.as_str();
        let (set_to, parameters): ([&(dyn tokio_postgres::types::ToSql + Sync); 1], Vec<_>) =
            ([&tenant], sql.parameters());
        // `join!` sends them in this order without waiting in between. A failed SELECT
        // still meets the COMMIT, which then rolls back: nothing is left open.
        let (begun, set, rows, ended) = futures::join!(
            client.batch_execute("BEGIN READ ONLY"),
            client.query(&set, &set_to),
            client.query(&statement, &parameters),
            client.batch_execute("COMMIT"),
        );
        begun?;
        set?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

/// Reads a stored document.
pub(crate) fn document<T: serde::de::DeserializeOwned>(
    row: &Row,
    column: usize,
) -> Result<T, QueryError> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| QueryError::Row(error.to_string()))
}

/// A page's length within its bounds.
pub(crate) fn bounded(limit: usize) -> usize {
    limit.clamp(1, MAX_LIMIT)
}
