//! Finding operations.

use std::time::Duration;

use domain::operation::OperationState;
use domain::{OperationId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{OperationRow, OperationView};
use crate::query::{ById, FIRST, ListKind, Sql, bigint, bounded, document, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// Operations by id: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str = "SELECT o.key, o.doc, o.created
    FROM read.operations o WHERE o.tenant = $1 AND o.key = ANY($2)";

/// Which operations to list; an empty filter lists all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OperationFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In one of these states; empty: in any.
    pub states: Vec<OperationState>,
}

impl Queries {
    /// An operation by id; one that is not there yet is waited for, as with
    /// [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn operation(
        &self,
        tenant: &TenantId,
        id: OperationId,
        patience: Duration,
    ) -> Result<Answer<Option<OperationView>>, QueryError> {
        let (seen, row) = self.find(ById::Operation, tenant, id.0, patience).await?;
        Ok(seen.answer(row.as_deref().map(view).transpose()?))
    }

    /// Operations, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn operations(
        &self,
        tenant: &TenantId,
        filter: &OperationFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<OperationView>>, QueryError> {
        let limit = bounded(limit);
        let mut sql = Sql::page_of(Model::Operations, "o", "o.key, o.doc, o.created");
        sql.with(" WHERE o.tenant = #", tenant.as_str().to_owned());
        if let Some(kind) = &filter.kind {
            sql.with(" AND o.kind = #", kind.clone());
        }
        if !filter.states.is_empty() {
            let words: Vec<&'static str> = filter.states.iter().map(|s| s.as_str()).collect();
            sql.with(" AND o.state = ANY(#)", words);
        }
        if let Some(behind) = Cursor::read(ListKind::Operations, cursor)? {
            sql.with(" AND o.created < #", bigint(behind.position));
        }
        sql.newest("o", limit);
        let (seen, rows) =
            self.select(tenant, &[Model::Operations], sql.ordered("p.created DESC")).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push((position_of(row, FIRST + 2)?, view(row)?));
        }
        let page = Page::cut(items, limit, |(made, _)| Cursor::at(ListKind::Operations, *made));
        let items = page.items.into_iter().map(|(_, operation)| operation).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

fn view(row: &Row) -> Result<OperationView, QueryError> {
    let id: Uuid = row.try_get(FIRST)?;
    let operation: OperationRow = document(row, FIRST + 1)?;
    Ok(OperationView::of(OperationId(id), operation))
}
