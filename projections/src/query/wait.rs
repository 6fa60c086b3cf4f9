//! Waiting until a read model has come far enough.

use std::time::Duration;

use domain::Timestamp;
use tokio::time::Instant;

use super::Queries;
use crate::{Model, QueryError};

/// How long a waiter trusts the wake-up of this process before it asks the database: the
/// engine may run in another process. Only waiters poll, and only one of them at a time.
const POLL: Duration = Duration::from_millis(12);

impl Queries {
    /// Waits until a model has reached a position.
    ///
    /// # Errors
    /// The position it has reached, when that is too low after the time given.
    pub async fn wait_for(
        &self,
        model: Model,
        position: u64,
        patience: Duration,
    ) -> Result<(), u64> {
        let mut known = self.progress.watch(model);
        let deadline = Instant::now() + patience;
        loop {
            let current = *known.borrow_and_update();
            if current >= position {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(current);
            }
            let until = deadline.min(now + POLL);
            if tokio::time::timeout_at(until, known.changed()).await.is_ok() {
                continue;
            }
            if let Ok(_one_at_a_time) = self.polling.try_lock() {
                // A database that cannot be reached leaves the waiter to its deadline.
                let _ = self.refresh().await;
            }
        }
    }

    /// Waits for all of some models; the error is the lowest position reached.
    ///
    /// # Errors
    /// As [`Queries::wait_for`].
    pub async fn wait_for_all(
        &self,
        models: &[Model],
        position: u64,
        patience: Duration,
    ) -> Result<(), u64> {
        let waits = models.iter().map(|model| self.wait_for(*model, position, patience));
        let lowest = futures::future::join_all(waits).await.into_iter().filter_map(Result::err);
        lowest.min().map_or(Ok(()), Err)
    }

    /// The log's head.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn log_head(&self) -> Result<u64, QueryError> {
        let client = self.pool.get().await?;
        let sql = "SELECT position FROM log_head WHERE shard = 0";
        super::position_of(&client.query_one(&client.prepare_cached(sql).await?, &[]).await?, 0)
    }

    /// The last position recorded up to an instant, 0 where it was before the first event;
    /// none where the instant is in the future.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn position_at(&self, instant: Timestamp) -> Result<Option<u64>, QueryError> {
        let client = self.pool.get().await?;
        let sql = "SELECT read.position_at($1, true), $1 > clock_timestamp()";
        let row = client.query_one(&client.prepare_cached(sql).await?, &[&instant]).await?;
        let position = super::position_of(&row, 0)?;
        Ok((!row.try_get::<_, bool>(1)?).then_some(position))
    }

    /// When the event at a position was recorded; none where there is none.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn recorded_at(&self, position: u64) -> Result<Option<Timestamp>, QueryError> {
        let client = self.pool.get().await?;
        let sql = "SELECT read.recorded_at($1)";
        let (statement, place) = (client.prepare_cached(sql).await?, super::bigint(position));
        Ok(client.query_one(&statement, &[&place]).await?.try_get(0)?)
    }

    /// The checkpoint of every model, read from the database.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn refresh(&self) -> Result<Vec<(Model, u64)>, QueryError> {
        let client = self.pool.get().await?;
        let sql = "SELECT model, position FROM read.checkpoints";
        let rows = client.query(&client.prepare_cached(sql).await?, &[]).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Ok(model) = row.try_get::<_, &str>(0)?.parse() {
                let position = super::position_of(row, 1)?;
                self.progress.advance(model, position);
                all.push((model, position));
            }
        }
        Ok(all)
    }
}
