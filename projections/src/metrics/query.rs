//! A tenant's numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::TenantId;
use tokio_postgres::Row;

use super::numbers::{Counted, Question};
use super::{ALL_QUEUES, MetricsRow, MetricsView, QueueMetrics};
use crate::query::{FIRST, Sql, position_of};
use crate::{Answer, Model, Queries, QueryError};

/// The models behind the numbers.
const MODELS: [Model; 3] = [Model::Metrics, Model::Tasks, Model::Agents];

/// Which numbers to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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
    ) -> Result<Answer<Arc<MetricsView>>, QueryError> {
        let (question, queries) = ((tenant.clone(), filter.clone()), self.clone());
        let asked = question.clone();
        let count = move || {
            let (queries, question) = (queries.clone(), asked.clone());
            async move { queries.count(question).await }
        };
        self.numbers.asked.ask(question, count).await
    }

    /// Counts, unless the numbers kept are of the same snapshot.
    async fn count(&self, question: Question) -> Result<Answer<Arc<MetricsView>>, QueryError> {
        let known = self.numbers.kept(&question);
        let (tenant, filter) = &question;
        let sql = numbers(tenant, filter, known.as_ref().map(|known| known.mark.clone()));
        let (seen, rows) = self.select(tenant, &MODELS, sql).await?;
        if let (Some(known), []) = (known, rows.as_slice()) {
            return Ok(seen.answer(known.view));
        }
        let counted = read(&rows)?;
        self.numbers.keep(question, counted.clone());
        Ok(seen.answer(counted.view))
    }
}

fn read(rows: &[Row]) -> Result<Counted, QueryError> {
    let mut total = MetricsRow::default();
    let mut queues = BTreeMap::new();
    let mut tasks_by_state: BTreeMap<String, u64> = BTreeMap::new();
    let mut agents_by_state = BTreeMap::new();
    let (mut mark, mut minute) = (String::new(), 0);
    for row in rows {
        let name: String = row.try_get(FIRST + 1)?;
        match row.try_get::<_, &str>(FIRST)? {
            "mark" => (mark, minute) = (name, row.try_get(FIRST + 2)?),
            "queue" => {
                let counted: MetricsRow = crate::query::document(row, FIRST + 3)?;
                total.merge(&counted);
                if name != ALL_QUEUES {
                    queues.insert(name, counted);
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
    let shown = |(name, row): (String, MetricsRow)| (name, QueueMetrics::of(&row, minute));
    let queues = queues.into_iter().map(shown).collect();
    let total = QueueMetrics::of(&total, minute);
    let view = MetricsView { total, queues, tasks_by_state, agents_by_state };
    Ok(Counted { mark, view: Arc::new(view) })
}

/// Nothing where the snapshot's mark is the one that is known: the places and generations
/// of the models, which move with every change of their rows, and the minute that the
/// rates are told at. Otherwise the numbers and the mark.
fn numbers(tenant: &TenantId, filter: &MetricsFilter, known: Option<String>) -> Sql {
    let mut sql = Sql::new("");
    let whose = sql.bind(tenant.as_str().to_owned());
    let known = sql.bind(known);
    let (of_task, of_row) = match &filter.queue {
        Some(name) => {
            let name = sql.bind(name.clone());
            (format!(" AND t.queue = {name}"), format!(" AND m.key = {name}"))
        }
        None => (String::new(), String::new()),
    };
    let models = MODELS.map(Model::as_str).join("', '");
    // As in `queues`: word for word the condition of the index `tasks_depths`. What the
    // snapshot's mark rules out is not begun: PostgreSQL asks once, before the scans.
    sql.push(&format!(
        "WITH now AS MATERIALIZED (
             SELECT coalesce(floor(extract(epoch FROM read.recorded_at(min(c.position))) / 60), 0)
                    ::bigint AS minute
             FROM read.checkpoints c WHERE c.model IN ('{models}')),
         mark AS MATERIALIZED (
             SELECT n.minute, n.minute || ' ' || string_agg(
                 c.model || ' ' || c.position || ' ' || c.generation, ' ' ORDER BY c.model) AS text
             FROM read.checkpoints c, now n WHERE c.model IN ('{models}') GROUP BY n.minute),
         changed AS MATERIALIZED (
             SELECT (SELECT text FROM mark) IS DISTINCT FROM {known}::text AS yes)
         SELECT 'mark' AS of, m.text AS name, m.minute AS count, NULL::text AS doc
         FROM mark m WHERE (SELECT yes FROM changed)
         UNION ALL
         SELECT 'queue', m.key, NULL, m.doc
         FROM read.metrics m WHERE (SELECT yes FROM changed) AND m.tenant = {whose}{of_row}
         UNION ALL
         SELECT 'task', t.state, count(*), NULL FROM read.tasks t
         WHERE (SELECT yes FROM changed) AND t.tenant = {whose} AND NOT t.archived
           AND t.state <> ALL ('{{done,cancelled}}'::text[]){of_task}
         GROUP BY t.state
         UNION ALL
         SELECT 'agent', s.state, count(*), NULL FROM (
             SELECT CASE WHEN a.state = 'ready' AND EXISTS (
                        SELECT FROM read.tasks t
                        WHERE t.tenant = a.tenant AND t.holder = a.key)
                    THEN 'busy' ELSE a.state END AS state
             FROM read.agents a WHERE (SELECT yes FROM changed) AND a.tenant = {whose}) s
         GROUP BY s.state"
    ));
    sql.of_one_shape()
}
