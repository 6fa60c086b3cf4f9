//! Finding tasks.

use std::time::Duration;

use domain::task::{TaskNumber, TaskState};
use domain::values::Priority;
use domain::{AgentId, TaskId, TenantId, Timestamp};
use tokio_postgres::Row;

use super::{Part, TaskText, TaskView};
use crate::query::{ById, FIRST, ListKind, Seen, Sql, bigint, bounded};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// The parts of a task `t`, as [`Part::read`] reads them.
macro_rules! parts {
    () => {
        "ARRAY(SELECT c.key || ' ' ||
                      CASE WHEN c.archived AND c.state IN ('inbox', 'queued') THEN 'cancelled'
                           ELSE c.state END || ' ' || coalesce(c.percent, 0)
               FROM read.tasks c
               WHERE c.tenant = t.tenant AND c.parent_id = t.key
               ORDER BY c.created LIMIT 1000) AS parts"
    };
}

/// Tasks by id, with their parts: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str = concat!(
    "SELECT t.key, t.doc, t.created, ",
    parts!(),
    " FROM read.tasks t WHERE t.tenant = $1 AND t.key = ANY($2)"
);

/// Which tasks to list; an empty filter lists all that are not archived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TaskFilter {
    /// In one of these states; empty: in any.
    pub states: Vec<TaskState>,
    /// Of this queue.
    pub queue: Option<String>,
    /// Of one of these priorities; empty: of any.
    pub priorities: Vec<Priority>,
    /// That this agent has, or had last before their end.
    pub agent: Option<AgentId>,
    /// With this label: a word, a name, or `name=value`.
    pub label: Option<String>,
    /// That need this capability.
    pub capability: Option<String>,
    /// Parts of this task.
    pub parent: Option<TaskId>,
    /// With this text in the title or the beginning of the description.
    pub q: Option<String>,
    /// Due before this time.
    pub due_before: Option<Timestamp>,
    /// Those that stand still for too long.
    pub escalated: bool,
    /// Those that are archived, instead of those that are not.
    pub archived: bool,
}

impl Queries {
    /// A task by id.
    ///
    /// One that is not there yet is waited for until the read model has passed the head
    /// that stood at the request, at most for `patience`; then the answer is none.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn task(
        &self,
        tenant: &TenantId,
        id: TaskId,
        patience: Duration,
    ) -> Result<Answer<Option<TaskView>>, QueryError> {
        let Answer { value, position, lag_ms } = self.task_text(tenant, id, patience).await?;
        let value = value.map(|task| task.view()).transpose()?;
        Ok(Answer { value, position, lag_ms })
    }

    /// The same as text, for those who send it on.
    ///
    /// # Errors
    /// As [`Queries::task`].
    pub async fn task_text(
        &self,
        tenant: &TenantId,
        id: TaskId,
        patience: Duration,
    ) -> Result<Answer<Option<TaskText>>, QueryError> {
        let (seen, row) = self.find(ById::Task, tenant, id.0, patience).await?;
        Ok(seen.answer(row.as_deref().map(text).transpose()?))
    }

    /// The task with a number.
    ///
    /// One that is not there yet is waited for as [`Queries::task`] does it.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn task_numbered(
        &self,
        tenant: &TenantId,
        number: TaskNumber,
        patience: Duration,
    ) -> Result<Answer<Option<TaskId>>, QueryError> {
        let (seen, found) = self.number_of(tenant, number).await?;
        if found.is_some()
            || seen.position >= seen.head
            || self.wait_for(Model::Tasks, seen.head, patience).await.is_err()
        {
            return Ok(seen.answer(found));
        }
        let (seen, found) = self.number_of(tenant, number).await?;
        Ok(seen.answer(found))
    }

    async fn number_of(
        &self,
        tenant: &TenantId,
        number: TaskNumber,
    ) -> Result<(Seen, Option<TaskId>), QueryError> {
        let mut sql = Sql::new("SELECT n.key FROM read.task_numbered(");
        sql.with("#", tenant.as_str().to_owned());
        // Names the table, so that it is locked before the snapshot is taken: the function
        // must not meet the rows of a version that was put in its place after that.
        sql.with(
            ", #) n(key) WHERE n.key IS NOT NULL AND NOT EXISTS (SELECT FROM read.tasks WHERE false)",
            bigint(number.0),
        );
        let (seen, rows) = self.select(tenant, &[Model::Tasks], sql).await?;
        let id = rows.first().map(|row| row.try_get::<_, uuid::Uuid>(FIRST)).transpose()?;
        Ok((seen, id.map(TaskId)))
    }

    /// Tasks, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<TaskText>>, QueryError> {
        self.task_list(tenant, ListKind::Tasks, filter, limit, cursor).await
    }

    /// The parts of a task, newest first, archived or not as the filter says.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn task_children(
        &self,
        tenant: &TenantId,
        parent: TaskId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<TaskText>>, QueryError> {
        let filter = TaskFilter { parent: Some(parent), ..TaskFilter::default() };
        self.task_list(tenant, ListKind::Children, &filter, limit, cursor).await
    }

    /// Failed and dead tasks, newest first; `filter.states` may name one of the two.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<TaskText>>, QueryError> {
        let mut filter = filter.clone();
        let both = [TaskState::Failed, TaskState::Dead];
        if filter.states.is_empty() {
            filter.states = both.into();
        } else {
            filter.states.retain(|state| both.contains(state));
            if filter.states.is_empty() {
                // Nothing else is a dead letter.
                let (seen, _) = self
                    .select(tenant, &[Model::Tasks], Sql::new("SELECT NULL::text WHERE false"))
                    .await?;
                return Ok(seen.answer(Page { items: Vec::new(), next: None }));
            }
        }
        self.task_list(tenant, ListKind::DeadLetters, &filter, limit, cursor).await
    }

    /// Whoever asks for the same page at the same time shares a query: what a crowd of
    /// dashboards looks at is its first page.
    async fn task_list(
        &self,
        tenant: &TenantId,
        list: ListKind,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<TaskText>>, QueryError> {
        let behind = Cursor::read(list, cursor)?;
        let (tenant, filter) = (tenant.clone(), filter.clone());
        let asked = Asked { tenant, list, filter, limit: bounded(limit), behind };
        let (queries, question) = (self.clone(), asked.clone());
        let read = move || {
            let (queries, question) = (queries.clone(), question.clone());
            async move { queries.task_page(question).await }
        };
        self.pages.ask(asked, read).await
    }

    async fn task_page(&self, asked: Asked) -> Result<Answer<Page<TaskText>>, QueryError> {
        let Asked { tenant, list, filter, limit, behind } = asked;
        let page = with_parts(listing(&tenant, &filter, limit, behind));
        let (seen, rows) =
            self.select(&tenant, &[Model::Tasks], page.ordered("p.created DESC")).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let created = crate::query::position_of(row, FIRST + 2)?;
            items.push((created, text(row)?));
        }
        let page = Page::cut(items, limit, |(created, _)| Cursor::at(list, *created));
        let items = page.items.into_iter().map(|(_, task)| task).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

/// Which page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    tenant: TenantId,
    list: ListKind,
    filter: TaskFilter,
    limit: usize,
    behind: Option<Cursor>,
}

/// A page of tasks, and one more, newest first.
pub(super) fn listing(
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: usize,
    behind: Option<Cursor>,
) -> Sql {
    let TaskFilter { states, archived, .. } = filter;
    let rest = TaskFilter { states: states.clone(), archived: *archived, ..TaskFilter::default() };
    // A state that stands in the text is planned for once, by how many tasks are in it:
    // planning such a page anew each time costs twice what reading it does.
    let of_one_shape = states.len() <= 1 && rest == *filter;
    let mut sql = Sql::page_of(Model::Tasks, "t", "t.tenant, t.key, t.doc, t.created");
    sql.with(" WHERE t.tenant = #", tenant.as_str().to_owned());
    sql.push(if filter.archived { " AND t.archived" } else { " AND NOT t.archived" });
    match filter.states.as_slice() {
        [] => {}
        // The single state is the usual case, and the one an index answers in order.
        [state] if of_one_shape => {
            sql.push(&format!(" AND t.state = '{}'", state.as_str()));
        }
        [state] => {
            sql.with(" AND t.state = #", state.as_str());
        }
        states => {
            let words: Vec<&'static str> = states.iter().map(|state| state.as_str()).collect();
            sql.with(" AND t.state = ANY(#)", words);
        }
    }
    if let Some(queue) = &filter.queue {
        sql.with(" AND t.queue = #", queue.clone());
    }
    if !filter.priorities.is_empty() {
        let ranks: Vec<i64> = filter.priorities.iter().map(|priority| *priority as i64).collect();
        sql.with(" AND t.priority = ANY(#)", ranks);
    }
    if let Some(agent) = filter.agent {
        sql.with(" AND t.agent_id = #", agent.0);
    }
    if let Some(parent) = filter.parent {
        sql.with(" AND t.parent_id = #", parent.0);
    }
    if let Some(due) = filter.due_before {
        sql.with(" AND t.due_at < #", due.timestamp_micros());
    }
    if let Some(label) = &filter.label {
        sql.with(" AND # = ANY(t.labels)", label.clone());
    }
    if let Some(capability) = &filter.capability {
        sql.with(" AND # = ANY(t.capabilities)", capability.clone());
    }
    if let Some(q) = &filter.q {
        sql.with(" AND strpos(t.search, #) > 0", q.to_lowercase());
    }
    if filter.escalated {
        sql.push(" AND t.escalated_at IS NOT NULL");
    }
    if let Some(behind) = behind {
        sql.with(" AND t.created < #", bigint(behind.position));
    }
    sql.newest("t", limit);
    if of_one_shape { sql.of_one_shape() } else { sql }
}

/// Adds each task's parts, for the rows of the page alone.
pub(super) fn with_parts(mut page: Sql) -> Sql {
    page.text = format!("SELECT t.key, t.doc, t.created, {} FROM ({}) t", parts!(), page.text);
    page
}

/// The task of a row of such a page.
pub(super) fn text(row: &Row) -> Result<TaskText, QueryError> {
    let parts: Vec<&str> = row.try_get(FIRST + 3)?;
    let parts = parts.into_iter().map(Part::read).collect::<Result<Vec<_>, _>>()?;
    TaskText::of(row.try_get(FIRST)?, row.try_get(FIRST + 1)?, &parts)
}
