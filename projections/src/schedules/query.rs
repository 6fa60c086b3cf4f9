//! Finding schedules.

use std::time::Duration;

use domain::schedule::{ScheduleKind, ScheduleState};
use domain::{ScheduleId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{ScheduleRow, ScheduleView};
use crate::query::{ById, FIRST, ListKind, Sql, bigint, bounded, document, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// Schedules by id: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str = "SELECT s.key, s.doc, s.created
    FROM read.schedules s WHERE s.tenant = $1 AND s.key = ANY($2)";

/// Which schedules to list; an empty filter lists all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScheduleFilter {
    /// Of one of these kinds; empty: of any.
    pub kinds: Vec<ScheduleKind>,
    /// In one of these states; empty: in any.
    pub states: Vec<ScheduleState>,
}

impl Queries {
    /// A schedule's row by id; one that is not there yet is waited for, as with
    /// [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn schedule(
        &self,
        tenant: &TenantId,
        id: ScheduleId,
        patience: Duration,
    ) -> Result<Answer<Option<ScheduleRow>>, QueryError> {
        let (seen, row) = self.find(ById::Schedule, tenant, id.0, patience).await?;
        Ok(seen.answer(row.as_deref().map(|row| document(row, FIRST + 1)).transpose()?))
    }

    /// Schedules, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn schedules(
        &self,
        tenant: &TenantId,
        filter: &ScheduleFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<ScheduleView>>, QueryError> {
        let limit = bounded(limit);
        let mut sql = Sql::page_of(Model::Schedules, "s", "s.key, s.doc, s.created");
        sql.with(" WHERE s.tenant = #", tenant.as_str().to_owned());
        if !filter.kinds.is_empty() {
            let words: Vec<&'static str> = filter.kinds.iter().map(|kind| kind.as_str()).collect();
            sql.with(" AND s.kind = ANY(#)", words);
        }
        if !filter.states.is_empty() {
            let words: Vec<&'static str> = filter.states.iter().map(|s| s.as_str()).collect();
            sql.with(" AND s.state = ANY(#)", words);
        }
        if let Some(behind) = Cursor::read(ListKind::Schedules, cursor)? {
            sql.with(" AND s.created < #", bigint(behind.position));
        }
        sql.newest("s", limit);
        let (seen, rows) =
            self.select(tenant, &[Model::Schedules], sql.ordered("p.created DESC")).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push((position_of(row, FIRST + 2)?, view(row)?));
        }
        let page = Page::cut(items, limit, |(made, _)| Cursor::at(ListKind::Schedules, *made));
        let items = page.items.into_iter().map(|(_, schedule)| schedule).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

fn view(row: &Row) -> Result<ScheduleView, QueryError> {
    let id: Uuid = row.try_get(FIRST)?;
    Ok(ScheduleView::of(ScheduleId(id), document(row, FIRST + 1)?))
}
