//! Asking the read models: one transaction and one round trip per question.
//!
//! Invariants: every question runs as the gateway's role with `app.tenant` set for its
//! transaction alone, so row-level security holds whatever the filter says; the
//! position of an answer comes from the same statement, hence the same snapshot, as
//! its rows.

mod cursor;
mod gather;
mod moves;
mod past;
mod sql;
mod standing;
mod together;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use domain::TenantId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use utoipa::ToSchema;

use crate::metrics::Numbers;
use crate::tasks::{TaskPage, TaskText};
use crate::{Model, Progress, QueryError};

pub use cursor::Cursor;
pub(crate) use cursor::ListKind;
pub(crate) use gather::ById;
pub use gather::Gathered;
pub use moves::{Move, Moves, Shown};
pub(crate) use sql::{FIRST, Sql, bigint, position_of};
pub use standing::{ModelView, PreviousView, RebuildView};
pub(crate) use together::Together;

/// How often models are asked until they stand at the same position, and how long they are
/// given for it each time: mostly they are written in one transaction.
const TRIES: usize = 3;
const LEVEL: Duration = Duration::from_millis(20);
/// Longest page of any list.
pub const MAX_LIMIT: usize = 200;

/// Answers questions about one tenant at a time.
#[derive(Debug, Clone)]
pub struct Queries {
    pool: Pool,
    progress: Progress,
    polling: Arc<tokio::sync::Mutex<()>>,
    gather: Arc<gather::Gather>,
    past: Arc<past::Kept>,
    moment: Option<u64>,
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
        let (polling, gather, past, numbers, pages) = Default::default();
        Self { pool, progress, polling, gather, past, moment: None, numbers, pages }
    }

    /// The same questions, answered as they were when the log ended at a position.
    ///
    /// The models behind an answer must have come that far ([`Queries::wait_for_all`]).
    #[must_use]
    pub fn at(&self, position: u64) -> Self {
        // Who asks together gets one answer, so each moment has its own waiting rooms.
        let (gather, numbers, pages) = Default::default();
        Self { moment: Some(position), gather, numbers, pages, ..self.clone() }
    }

    /// Tells each time that a kept past version was found changed by somebody else.
    pub fn spoilt(&self) -> watch::Receiver<Option<Model>> {
        self.past.watch()
    }

    /// As of which position it answers; none: as of now.
    pub fn moment(&self) -> Option<u64> {
        self.moment
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
    /// [`sql::FIRST`]); where there is none, one row of nulls carries them. An answer from
    /// several models reflects one position, so where one is ahead of another for a moment
    /// the question is asked again, and at last as of the position that all have reached.
    pub(crate) async fn select(
        &self,
        tenant: &TenantId,
        models: &[Model],
        page: Sql,
    ) -> Result<(Seen, Vec<Row>), QueryError> {
        if let Some(moment) = self.moment {
            return self.select_past(tenant, &page, moment).await;
        }
        for _ in 0..TRIES {
            let (seen, furthest, rows) = self.select_live(tenant, models, &page).await?;
            if seen.position == furthest {
                return Ok((seen, rows));
            }
            // Whether they come level in time or not: the next look tells.
            let _ = self.wait_for_all(models, furthest, LEVEL).await;
        }
        let (live, _, _) = self.select_live(tenant, models, &page).await?;
        let (then, rows) = self.at(live.position).select_past(tenant, &page, live.position).await?;
        Ok((Seen { position: then.position, ..live }, rows))
    }

    /// The place of the answer, that of the model which is furthest, and the rows.
    async fn select_live(
        &self,
        tenant: &TenantId,
        models: &[Model],
        page: &Sql,
    ) -> Result<(Seen, u64, Vec<Row>), QueryError> {
        let text = page.beside_checkpoint(&page.live(), models);
        let rows = self.run(tenant, page, &text, &[]).await?;
        let (seen, furthest) = seen(&rows)?;
        if let [model] = models {
            self.progress.advance(*model, seen.position);
        }
        Ok((seen, furthest, present(rows)))
    }

    async fn select_past(
        &self,
        tenant: &TenantId,
        page: &Sql,
        moment: u64,
    ) -> Result<(Seen, Vec<Row>), QueryError> {
        let past = self.as_of(tenant, page, moment).await?;
        let text = page.beside_moment(&past);
        let rows = self.run(tenant, page, &text, &past.values).await?;
        Ok((seen(&rows)?.0, present(rows)))
    }

    /// Runs a statement as it stands; one over the log alone, which knows no moments.
    pub(crate) async fn rows(&self, tenant: &TenantId, sql: &Sql) -> Result<Vec<Row>, QueryError> {
        self.run(tenant, sql, &sql.live(), &[]).await
    }

    /// Runs one statement in a transaction of a tenant: four messages, one round trip.
    async fn run(
        &self,
        tenant: &TenantId,
        sql: &Sql,
        text: &str,
        more: &[past::Value],
    ) -> Result<Vec<Row>, QueryError> {
        let client = self.pool.get().await?;
        let set = client.prepare_cached(sql.settings()).await?;
        let statement = client.prepare_cached(text).await?;
        let tenant = tenant.as_str();
        let (set_to, mut parameters): ([&(dyn ToSql + Sync); 1], Vec<_>) =
            ([&tenant], sql.parameters());
        parameters.extend(more.iter().map(past::Value::parameter));
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
        let rows = rows.map_err(QueryError::of).inspect_err(|error| {
            if let QueryError::Spoilt { model } = error {
                self.past.spoilt(*model);
            }
        })?;
        ended?;
        Ok(rows)
    }
}

/// The place of an answer, and that of the model which is furthest.
fn seen(rows: &[Row]) -> Result<(Seen, u64), QueryError> {
    let first = rows.first().ok_or_else(|| QueryError::Row("no checkpoint".into()))?;
    let seen = Seen {
        position: position_of(first, 0)?,
        lag_ms: position_of(first, 1)?,
        head: position_of(first, 2)?,
    };
    Ok((seen, position_of(first, 3)?))
}

fn present(rows: Vec<Row>) -> Vec<Row> {
    rows.into_iter().filter(|row| row.get::<_, Option<bool>>(FIRST - 1).is_some()).collect()
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
