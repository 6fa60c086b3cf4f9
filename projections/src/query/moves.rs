//! What the rows of a model were at one moment and at another: what appeared, vanished and
//! changed in between, and the rows that a search through time looks at.

use std::collections::{BTreeMap, HashMap};

use domain::TenantId;
use serde_json::Value;
use tokio_postgres::Row;

use super::{Queries, Sql, bigint, position_of};
use crate::engine::read_row;
use crate::{Key, Model, Projection, QueryError, with_model};

/// The events with which an agent begins or ceases to hold a task.
const HOLDING: &str = "assigned,unassigned,started,blocked,review_requested,approved,rejected,\
                       completed,attempt_failed,failed,dead_lettered,released,lease_expired,\
                       cancelled,requeued";
/// Positions looked through at a time.
const WINDOW: u64 = 16_384;

/// A row as readers may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// What names it within its tenant.
    pub key: String,
    /// The position that made it so.
    pub at: u64,
    /// Its fields.
    pub row: Value,
}

/// A row at two moments; at least one of the two is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// What names it within its tenant.
    pub key: String,
    /// The row at the earlier moment.
    pub before: Option<Value>,
    /// The row at the later one, and the position that made it so.
    pub after: Option<Shown>,
}

/// What became of a model's rows between two moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moves {
    /// Rows that were not there before.
    pub appeared: u64,
    /// Rows that an event touched; one that was set back since counts, too.
    pub changed: u64,
    /// Rows that are no more.
    pub vanished: u64,
    /// Some of them, in the order of their last change; those that vanished first.
    pub rows: Vec<Move>,
    /// Behind which position the next ones come, where there are more.
    pub next: Option<u64>,
}

impl Queries {
    /// What became of a model's rows from one moment to a later one: `limit` of those whose
    /// last change lies behind `behind`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn moves(
        &self,
        tenant: &TenantId,
        model: Model,
        (from, to): (u64, u64),
        limit: usize,
        behind: Option<u64>,
    ) -> Result<Moves, QueryError> {
        with_model!(model, projection => {
            self.moves_of(tenant, &projection, (from, to), limit, behind).await
        })
    }

    async fn moves_of<P: Projection>(
        &self,
        tenant: &TenantId,
        model: &P,
        (from, to): (u64, u64),
        limit: usize,
        behind: Option<u64>,
    ) -> Result<Moves, QueryError> {
        let (then, now) = (self.at(from), self.at(to));
        let mut moves = Moves::default();
        if behind.is_none() {
            (moves.appeared, moves.changed) = now.moved_since::<P>(tenant, from, &then).await?;
            if P::VANISHES {
                let before = then.keys_of::<P>(tenant).await?;
                let after = now.keys_of::<P>(tenant).await?;
                let gone: Vec<P::Key> =
                    before.into_values().filter(|key| !after.contains_key(&key.text())).collect();
                moves.vanished = gone.len() as u64;
                let shown = gone.get(..gone.len().min(limit)).unwrap_or_default();
                for (key, before) in then.stood(tenant, model, shown).await? {
                    moves.rows.push(Move { key, before: Some(before), after: None });
                }
            }
        }
        let mut since = behind.unwrap_or_default().max(from);
        let mut width = WINDOW;
        let mut found: Vec<(P::Key, Shown)> = Vec::new();
        while since < to && found.len() <= limit {
            let until = since.saturating_add(width).min(to);
            found.extend(now.touched(tenant, model, since, until, &[]).await?);
            (since, width) = (until, width.saturating_mul(4));
        }
        if found.len() > limit {
            found.truncate(limit);
            moves.next = found.last().map(|(_, last)| last.at);
        }
        let keys: Vec<P::Key> = found.iter().map(|(key, _)| key.clone()).collect();
        let mut before: HashMap<String, Value> =
            then.stood(tenant, model, &keys).await?.into_iter().collect();
        for (_, after) in found {
            let before = before.remove(&after.key);
            moves.rows.push(Move { key: after.key.clone(), before, after: Some(after) });
        }
        Ok(moves)
    }

    /// Some rows of a moment whose last change lies behind `since` and not behind `until`, in
    /// that order, and where `states` are given in one of these.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn rows_between(
        &self,
        tenant: &TenantId,
        model: Model,
        (since, until): (u64, u64),
        states: &[String],
    ) -> Result<Vec<Shown>, QueryError> {
        with_model!(model, projection => {
            let rows = self.touched(tenant, &projection, since, until, states).await?;
            Ok(rows.into_iter().map(|(_, shown)| shown).collect())
        })
    }

    /// A row of the moment.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn row(
        &self,
        tenant: &TenantId,
        model: Model,
        key: &str,
    ) -> Result<Option<Value>, QueryError> {
        with_model!(model, projection => {
            let Some(key) = key_of(&projection, key) else { return Ok(None) };
            let mut rows = self.stood(tenant, &projection, &[key]).await?;
            Ok(rows.pop().map(|(_, row)| row))
        })
    }

    /// The first assignment of a task, behind one position and up to another, that came while
    /// another one stood: what leases are there to rule out.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn second_holder(
        &self,
        tenant: &TenantId,
        from: u64,
        to: u64,
    ) -> Result<Option<u64>, QueryError> {
        let mut sql = Sql::new(format!(
            "SELECT h.position FROM (
                 SELECT e.position, e.event_type,
                        lag(e.event_type) OVER (PARTITION BY e.stream_id ORDER BY e.version) AS before
                 FROM events e
                 WHERE e.stream_type = 'task' AND e.event_type = ANY ('{{{HOLDING}}}'::text[])"
        ));
        sql.with(" AND e.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND e.position > #", bigint(from));
        sql.with(" AND e.position <= #) h", bigint(to));
        sql.push(
            " WHERE h.event_type = 'assigned' AND h.before = ANY ('{assigned,started}'::text[])
              ORDER BY h.position LIMIT 1",
        );
        let rows = self.run(tenant, &sql, &sql.text, &[]).await?;
        rows.first().map(|row| position_of(row, 0)).transpose()
    }

    /// The tenant's events of a range by type, without its first position.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn event_counts(
        &self,
        tenant: &TenantId,
        from: u64,
        to: u64,
    ) -> Result<BTreeMap<String, u64>, QueryError> {
        let mut sql = Sql::new("SELECT a.type, count(*) FROM read.audit a");
        sql.with(" WHERE a.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND a.key > #", bigint(from));
        sql.with(" AND a.key <= # GROUP BY a.type", bigint(to));
        let rows = self.run(tenant, &sql, &sql.text, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, position_of(row, 1)?))).collect()
    }

    /// The kept past versions that began behind one position and up to another, and ended up
    /// to `until`, in the order of their begin.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn versions_between(
        &self,
        tenant: &TenantId,
        model: Model,
        (since, up_to): (u64, u64),
        until: u64,
        states: &[String],
    ) -> Result<Vec<Shown>, QueryError> {
        with_model!(model, projection => {
            let mut sql = Sql::new(format!(
                "SELECT p.key, past.sound('{0}', p.doc, p.at, p.until, p.sum), p.at
                 FROM past.{0} p WHERE p.tenant = ", model.as_str()
            ));
            sql.with("#", tenant.as_str().to_owned());
            sql.with(" AND p.at > #", bigint(since));
            sql.with(" AND p.at <= #", bigint(up_to));
            sql.with(" AND p.until <= #", bigint(until));
            if !states.is_empty() {
                sql.with(" AND p.state = ANY(#)", states.to_vec());
            }
            sql.push(" ORDER BY p.at");
            let rows = self.run(tenant, &sql, &sql.text, &[]).await?;
            rows.iter().map(|row| Ok(shown(&projection, row, 0)?.1)).collect()
        })
    }

    async fn touched<P: Projection>(
        &self,
        tenant: &TenantId,
        model: &P,
        since: u64,
        until: u64,
        states: &[String],
    ) -> Result<Vec<(P::Key, Shown)>, QueryError> {
        let mut sql = Sql::new(format!("SELECT t.key, t.doc, t.at FROM read.{} t", P::NAME));
        sql.with(" WHERE t.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND t.at > #", bigint(since));
        sql.with(" AND t.at <= #", bigint(until));
        if !states.is_empty() {
            sql.with(" AND t.state = ANY(#)", states.to_vec());
        }
        let rows = self.asked_at_once(tenant, sql.ordered("p.at, p.key")).await?;
        rows.iter().map(|row| shown(model, row, super::FIRST)).collect()
    }

    /// The rows of some keys.
    async fn stood<P: Projection>(
        &self,
        tenant: &TenantId,
        model: &P,
        keys: &[P::Key],
    ) -> Result<Vec<(String, Value)>, QueryError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(format!("SELECT t.key, t.doc, t.at FROM read.{} t", P::NAME));
        sql.with(" WHERE t.tenant = #", tenant.as_str().to_owned());
        sql.bind_boxed(<P::Key as Key>::KIND.array(keys.iter().map(Key::cell)));
        sql.push(" AND t.key = ANY($2)");
        let rows = self.asked_at_once(tenant, sql).await?;
        rows.iter()
            .map(|row| shown(model, row, super::FIRST).map(|(_, shown)| (shown.key, shown.row)))
            .collect()
    }

    async fn keys_of<P: Projection>(
        &self,
        tenant: &TenantId,
    ) -> Result<BTreeMap<String, P::Key>, QueryError> {
        let mut sql = Sql::new(format!("SELECT t.key FROM read.{} t", P::NAME));
        sql.with(" WHERE t.tenant = #", tenant.as_str().to_owned());
        let rows = self.asked_at_once(tenant, sql).await?;
        let keys = rows.iter().map(|row| {
            let key = P::Key::read(row, super::FIRST)?;
            Ok((key.text(), key))
        });
        keys.collect()
    }

    /// How many rows appeared since a position, and how many others were touched.
    async fn moved_since<P: Projection>(
        &self,
        tenant: &TenantId,
        since: u64,
        then: &Self,
    ) -> Result<(u64, u64), QueryError> {
        if !P::COLUMNS.iter().any(|column| column.name == "created") {
            let (before, after) =
                (then.keys_of::<P>(tenant).await?, self.keys_of::<P>(tenant).await?);
            let appeared = after.keys().filter(|key| !before.contains_key(*key)).count() as u64;
            let mut sql = Sql::new(format!("SELECT count(*) FROM read.{} t", P::NAME));
            sql.with(" WHERE t.tenant = #", tenant.as_str().to_owned());
            sql.with(" AND t.at > #", bigint(since));
            let rows = self.asked_at_once(tenant, sql).await?;
            let touched = rows.first().map(|row| position_of(row, super::FIRST)).transpose()?;
            return Ok((appeared, touched.unwrap_or_default().saturating_sub(appeared)));
        }
        let mut sql = Sql::new("");
        let place = sql.bind(bigint(since));
        sql.push(&format!(
            "SELECT count(*) FILTER (WHERE t.created > {place}),
                    count(*) FILTER (WHERE t.created <= {place})
             FROM read.{} t WHERE t.at > {place}",
            P::NAME
        ));
        sql.with(" AND t.tenant = #", tenant.as_str().to_owned());
        let rows = self.asked_at_once(tenant, sql).await?;
        let Some(row) = rows.first() else { return Ok((0, 0)) };
        Ok((position_of(row, super::FIRST)?, position_of(row, super::FIRST + 1)?))
    }

    /// Rows as of the moment; none where there is no moment.
    async fn asked_at_once(&self, tenant: &TenantId, sql: Sql) -> Result<Vec<Row>, QueryError> {
        let Some(moment) = self.moment else { return Ok(Vec::new()) };
        Ok(self.select_past(tenant, &sql, moment).await?.1)
    }
}

fn key_of<P: Projection>(_: &P, text: &str) -> Option<P::Key> {
    P::Key::parse(text)
}

/// A row of key, document and position, beginning at a column.
fn shown<P: Projection>(_: &P, row: &Row, first: usize) -> Result<(P::Key, Shown), QueryError> {
    let key = P::Key::read(row, first)?;
    let stored = read_row::<P>(row.try_get(first + 1)?);
    let stored = stored.map_err(|error| QueryError::Row(error.to_string()))?;
    let at = position_of(row, first + 2)?;
    Ok((key.clone(), Shown { key: key.text(), at, row: P::shown(&key, stored) }))
}
