//! Finding queues.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use domain::queue::QueuePolicy;
use domain::values::Priority;
use domain::{Json, TenantId};

use super::{QueueRow, QueueView};
use crate::metrics::{ALL_QUEUES, MetricsRow, RatesView};
use crate::query::{FIRST, Sql, position_of};
use crate::{Answer, Model, Queries, QueryError};

/// The models behind a queue.
const MODELS: [Model; 3] = [Model::Tasks, Model::Metrics, Model::Queues];
/// In the place of a state: the row is the queue's own.
const OWN: &str = "@";

impl Queries {
    /// Every queue that a task names or once named, by name.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn queues(&self, tenant: &TenantId) -> Result<Answer<Vec<QueueView>>, QueryError> {
        self.queues_named(tenant, None).await
    }

    /// A queue by name; `patience` as with [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn queue(
        &self,
        tenant: &TenantId,
        name: &str,
        patience: Duration,
    ) -> Result<Answer<Option<QueueView>>, QueryError> {
        let found = self.queues_named(tenant, Some(name)).await?;
        if !found.value.is_empty() || found.lag_ms == 0 {
            return Ok(found.map(|mut queues| queues.pop()));
        }
        // Only a read model that lags can have missed it.
        let head = self.select(tenant, &MODELS, Sql::new("SELECT 1 WHERE false")).await?.0.head;
        if self.wait_for_all(&MODELS, head, patience).await.is_err() {
            return Ok(found.map(|_| None));
        }
        Ok(self.queues_named(tenant, Some(name)).await?.map(|mut queues| queues.pop()))
    }

    async fn queues_named(
        &self,
        tenant: &TenantId,
        name: Option<&str>,
    ) -> Result<Answer<Vec<QueueView>>, QueryError> {
        let (seen, rows) = self.select(tenant, &MODELS, depths(tenant, name)).await?;
        let mut queues: BTreeMap<String, QueueView> = BTreeMap::new();
        for row in &rows {
            let name: String = row.try_get(FIRST)?;
            let queue = queues.entry(name.clone()).or_insert_with(|| named(name));
            if let Some(doc) = row.try_get::<_, Option<&str>>(FIRST + 5)? {
                if row.try_get::<_, Option<&str>>(FIRST + 1)? == Some(OWN) {
                    let own: QueueRow = serde_json::from_str(doc)
                        .map_err(|error| QueryError::Row(error.to_string()))?;
                    decided(queue, own);
                    continue;
                }
                let counted: MetricsRow = serde_json::from_str(doc)
                    .map_err(|error| QueryError::Row(error.to_string()))?;
                queue.counters = counted.counters;
                queue.per_minute = RatesView::at(row.try_get(FIRST + 6)?, &counted.minutes);
                continue;
            }
            let state: &str = row.try_get(FIRST + 1)?;
            let rank: i64 = row.try_get(FIRST + 2)?;
            let count = position_of(row, FIRST + 3)?;
            *queue.by_state.entry(state.to_owned()).or_default() += count;
            if state == "queued" {
                queue.depth += count;
                let priority = usize::try_from(rank).ok().and_then(|at| Priority::ALL.get(at));
                if let Some(priority) = priority {
                    *queue.by_priority.entry(priority.as_str().into()).or_default() += count;
                }
                let since: i64 = row.try_get(FIRST + 4)?;
                let since_at = DateTime::from_timestamp_micros(since);
                if queue.oldest_queued_at.is_none() || since_at < queue.oldest_queued_at {
                    queue.oldest_queued_at = since_at;
                }
            }
        }
        Ok(seen.answer(queues.into_values().collect()))
    }
}

fn named(name: String) -> QueueView {
    let by_priority = Priority::ALL.iter().map(|p| (p.as_str().to_owned(), 0)).collect();
    let policy = Json::of(&QueuePolicy::default());
    QueueView { name, by_priority, policy, ..QueueView::default() }
}

fn decided(queue: &mut QueueView, own: QueueRow) {
    queue.state = own.state;
    queue.state_reason = own.reason;
    queue.state_since = (own.state_position > 0).then_some(own.state_since);
    queue.version = own.version;
    if !own.policy.is_null() {
        queue.policy = own.policy;
    }
}

/// Depths by state and priority, and the counters' rows behind them.
fn depths(tenant: &TenantId, name: Option<&str>) -> Sql {
    let mut sql = Sql::new("");
    let whose = sql.bind(tenant.as_str().to_owned());
    let (of_task, of_row, of_queue) = match name {
        Some(name) => {
            let name = sql.bind(name.to_owned());
            (
                format!(" AND t.queue = {name}"),
                format!(" AND m.key = {name}"),
                format!(" AND d.name = {name}"),
            )
        }
        None => Default::default(),
    };
    let models = MODELS.map(Model::as_str).join("', '");
    // The condition on archived and state is word for word that of the index
    // `tasks_depths`, which holds the open tasks alone.
    sql.push(&format!(
        "SELECT q.*, (
             SELECT coalesce(floor(extract(epoch FROM read.recorded_at(min(c.position))) / 60), 0)
                    ::bigint
             FROM read.checkpoints c WHERE c.model IN ('{models}')) AS minute
         FROM (
             SELECT t.queue AS name, t.state, t.priority, count(*) AS count,
                    min(t.queued_at) AS since, NULL::text AS doc
             FROM read.tasks t
             WHERE t.tenant = {whose} AND NOT t.archived
               AND t.state <> ALL ('{{done,cancelled}}'::text[]){of_task}
             GROUP BY t.queue, t.state, t.priority
             UNION ALL
             SELECT m.key, NULL, NULL, NULL, NULL, m.doc
             FROM read.metrics m WHERE m.tenant = {whose} AND m.key <> '{ALL_QUEUES}'{of_row}
             UNION ALL
             SELECT d.name, '{OWN}', NULL, NULL, NULL, d.doc
             FROM read.queues d WHERE d.tenant = {whose}{of_queue}
         ) q"
    ));
    sql
}
