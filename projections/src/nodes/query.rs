//! Finding nodes.

use std::time::Duration;

use domain::node::NodeState;
use domain::{AgentId, NodeId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{NodeView, Used};
use crate::query::{ById, FIRST, ListKind, Sql, bigint, bounded, document, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// The models behind a node: what runs there is read from the agents.
const MODELS: [Model; 2] = [Model::Nodes, Model::Agents];

macro_rules! columns {
    () => {
        "n.key, n.doc, n.created,
    ARRAY(SELECT a.key FROM read.agents a
          WHERE a.tenant = n.tenant AND a.node_id = n.key::text
          ORDER BY a.created LIMIT 1000) AS agents,
    (SELECT ARRAY[coalesce(sum((a.doc::jsonb #>> '{reserved,cpu_millis}')::bigint), 0)::bigint,
                  coalesce(sum((a.doc::jsonb #>> '{reserved,memory_bytes}')::bigint), 0)::bigint,
                  count(*)]
     FROM read.agents a WHERE a.tenant = n.tenant AND a.node_id = n.key::text) AS used"
    };
}

/// Nodes by id: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str =
    concat!("SELECT ", columns!(), " FROM read.nodes n WHERE n.tenant = $1 AND n.key = ANY($2)");

/// Which nodes to list; an empty filter lists those that are not retired.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFilter {
    /// In one of these states.
    pub states: Vec<NodeState>,
    /// Of this name.
    pub name: Option<String>,
}

impl Queries {
    /// A node by id; one that is not there yet is waited for, as with [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn node(
        &self,
        tenant: &TenantId,
        id: NodeId,
        patience: Duration,
    ) -> Result<Answer<Option<NodeView>>, QueryError> {
        let (seen, row) = self.find(ById::Node, tenant, id.0, patience).await?;
        Ok(seen.answer(row.as_deref().map(view).transpose()?))
    }

    /// Nodes, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn nodes(
        &self,
        tenant: &TenantId,
        filter: &NodeFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<NodeView>>, QueryError> {
        let limit = bounded(limit);
        let mut sql = Sql::page_of(Model::Nodes, "n", columns!());
        sql.with(" WHERE n.tenant = #", tenant.as_str().to_owned());
        if filter.states.is_empty() {
            sql.push(" AND n.state <> 'retired'");
        } else {
            let words: Vec<&'static str> = filter.states.iter().map(|s| s.as_str()).collect();
            sql.with(" AND n.state = ANY(#)", words);
        }
        if let Some(name) = &filter.name {
            sql.with(" AND n.name = #", name.clone());
        }
        if let Some(behind) = Cursor::read(ListKind::Nodes, cursor)? {
            sql.with(" AND n.created < #", bigint(behind.position));
        }
        sql.newest("n", limit);
        let (seen, rows) = self.select(tenant, &MODELS, sql.ordered("p.created DESC")).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push((position_of(row, FIRST + 2)?, view(row)?));
        }
        let page = Page::cut(items, limit, |(made, _)| Cursor::at(ListKind::Nodes, *made));
        let items = page.items.into_iter().map(|(_, node)| node).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

fn view(row: &Row) -> Result<NodeView, QueryError> {
    let id: Uuid = row.try_get(FIRST)?;
    let agents: Vec<Uuid> = row.try_get(FIRST + 3)?;
    let used: Vec<i64> = row.try_get(FIRST + 4)?;
    let amount = |at: usize| used.get(at).and_then(|n| u64::try_from(*n).ok()).unwrap_or(0);
    let used = Used { cpu_millis: amount(0), memory_bytes: amount(1), slots: amount(2) };
    let agents = agents.into_iter().map(AgentId).collect();
    Ok(NodeView::of(NodeId(id), document(row, FIRST + 1)?, agents, used))
}
