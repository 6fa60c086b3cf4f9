//! Questions about the past: the same statements over the rows as they were.
//!
//! The world as of a position is put together from three sources, each row coming from
//! exactly one of them, whatever is written meanwhile: the live row, where it has not changed
//! since the last boundary before the position; a kept version, where it stood at that
//! boundary and was replaced after the position; and for what changed in between, the rows
//! folded from the events since the boundary. A model that joins later needs nothing here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{Recorded, TenantId};
use lru::LruCache;
use parking_lot::Mutex;
use store::{RECORDED_COLUMNS, recorded_from_row};
use tokio::sync::watch;
use tokio_postgres::types::ToSql;

use super::sql::{PAGE, PAGE_END, ROWS};
use super::{Queries, Sql, bigint};
use crate::engine::{
    ColumnKind, Numbers, Parked, StreamKey, Tail, boundary, column_names, read_row,
};
use crate::{Key, Model, Projection, QueryError, with_model};

/// Bytes of folded tails that are kept for whoever asks about the same moment again; one
/// takes some MiB at most.
const KEPT_BYTES: usize = 64 << 20;
/// What an entry takes beside its rows, roughly.
const ENTRY_BYTES: usize = 256;
/// How long one is kept: a rebuild may mend rows.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The rows of a model that changed between a boundary and a moment, as a JSON array.
type Rows = Arc<String>;

/// Whose tail, of which model, at which moment.
type Of = (TenantId, Model, u64);

/// Tails folded lately, and when.
#[derive(Debug)]
struct Tails {
    by_moment: LruCache<Of, (Instant, Rows)>,
    bytes: usize,
}

/// What is known of the past beside the tables.
#[derive(Debug)]
pub(super) struct Kept {
    tails: Mutex<Tails>,
    spoilt: watch::Sender<Option<Model>>,
}

impl Default for Kept {
    fn default() -> Self {
        let tails = Mutex::new(Tails { by_moment: LruCache::unbounded(), bytes: 0 });
        Self { tails, spoilt: watch::Sender::default() }
    }
}

impl Kept {
    /// A model's past was found changed: its tails may stand on it.
    pub(super) fn spoilt(&self, model: Model) {
        let mut tails = self.tails.lock();
        tails.by_moment.clear();
        tails.bytes = 0;
        drop(tails);
        self.spoilt.send_replace(Some(model));
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Model>> {
        self.spoilt.subscribe()
    }

    fn get(&self, of: &Of) -> Option<Rows> {
        let mut tails = self.tails.lock();
        let (since, rows) = tails.by_moment.get(of)?;
        (since.elapsed() < KEPT_FOR).then(|| rows.clone())
    }

    fn keep(&self, of: Of, rows: &Rows) {
        let mut tails = self.tails.lock();
        // An entry costs something also where nothing changed.
        let size = |rows: &Rows| rows.len() + ENTRY_BYTES;
        tails.bytes += size(rows);
        if let Some((_, (_, before))) = tails.by_moment.push(of, (Instant::now(), rows.clone())) {
            tails.bytes -= size(&before);
        }
        while tails.bytes > KEPT_BYTES
            && let Some((_, (_, oldest))) = tails.by_moment.pop_lru()
        {
            tails.bytes -= size(&oldest);
        }
    }
}

/// A parameter that a statement gets beside its own.
#[derive(Debug)]
pub(super) enum Value {
    Position(i64),
    Rows(Rows),
}

impl Value {
    pub(super) fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Position(position) => position,
            Self::Rows(rows) => &**rows,
        }
    }
}

/// A statement over the rows as they were.
pub(super) struct AsOf {
    /// The tails as tables, read once however often they are looked into: `WITH …`.
    pub(super) with: String,
    /// Its text.
    pub(super) rows: String,
    /// The placeholders of the moment and of the boundary before it.
    pub(super) place: String,
    pub(super) from: String,
    /// What it gets beside its own parameters.
    pub(super) values: Vec<Value>,
}

/// What a statement's tables are replaced by.
struct Sources {
    /// The placeholders of the moment and of the boundary before it.
    moment: String,
    boundary: String,
    /// The names of the folded tails.
    tails: HashMap<Model, String>,
}

impl Queries {
    /// A statement as of a moment.
    pub(super) async fn as_of(
        &self,
        tenant: &TenantId,
        sql: &Sql,
        moment: u64,
    ) -> Result<AsOf, QueryError> {
        let mut models = models_of(&sql.text);
        models.extend(sql.page().map(|page| page.model));
        models.sort_unstable_by_key(|model| *model as u8);
        models.dedup();
        let own = sql.parameters().len();
        let mut values =
            vec![Value::Position(bigint(moment)), Value::Position(bigint(boundary(moment)))];
        let (mut tails, mut with) = (HashMap::new(), Vec::new());
        for (model, rows) in self.tails(tenant, &models, moment).await? {
            values.push(Value::Rows(rows));
            let (tail, place) = (format!("tail_{model}"), own + values.len());
            with.push(format!(
                "{tail} AS MATERIALIZED (SELECT {} FROM
                 json_populate_recordset(NULL::read.{model}, ${place}::text::json))",
                with_model!(model, projection => names_of(&projection))
            ));
            tails.insert(model, tail);
        }
        let with =
            if with.is_empty() { String::new() } else { format!("WITH {}", with.join(", ")) };
        let place = |nth: usize| format!("${}::bigint", own + nth);
        let sources = Sources { moment: place(1), boundary: place(2), tails };
        Ok(AsOf {
            with,
            rows: sources.replace(sql),
            place: sources.moment,
            from: sources.boundary,
            values,
        })
    }

    /// The tails of some models: kept ones, or folded anew from one read of the log.
    async fn tails(
        &self,
        tenant: &TenantId,
        models: &[Model],
        moment: u64,
    ) -> Result<Vec<(Model, Rows)>, QueryError> {
        let mut events = None;
        let mut tails = Vec::new();
        for model in models.iter().copied() {
            let of = (tenant.clone(), model, moment);
            if with_model!(model, projection => writes_once(&projection)) {
                continue;
            }
            if let Some(rows) = self.past.get(&of) {
                tails.push((model, rows));
                continue;
            }
            if events.is_none() {
                events = Some(self.since_boundary(tenant, moment).await?);
            }
            let since = events.as_deref().unwrap_or_default();
            let folded = with_model!(model, projection => self.tail(tenant, projection, since, moment).await);
            let rows: Rows = Arc::new(folded?);
            self.past.keep(of, &rows);
            tails.push((model, rows));
        }
        Ok(tails)
    }

    /// A tenant's events between the boundary before a moment and the moment.
    async fn since_boundary(
        &self,
        tenant: &TenantId,
        moment: u64,
    ) -> Result<Vec<Arc<Recorded>>, QueryError> {
        let mut sql = Sql::new(format!("SELECT {RECORDED_COLUMNS} FROM events e"));
        sql.with(" WHERE e.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND e.position > #", bigint(boundary(moment)));
        sql.with(" AND e.position <= # ORDER BY e.position", bigint(moment));
        let rows = self.run(tenant, &sql, &sql.text, &[]).await?;
        rows.iter().map(|row| Ok(recorded_from_row(row)?)).collect()
    }

    /// Folds the events since the boundary over the rows that stood there.
    async fn tail<P: Projection>(
        &self,
        tenant: &TenantId,
        projection: P,
        events: &[Arc<Recorded>],
        moment: u64,
    ) -> Result<String, QueryError> {
        let from = boundary(moment);
        let parked = self.parked::<P>(tenant).await?;
        let numbers = self.numbers_at::<P>(tenant, from, events).await?;
        let mut tail = Tail::<P>::plan(events, parked, numbers);
        let keys = tail.keys();
        let stood = sources(&projection, "$3::bigint", "$3::bigint", None);
        let mut sql = Sql::new(format!(
            "SELECT k.nth, t.doc, t.at FROM unnest($2::{}[]) WITH ORDINALITY k(key, nth)
             CROSS JOIN LATERAL (SELECT doc, at FROM {stood} t
                                 WHERE t.tenant = $1 AND t.key = k.key) t",
            <P::Key as Key>::KIND.unnested()
        ));
        sql.bind(tenant.as_str().to_owned());
        sql.bind_boxed(<P::Key as Key>::KIND.array(keys.iter().map(|key| key.cell())));
        sql.bind(bigint(from));
        for row in self.run(tenant, &sql, &sql.text, &[]).await? {
            let nth = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
            let Some(key) = nth.checked_sub(1).and_then(|at| keys.get(at)) else { continue };
            let stored = read_row::<P>(row.try_get(1)?);
            let stored = stored.map_err(|error| QueryError::Row(error.to_string()))?;
            let at = u64::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0);
            tail.stood(tenant, key, stored, at);
        }
        Ok(tail.fold(&projection).to_string())
    }

    /// The streams of a tenant that stand still for a model.
    async fn parked<P: Projection>(
        &self,
        tenant: &TenantId,
    ) -> Result<HashMap<StreamKey, Parked>, QueryError> {
        let mut sql = Sql::new("SELECT stream_id, position FROM read.parked p");
        sql.with(" WHERE p.model = #", P::NAME);
        sql.with(" AND p.tenant = #", tenant.as_str().to_owned());
        let mut parked = HashMap::new();
        for row in self.run(tenant, &sql, &sql.text, &[]).await? {
            let position = u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0);
            let at = Parked { position, reason: String::new(), skipped: 0, changed: false };
            parked.insert((tenant.clone(), row.try_get(0)?), at);
        }
        Ok(parked)
    }

    /// The last number that a tenant's streams had been given at a boundary.
    async fn numbers_at<P: Projection>(
        &self,
        tenant: &TenantId,
        from: u64,
        events: &[Arc<Recorded>],
    ) -> Result<Numbers, QueryError> {
        let Some(kind) = P::NUMBERED.filter(|_| Numbers::count_on::<P>(events)) else {
            return Ok(Numbers::default());
        };
        // Streams whose first event is not folded have no row; they are few, and count.
        let mut sql = Sql::new(format!(
            "WITH last AS (
                 SELECT created, number FROM (
                     (SELECT created, number FROM read.{0} WHERE tenant = $1 AND NOT archived
                        AND created <= $2 ORDER BY created DESC LIMIT 1)
                     UNION ALL
                     (SELECT created, number FROM read.{0} WHERE tenant = $1 AND archived
                        AND created <= $2 ORDER BY created DESC LIMIT 1)
                     UNION ALL SELECT 0, 0) known
                 ORDER BY created DESC LIMIT 1)
             SELECT l.number + CASE WHEN EXISTS (SELECT FROM read.parked p
                                                 WHERE p.model = '{0}' AND p.tenant = $1)
                 THEN (SELECT count(*) FROM events e WHERE e.tenant = $1 AND e.version = 1
                       AND e.stream_type = '{kind}' AND e.position > l.created
                       AND e.position <= $2) ELSE 0 END
             FROM last l",
            P::NAME
        ));
        sql.bind(tenant.as_str().to_owned());
        sql.bind(bigint(from));
        let rows = self.run(tenant, &sql, &sql.text, &[]).await?;
        let last = rows.first().map(|row| super::position_of(row, 0)).transpose()?;
        Ok(Numbers::after(tenant, last.unwrap_or_default()))
    }
}

impl Sources {
    /// The statement with every table of a read model replaced.
    fn replace(&self, sql: &Sql) -> String {
        let (Some(page), Some((before, rest))) = (sql.page(), sql.text.split_once(PAGE)) else {
            return self.tables(&sql.text);
        };
        let (body, after) = rest.split_once(PAGE_END).unwrap_or((rest, ""));
        let body = self.tables(body);
        // Each source is read in the list's order by its own index, and only so far.
        let parts = with_model!(page.model, projection => {
            parts(&projection, &self.moment, &self.boundary, self.tail(page.model))
        });
        let parts: Vec<String> =
            parts.iter().map(|part| format!("({})", body.replace(ROWS, part))).collect();
        format!(
            "{}SELECT * FROM ({}) page ORDER BY created DESC LIMIT {}{}",
            self.tables(before),
            parts.join(" UNION ALL "),
            page.limit,
            self.tables(after)
        )
    }

    fn tail(&self, model: Model) -> Option<&str> {
        self.tails.get(&model).map(String::as_str)
    }

    fn tables(&self, text: &str) -> String {
        let mut pieces = text.split("read.");
        let mut out = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let name = name_of(piece);
            if name == "checkpoints" {
                out.push_str(&format!(
                    "(SELECT model, {}::bigint AS position, 0::bigint AS generation
                      FROM unnest('{{{}}}'::text[]) model)",
                    self.moment,
                    Model::ALL.map(Model::as_str).join(",")
                ));
            } else if let Ok(model) = name.parse::<Model>() {
                out.push_str(&with_model!(model, projection => {
                    sources(&projection, &self.moment, &self.boundary, self.tail(model))
                }));
            } else {
                out.push_str("read.");
                out.push_str(name);
            }
            out.push_str(&piece[name.len()..]);
        }
        out
    }
}

/// The read models that a statement names.
fn models_of(text: &str) -> Vec<Model> {
    text.split("read.").skip(1).filter_map(|piece| name_of(piece).parse().ok()).collect()
}

fn name_of(piece: &str) -> &str {
    let end = piece.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(piece.len());
    &piece[..end]
}

fn names_of<P: Projection>(_: &P) -> String {
    column_names::<P>()
}

fn writes_once<P: Projection>(_: &P) -> bool {
    P::WRITE_ONCE
}

/// A model's rows as of a moment, as one table.
fn sources<P: Projection>(model: &P, moment: &str, from: &str, tail: Option<&str>) -> String {
    format!("({})", parts(model, moment, from, tail).join(" UNION ALL "))
}

/// The same as tables that have no row in common.
fn parts<P: Projection>(_: &P, moment: &str, from: &str, tail: Option<&str>) -> Vec<String> {
    let (name, columns, at) = (P::NAME, column_names::<P>(), P::AT);
    if P::WRITE_ONCE {
        return vec![format!("(SELECT {columns} FROM read.{name} WHERE {at} <= {moment})")];
    }
    // Says nothing new, but bounds the walk of an index by `created`.
    let created = P::COLUMNS.iter().any(|c| c.name == "created" && c.kind == ColumnKind::Int);
    let created = if created { format!(" AND created <= {from}") } else { String::new() };
    let checked =
        columns.replace(", doc,", &format!(", past.sound('{name}', doc, at, until, sum) AS doc,"));
    let mut parts = vec![
        format!("(SELECT {columns} FROM read.{name} WHERE at <= {from}{created})"),
        format!(
            "(SELECT {checked} FROM past.{name}
              WHERE int8range(at, until) @> {moment} AND at <= {from})"
        ),
    ];
    if let Some(tail) = tail {
        parts.push(format!("(SELECT {columns} FROM {tail})"));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_the_longest_unused_goes_first() {
        let kept = Kept::default();
        let of = |moment| (TenantId::default_tenant(), Model::Tasks, moment);
        let rows = |length: usize| Rows::new("x".repeat(length));
        for moment in 0..10 {
            kept.keep(of(moment), &rows(KEPT_BYTES / 8));
            assert!(kept.get(&of(0)).is_some(), "asked for again and again");
        }
        assert!(kept.get(&of(1)).is_none() && kept.get(&of(9)).is_some());
        kept.keep(of(9), &rows(3));
        assert_eq!(kept.get(&of(9)).map(|rows| rows.len()), Some(3));
        let sum: usize =
            (0..10).filter_map(|n| kept.get(&of(n))).map(|r| r.len() + ENTRY_BYTES).sum();
        assert_eq!(kept.tails.lock().bytes, sum);
        assert!(sum <= KEPT_BYTES);
        kept.spoilt(Model::Tasks);
        assert!(kept.get(&of(9)).is_none());
        assert_eq!(kept.tails.lock().bytes, 0);
    }
}
