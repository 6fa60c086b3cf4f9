//! The statements that load and write a model's rows, and their parameters.

use domain::{TenantId, Timestamp};
use tokio_postgres::types::ToSql;

use super::fold::Rows;
use super::storage::{Checkpoint, Schema, document};
use super::{Cell, Column, ColumnKind, Key, Numbers, Projection};

pub(super) fn load_sql<P: Projection>(schema: Schema) -> String {
    format!(
        "SELECT k.nth, t.doc, t.at
         FROM unnest($1::text[], $2::{}[]) WITH ORDINALITY k(tenant, key, nth)
         JOIN {}.{} t ON t.tenant = k.tenant AND t.key = k.key",
        <P::Key as Key>::KIND.unnested(),
        schema.as_str(),
        P::NAME
    )
}

/// Moves the checkpoint alone.
pub(super) fn pass_sql(schema: Schema) -> String {
    format!(
        "UPDATE {}.checkpoints SET position = $4, recorded_at = $5, updated_at = clock_timestamp()
         WHERE model = $1 AND position = $2 AND generation = $3 RETURNING 1",
        schema.as_str()
    )
}

/// Moves the checkpoint and, only if that succeeds, deletes and upserts from arrays; the
/// numbers of a model that counts go with them, and past versions where there are any.
pub(super) fn write_sql<P: Projection>(schema: Schema, with_past: bool) -> String {
    let (live, past, name) = (schema.as_str(), schema.past(), P::NAME);
    let key = <P::Key as Key>::KIND.unnested();
    let mut next = 6;
    let rows = Arrays::next::<P>(&mut next, position_column::<P>());
    let updates = if P::WRITE_ONCE {
        String::new()
    } else {
        let updates = columns::<P>().map(|column| format!("{0} = EXCLUDED.{0}", column.name));
        let updates: Vec<String> = updates.collect();
        format!("ON CONFLICT (tenant, key) DO UPDATE SET {}", updates.join(", "))
    };
    let (gone_tenants, gone_keys) = (next, next + 1);
    next += 2;
    let mut more = String::new();
    if P::NUMBERED.is_some() {
        more = format!(
            ",
         counted AS (
             INSERT INTO {live}.numbers (model, tenant, last)
             SELECT $1, n.tenant, n.last FROM unnest(${next}::text[], ${}::bigint[]) n(tenant, last)
             WHERE EXISTS (SELECT FROM moved)
             ON CONFLICT (model, tenant) DO UPDATE SET last = EXCLUDED.last)",
            next + 1
        );
        next += 2;
    }
    if with_past {
        let Arrays { names, places, values } = Arrays::next::<P>(&mut next, &[AT, UNTIL]);
        more.push_str(&format!(
            ",
         passed AS (
             INSERT INTO {past}.{name} ({names}, sum)
             SELECT {values}, {CHECKSUM} FROM unnest({places}) u({names})
             WHERE EXISTS (SELECT FROM moved))"
        ));
    }
    let Arrays { names, places, values } = rows;
    format!(
        "WITH moved AS (
             UPDATE {live}.checkpoints
             SET position = $4, recorded_at = $5, updated_at = clock_timestamp()
             WHERE model = $1 AND position = $2 AND generation = $3
             RETURNING 1),
         gone AS (
             DELETE FROM {live}.{name} t
             USING unnest(${gone_tenants}::text[], ${gone_keys}::{key}[]) d(tenant, key)
             WHERE t.tenant = d.tenant AND t.key = d.key AND EXISTS (SELECT FROM moved)),
         kept AS (
             INSERT INTO {live}.{name} ({names})
             SELECT {values} FROM unnest({places}) u({names})
             WHERE EXISTS (SELECT FROM moved)
             {updates}){more}
         SELECT FROM moved"
    )
}

/// The document of a row.
const DOCUMENT: Column = Column::new("doc", ColumnKind::Text);
/// The position that made a row so.
const AT: Column = Column::new("at", ColumnKind::Int);
/// The position that replaced a past version.
const UNTIL: Column = Column::new("until", ColumnKind::Int);
/// What a past version's document is checked by when it is read.
const CHECKSUM: &str = "hashtextextended(u.doc, u.at # u.until)";

/// What a row keeps beside what the fold makes of it: nothing where its key says it.
fn position_column<P: Projection>() -> &'static [Column] {
    if P::AT == AT.name { &[AT] } else { &[] }
}

/// The columns of a live row behind tenant and key, in the order of the parameters.
pub(super) fn columns<P: Projection>() -> impl Iterator<Item = &'static Column> {
    let document = P::DOCUMENT.then_some(&DOCUMENT);
    document.into_iter().chain(P::COLUMNS).chain(position_column::<P>())
}

/// The columns of a live row, as a list of names.
pub(crate) fn column_names<P: Projection>() -> String {
    let names: Vec<&str> = columns::<P>().map(|column| column.name).collect();
    format!("tenant, key, {}", names.join(", "))
}

/// Rows as one array per column.
struct Arrays {
    names: String,
    places: String,
    values: String,
}

impl Arrays {
    /// The next parameters: tenant, key, document, the model's columns and some more.
    fn next<P: Projection>(next: &mut usize, more: &'static [Column]) -> Self {
        let (tenants, keys) = (*next, *next + 1);
        *next += 2;
        let mut names = String::from("tenant, key");
        let mut places =
            format!("${tenants}::text[], ${keys}::{}[]", <P::Key as Key>::KIND.unnested());
        let mut values = String::from("u.tenant, u.key");
        let document = P::DOCUMENT.then_some(&DOCUMENT);
        for column in document.into_iter().chain(P::COLUMNS).chain(more) {
            names.push_str(&format!(", {}", column.name));
            places.push_str(&format!(", ${next}::{}[]", column.kind.unnested()));
            values.push_str(&format!(", u.{}{}", column.name, column.kind.cast()));
            *next += 1;
        }
        Self { names, places, values }
    }
}

/// The parameters of [`write_sql`], or of [`pass_sql`], which are the first of them.
pub(super) struct Values(Vec<Box<dyn ToSql + Sync + Send>>);

impl Values {
    pub(super) fn of<P: Projection>(
        from: Checkpoint,
        to: (u64, Timestamp),
        rows: &Rows<P>,
        numbers: &Numbers,
    ) -> Self {
        let mut kept: Vec<_> = Vec::new();
        let mut gone: Vec<_> = Vec::new();
        for ((tenant, key), slot) in rows.iter().filter(|(_, slot)| slot.touched) {
            match &slot.row {
                Some(row) => kept.push((tenant, key, row, slot.at)),
                None if slot.stored => gone.push((tenant, key)),
                None => {}
            }
        }
        // The same order in every batch keeps index pages warm and two writers from
        // waiting for each other in a circle.
        kept.sort_unstable_by_key(|(tenant, key, ..)| (*tenant, *key));
        let mut values = Self::checkpoint::<P>(from, to);
        values.rows::<P>(&kept.iter().map(|(t, k, row, _)| (*t, *k, *row)).collect::<Vec<_>>());
        if !position_column::<P>().is_empty() {
            values.push(kept.iter().map(|(.., at)| *at as i64).collect::<Vec<_>>());
        }
        values.push(gone.iter().map(|(tenant, _)| tenant.to_string()).collect::<Vec<_>>());
        values.0.push(<P::Key as Key>::KIND.array(gone.iter().map(|(_, key)| key.cell())));
        if P::NUMBERED.is_some() {
            let (tenants, last) = numbers.to_write();
            values.push(tenants);
            values.push(last);
        }
        values
    }

    /// The past versions among the rows behind them.
    pub(super) fn and_past<P: Projection>(mut self, rows: &Rows<P>) -> Self {
        let mut past: Vec<_> = rows
            .iter()
            .flat_map(|((tenant, key), slot)| slot.past.iter().map(move |one| (tenant, key, one)))
            .collect();
        past.sort_unstable_by_key(|(tenant, key, one)| (*tenant, *key, one.at));
        self.rows::<P>(&past.iter().map(|(t, k, one)| (*t, *k, &one.row)).collect::<Vec<_>>());
        self.push(past.iter().map(|(.., one)| one.at as i64).collect::<Vec<_>>());
        self.push(past.iter().map(|(.., one)| one.until as i64).collect::<Vec<_>>());
        self
    }

    fn push(&mut self, values: impl ToSql + Sync + Send + 'static) {
        self.0.push(Box::new(values));
    }

    fn rows<P: Projection>(&mut self, rows: &[(&TenantId, &P::Key, &P::Row)]) {
        self.push(rows.iter().map(|(tenant, ..)| tenant.to_string()).collect::<Vec<_>>());
        self.0.push(<P::Key as Key>::KIND.array(rows.iter().map(|(_, key, _)| key.cell())));
        if P::DOCUMENT {
            self.push(rows.iter().map(|(.., row)| document(row)).collect::<Vec<_>>());
        }
        let mut cells: Vec<_> =
            rows.iter().map(|(_, key, row)| P::index(key, row).into_iter()).collect();
        for column in P::COLUMNS {
            let next = cells.iter_mut().map(|row| row.next().unwrap_or(Cell::Text(None)));
            self.0.push(column.kind.array(next));
        }
    }

    pub(super) fn checkpoint<P: Projection>(from: Checkpoint, to: (u64, Timestamp)) -> Self {
        Self(vec![
            Box::new(P::NAME),
            Box::new(from.position as i64),
            Box::new(from.generation),
            Box::new(to.0 as i64),
            Box::new(to.1),
        ])
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)).collect()
    }
}
