//! Which rows of the live table are not what was made anew.

use std::collections::BTreeMap;

use deadpool_postgres::ClientWrapper;
use projections::ProjectionError;
use projections::engine::Projection;
use serde::{Deserialize, Serialize};

/// Rows that are shown.
const SHOWN: i64 = 10;
/// Characters that are shown of a column.
const SHOWN_CHARS: i32 = 1_000;

/// How the live rows differ from what was made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// The position at which both were looked at.
    pub position: u64,
    /// Rows that are read.
    pub live_rows: u64,
    /// Rows that were made.
    pub made_rows: u64,
    /// Rows that should be there and are not.
    pub missing: u64,
    /// Rows that are there and should not be.
    pub extra: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Past versions of rows that differ; these are not shown.
    pub past: u64,
    /// Some of these rows.
    pub sample: Vec<DifferingRow>,
}

/// A row that differs: the columns that do, all of them where there is no other row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferingRow {
    /// Whose it is.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// What the log makes of it; absent: there should be no row.
    pub expected: Option<BTreeMap<String, Option<String>>>,
    /// What is read; absent: there is no row.
    pub found: Option<BTreeMap<String, Option<String>>>,
}

impl Differences {
    /// Rows that differ.
    pub fn count(&self) -> u64 {
        self.missing + self.extra + self.changed + self.past
    }
}

/// Counts the rows that differ and shows some, in the transaction's snapshot.
pub(super) async fn find<P: Projection>(
    snapshot: &ClientWrapper,
    position: u64,
) -> Result<Differences, ProjectionError> {
    let name = P::NAME;
    let both = format!(
        "read.{name} a FULL JOIN rebuild.{name} b ON a.tenant = b.tenant AND a.key = b.key"
    );
    let counts = format!(
        "SELECT count(a.tenant), count(b.tenant),
                count(*) FILTER (WHERE a.tenant IS NULL),
                count(*) FILTER (WHERE b.tenant IS NULL),
                count(*) FILTER (WHERE ROW(a.*) IS DISTINCT FROM ROW(b.*)
                                 AND a.tenant IS NOT NULL AND b.tenant IS NOT NULL)
         FROM {both}"
    );
    let row = snapshot.query_one(&counts, &[]).await?;
    let count = |column| -> Result<u64, ProjectionError> {
        Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
    };
    let mut found = Differences {
        position,
        live_rows: count(0)?,
        made_rows: count(1)?,
        missing: count(2)?,
        extra: count(3)?,
        changed: count(4)?,
        past: past::<P>(snapshot).await?,
        sample: Vec::new(),
    };
    if found.count() == found.past {
        return Ok(found);
    }
    let columns = |of: &str, other: &str| {
        format!(
            "CASE WHEN {of}.tenant IS NOT NULL THEN (
                 SELECT json_object_agg(e.key, left(e.value, $2))
                 FROM jsonb_each_text(to_jsonb({of}.*)) e
                 WHERE e.value IS DISTINCT FROM (to_jsonb({other}.*) ->> e.key)
             )::text END"
        )
    };
    let sample = format!(
        "SELECT coalesce(a.tenant, b.tenant), coalesce(a.key, b.key)::text, {}, {}
         FROM {both} WHERE ROW(a.*) IS DISTINCT FROM ROW(b.*) LIMIT $1",
        columns("b", "a"),
        columns("a", "b")
    );
    for row in snapshot.query(&sample, &[&SHOWN, &SHOWN_CHARS]).await? {
        let values = |column| -> Result<_, ProjectionError> {
            let text: Option<&str> = row.try_get(column)?;
            let read = text.map(serde_json::from_str).transpose();
            read.map_err(|error| ProjectionError::Row { model: name, reason: error.to_string() })
        };
        let (tenant, key) = (row.try_get(0)?, row.try_get(1)?);
        found.sample.push(DifferingRow { tenant, key, expected: values(2)?, found: values(3)? });
    }
    Ok(found)
}

async fn past<P: Projection>(snapshot: &ClientWrapper) -> Result<u64, ProjectionError> {
    if P::WRITE_ONCE {
        return Ok(0);
    }
    let differing = format!(
        "SELECT count(*) FROM past.{0} a FULL JOIN rebuild_past.{0} b
                ON a.tenant = b.tenant AND a.key = b.key AND a.at = b.at
         WHERE ROW(a.*) IS DISTINCT FROM ROW(b.*)",
        P::NAME
    );
    let row = snapshot.query_one(&differing, &[]).await?;
    Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
}
