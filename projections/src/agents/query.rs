//! Finding agents.

use std::time::Duration;

use domain::agent::AgentState;
use domain::{AgentId, CrewId, TaskId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{AgentRow, AgentView};
use crate::query::{ById, FIRST, ListKind, Sql, bigint, bounded, document, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// The models behind an agent: the tasks it holds are read from the tasks.
const MODELS: [Model; 2] = [Model::Agents, Model::Tasks];

/// Agents by id, with the tasks they hold: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str = "SELECT a.key, a.doc, a.created,
    ARRAY(SELECT t.key FROM read.tasks t
          WHERE t.tenant = a.tenant AND t.holder = a.key
          ORDER BY t.created LIMIT 1000) AS tasks
    FROM read.agents a WHERE a.tenant = $1 AND a.key = ANY($2)";

/// Whether an agent holds a task.
const HOLDS: &str =
    "EXISTS (SELECT FROM read.tasks t WHERE t.tenant = a.tenant AND t.holder = a.key)";

/// Which agents to list; an empty filter lists all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentFilter {
    /// In one of these states, `busy` told by the tasks they hold; empty: in any.
    pub states: Vec<AgentState>,
    /// With this role.
    pub role: Option<String>,
    /// With this capability.
    pub capability: Option<String>,
    /// With this label: a word, a name, or `name=value`.
    pub label: Option<String>,
    /// Of this crew.
    pub crew: Option<CrewId>,
    /// On this node.
    pub node: Option<String>,
    /// With this text in the name or role.
    pub q: Option<String>,
}

impl Queries {
    /// An agent by id; one that is not there yet is waited for, as with [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn agent(
        &self,
        tenant: &TenantId,
        id: AgentId,
        patience: Duration,
    ) -> Result<Answer<Option<AgentView>>, QueryError> {
        let (seen, row) = self.find(ById::Agent, tenant, id.0, patience).await?;
        Ok(seen.answer(row.as_deref().map(view).transpose()?))
    }

    /// Agents, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn agents(
        &self,
        tenant: &TenantId,
        filter: &AgentFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<AgentView>>, QueryError> {
        let limit = bounded(limit);
        let behind = Cursor::read(ListKind::Agents, cursor)?;
        let page = with_tasks(listing(tenant, filter, limit, behind)).ordered("p.created DESC");
        let (seen, rows) = self.select(tenant, &MODELS, page).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push((position_of(row, FIRST + 2)?, view(row)?));
        }
        let page = Page::cut(items, limit, |(created, _)| Cursor::at(ListKind::Agents, *created));
        let items = page.items.into_iter().map(|(_, agent)| agent).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

fn listing(tenant: &TenantId, filter: &AgentFilter, limit: usize, behind: Option<Cursor>) -> Sql {
    let mut sql = Sql::page_of(Model::Agents, "a", "a.tenant, a.key, a.doc, a.created");
    sql.with(" WHERE a.tenant = #", tenant.as_str().to_owned());
    in_states(&mut sql, &filter.states);
    if let Some(role) = &filter.role {
        sql.with(" AND a.role = #", role.clone());
    }
    if let Some(crew) = filter.crew {
        sql.with(" AND a.crew_id = #", crew.0);
    }
    if let Some(node) = &filter.node {
        sql.with(" AND a.node_id = #", node.clone());
    }
    if let Some(capability) = &filter.capability {
        sql.with(" AND # = ANY(a.capabilities)", capability.clone());
    }
    if let Some(label) = &filter.label {
        sql.with(" AND # = ANY(a.labels)", label.clone());
    }
    if let Some(q) = &filter.q {
        sql.with(" AND strpos(a.search, #) > 0", q.to_lowercase());
    }
    if let Some(behind) = behind {
        sql.with(" AND a.created < #", bigint(behind.position));
    }
    sql.newest("a", limit);
    sql
}

/// A ready agent that holds tasks is shown as busy, so the two are told apart by them.
fn in_states(sql: &mut Sql, states: &[AgentState]) {
    if states.is_empty() {
        return;
    }
    let ready = states.contains(&AgentState::Ready);
    let busy = states.contains(&AgentState::Busy);
    let plain: Vec<&'static str> = states
        .iter()
        .filter(|state| **state != AgentState::Ready || busy)
        .map(|state| state.as_str())
        .collect();
    sql.with(" AND (a.state = ANY(#)", plain);
    match (ready, busy) {
        (true, false) => sql.push(&format!(" OR a.state = 'ready' AND NOT {HOLDS}")),
        (false, true) => sql.push(&format!(" OR a.state = 'ready' AND {HOLDS}")),
        (true, true) | (false, false) => sql,
    }
    .push(")");
}

/// Adds the tasks that each agent holds, for the rows of the page alone.
fn with_tasks(mut page: Sql) -> Sql {
    page.text = format!(
        "SELECT a.key, a.doc, a.created,
                ARRAY(SELECT t.key FROM read.tasks t
                      WHERE t.tenant = a.tenant AND t.holder = a.key
                      ORDER BY t.created LIMIT 1000) AS tasks
         FROM ({}) a",
        page.text
    );
    page
}

fn view(row: &Row) -> Result<AgentView, QueryError> {
    let id: Uuid = row.try_get(FIRST)?;
    let agent: AgentRow = document(row, FIRST + 1)?;
    let tasks: Vec<Uuid> = row.try_get(FIRST + 3)?;
    Ok(AgentView::of(AgentId(id), agent, tasks.into_iter().map(TaskId).collect()))
}
