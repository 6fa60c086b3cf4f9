//! Finding profiles.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::TenantId;
use domain::profile::{Profile, profile_id};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use utoipa::ToSchema;

use super::ProfileRow;
use crate::query::{ById, FIRST, ListKind, Sql, bigint, bounded, document, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// Profiles by id: of tenant `$1`, those among `$2`.
pub(crate) const BY_ID: &str = "SELECT f.key, f.doc, f.created
    FROM read.profiles f WHERE f.tenant = $1 AND f.key = ANY($2)";

/// A profile as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProfileView {
    /// Its name.
    pub name: String,
    /// What it says, without what it extends.
    pub profile: Box<Profile>,
    /// When it was first set.
    pub created_at: DateTime<Utc>,
    /// When it was last set.
    pub updated_at: DateTime<Utc>,
    /// The stream's version.
    pub version: u64,
    /// Of its last event.
    pub position: u64,
}

impl From<ProfileRow> for ProfileView {
    fn from(row: ProfileRow) -> Self {
        Self {
            name: row.name,
            profile: row.profile,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
            position: row.position,
        }
    }
}

impl Queries {
    /// A profile by name; one that is not there yet is waited for, as with
    /// [`Queries::task`].
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn profile(
        &self,
        tenant: &TenantId,
        name: &str,
        patience: Duration,
    ) -> Result<Answer<Option<ProfileView>>, QueryError> {
        let id = profile_id(tenant, name);
        let (seen, row) = self.find(ById::Profile, tenant, id, patience).await?;
        Ok(seen.answer(row.as_deref().map(view).transpose()?))
    }

    /// Profiles, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn profiles(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<ProfileView>>, QueryError> {
        let limit = bounded(limit);
        let mut sql = Sql::page_of(Model::Profiles, "f", "f.key, f.doc, f.created");
        sql.with(" WHERE f.tenant = #", tenant.as_str().to_owned());
        if let Some(behind) = Cursor::read(ListKind::Profiles, cursor)? {
            sql.with(" AND f.created < #", bigint(behind.position));
        }
        sql.newest("f", limit);
        let (seen, rows) =
            self.select(tenant, &[Model::Profiles], sql.ordered("p.created DESC")).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push((position_of(row, FIRST + 2)?, view(row)?));
        }
        let page = Page::cut(items, limit, |(made, _)| Cursor::at(ListKind::Profiles, *made));
        let items = page.items.into_iter().map(|(_, profile)| profile).collect();
        Ok(seen.answer(Page { items, next: page.next }))
    }
}

fn view(row: &Row) -> Result<ProfileView, QueryError> {
    Ok(document::<ProfileRow>(row, FIRST + 1)?.into())
}
