//! A tenant's numbers.

use std::collections::BTreeMap;

use domain::TenantId;

use super::{ALL_QUEUES, MetricsRow, MetricsView, QueueMetrics};
use crate::query::{FIRST, Sql, position_of};
use crate::{Answer, Model, Queries, QueryError};

/// The models behind the numbers.
const MODELS: [Model; 3] = [Model::Metrics, Model::Tasks, Model::Agents];

/// Which numbers to show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsFilter {
    /// Of this queue alone; the total then is that queue's.
    pub queue: Option<String>,
}

impl Queries {
    /// Counters, latencies and rates per queue and in all; tasks and agents by state.
    ///
    /// Tasks that are done or cancelled stay so, hence they are counted by the events
    /// and not by looking at each; those that were archived since are among them.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn metrics(
        &self,
        tenant: &TenantId,
        filter: &MetricsFilter,
    ) -> Result<Answer<MetricsView>, QueryError> {
        let (seen, rows) = self.select(tenant, &MODELS, numbers(tenant, filter)).await?;
        let mut total = MetricsRow::default();
        let mut queues = BTreeMap::new();
        let mut tasks_by_state: BTreeMap<String, u64> = BTreeMap::new();
        let mut agents_by_state = BTreeMap::new();
        let mut minute = 0;
        for row in &rows {
            let name: String = row.try_get(FIRST + 1)?;
            match row.try_get::<_, &str>(FIRST)? {
                "queue" => {
                    minute = row.try_get(FIRST + 4)?;
                    let counted: MetricsRow = crate::query::document(row, FIRST + 3)?;
                    total.merge(&counted);
                    if name != ALL_QUEUES {
                        queues.insert(name, QueueMetrics::of(&counted, minute));
                    }
                }
                "task" => {
                    tasks_by_state.insert(name, position_of(row, FIRST + 2)?);
                }
                _ => {
                    agents_by_state.insert(name, position_of(row, FIRST + 2)?);
                }
            }
        }
        for (state, count) in
            [("done", total.counters.completed), ("cancelled", total.counters.cancelled)]
        {
            if count > 0 {
                tasks_by_state.insert(state.into(), count);
            }
        }
        let total = QueueMetrics::of(&total, minute);
        Ok(seen.answer(MetricsView { total, queues, tasks_by_state, agents_by_state }))
    }
}

fn numbers(tenant: &TenantId, filter: &MetricsFilter) -> Sql {
    let mut sql = Sql::new("");
    let whose = sql.bind(tenant.as_str().to_owned());
    let (of_task, of_row) = match &filter.queue {
        Some(name) => {
            let name = sql.bind(name.clone());
            (format!(" AND t.queue = {name}"), format!(" AND m.key = {name}"))
        }
        None => (String::new(), String::new()),
    };
    // As in `queues`: word for word the condition of the index `tasks_depths`.
    sql.push(&format!(
        "SELECT n.*, floor(extract(epoch FROM clock_timestamp()) / 60)::bigint AS minute FROM (
             SELECT 'queue' AS of, m.key AS name, NULL::bigint AS count, m.doc
             FROM read.metrics m WHERE m.tenant = {whose}{of_row}
             UNION ALL
             SELECT 'task', t.state, count(*), NULL FROM read.tasks t
             WHERE t.tenant = {whose} AND NOT t.archived
               AND t.state <> ALL ('{{done,cancelled}}'::text[]){of_task}
             GROUP BY t.state
             UNION ALL
             SELECT 'agent', s.state, count(*), NULL FROM (
                 SELECT CASE WHEN a.state = 'ready' AND EXISTS (
                            SELECT FROM read.tasks t
                            WHERE t.tenant = a.tenant AND t.holder = a.key)
                        THEN 'busy' ELSE a.state END AS state
                 FROM read.agents a WHERE a.tenant = {whose}) s
             GROUP BY s.state
         ) n"
    ));
    sql
}
