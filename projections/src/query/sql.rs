//! SQL put together from the filters that were given.

use std::borrow::Cow;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::past::AsOf;
use crate::{Model, QueryError};

/// The column at which a page's own columns begin, behind those of the checkpoint and the
/// mark that there is a row.
pub(crate) const FIRST: usize = 5;

/// A statement with its parameters; every text in it is ours, every value a parameter.
pub(crate) struct Sql {
    pub(crate) text: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
    order: &'static str,
    one_shape: bool,
    no_scan: bool,
    page: Option<Page>,
}

/// The part of a statement that reads a page of one model's rows, newest first; its text
/// stands between [`PAGE`] and [`PAGE_END`], with the model's rows at [`ROWS`].
#[derive(Clone)]
pub(super) struct Page {
    pub(super) model: Model,
    /// The placeholder of how many rows.
    pub(super) limit: String,
}

pub(super) const PAGE: &str = "{page}";
pub(super) const PAGE_END: &str = "{/page}";
pub(super) const ROWS: &str = "{rows}";

/// What holds for one transaction: whose rows are seen, and for how long one may ask.
const SETTINGS: &str = "SELECT set_config('app.tenant', $1, true),
                               set_config('statement_timeout', '10s', true)";
/// The same for statements whose best plan does not depend on their values: planning them
/// anew each time costs more than running them.
const SETTINGS_OF_ONE_SHAPE: &str = "SELECT set_config('app.tenant', $1, true),
                                            set_config('statement_timeout', '10s', true),
                                            set_config('plan_cache_mode', 'force_generic_plan', true)";

/// The same for what a block filter finds, whose worth the planner cannot know: it would read
/// the whole log instead.
const SETTINGS_WITHOUT_SCANS: &str = "SELECT set_config('app.tenant', $1, true),
                                             set_config('statement_timeout', '10s', true),
                                             set_config('enable_seqscan', 'off', true)";

impl Sql {
    /// A statement without values.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            values: Vec::new(),
            order: "",
            one_shape: false,
            no_scan: false,
            page: None,
        }
    }

    /// A page of a model's rows, which are `alias` in what follows; ends with
    /// [`Sql::newest`].
    pub(crate) fn page_of(model: Model, alias: &str, select: &str) -> Self {
        let page = Page { model, limit: String::new() };
        Self { page: Some(page), ..Self::new(format!("{PAGE}SELECT {select} FROM {ROWS} {alias}")) }
    }

    /// Ends a page: the newest rows that are left, and one more to see whether there is more.
    pub(crate) fn newest(&mut self, alias: &str, limit: usize) {
        let place = self.bind(limit as i64 + 1);
        self.push(&format!(" ORDER BY {alias}.created DESC LIMIT {place}{PAGE_END}"));
        if let Some(page) = &mut self.page {
            page.limit = place;
        }
    }

    /// Keeps a value; yields its placeholder.
    pub(crate) fn bind(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    /// Keeps a value that is boxed already.
    pub(super) fn bind_boxed(&mut self, value: Box<dyn ToSql + Sync + Send>) {
        self.values.push(value);
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds text around a value: `#` is its place.
    pub(crate) fn with(
        &mut self,
        text: &str,
        value: impl ToSql + Sync + Send + 'static,
    ) -> &mut Self {
        let place = self.bind(value);
        self.text.push_str(&text.replace('#', &place));
        self
    }

    /// The order in which the rows must arrive, over the page's columns as `p`.
    pub(crate) fn ordered(mut self, order: &'static str) -> Self {
        self.order = order;
        self
    }

    /// Its plan is the same whatever the values are.
    pub(crate) fn of_one_shape(mut self) -> Self {
        self.one_shape = true;
        self
    }

    /// It is to be answered by an index, whatever the planner thinks of it.
    pub(crate) fn without_scans(mut self) -> Self {
        self.no_scan = true;
        self
    }

    /// The statement that goes before it in its transaction; its parameter is the tenant.
    pub(crate) fn settings(&self) -> &'static str {
        match (self.no_scan, self.one_shape) {
            (true, _) => SETTINGS_WITHOUT_SCANS,
            (false, true) => SETTINGS_OF_ONE_SHAPE,
            (false, false) => SETTINGS,
        }
    }

    pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)).collect()
    }

    pub(super) fn page(&self) -> Option<&Page> {
        self.page.as_ref()
    }

    /// The text over the live rows.
    pub(super) fn live(&self) -> Cow<'_, str> {
        let Some(page) = &self.page else { return Cow::Borrowed(&self.text) };
        let text = self.text.replace(PAGE, "").replace(PAGE_END, "");
        Cow::Owned(text.replace(ROWS, &format!("read.{}", page.model)))
    }

    /// A statement's rows beside the lowest checkpoint of some models, their lag, the head and
    /// the highest of these checkpoints.
    pub(super) fn beside_checkpoint(&self, rows: &str, models: &[Model]) -> String {
        let names: Vec<&str> = models.iter().map(|model| model.as_str()).collect();
        let names = names.join("', '");
        format!(
            "SELECT c.position,
                    CASE WHEN c.position >= h.position THEN 0
                         ELSE coalesce(greatest(0, extract(epoch FROM clock_timestamp()
                                  - read.recorded_at(c.position + 1)) * 1000), 0)::bigint END,
                    h.position, c.furthest, p.*
             FROM (SELECT coalesce(min(position), 0) AS position,
                          coalesce(max(position), 0) AS furthest
                   FROM read.checkpoints WHERE model IN ('{names}')) c
             CROSS JOIN (SELECT position FROM log_head WHERE shard = 0) h
             LEFT JOIN (SELECT true AS here, page.* FROM ({rows}) page) p ON true{}",
            self.ordering()
        )
    }

    /// The same as of a moment, which is all four of them.
    pub(super) fn beside_moment(&self, AsOf { with, rows, place, from, .. }: &AsOf) -> String {
        // Every parameter must stand somewhere for its type to be known.
        format!(
            "{with} SELECT c.position, 0::bigint, c.position, c.position, p.*
             FROM (SELECT {place} AS position WHERE {place} >= {from}) c
             LEFT JOIN (SELECT true AS here, page.* FROM ({rows}) page) p ON true{}",
            self.ordering()
        )
    }

    fn ordering(&self) -> String {
        let order = if self.order.is_empty() { "" } else { " ORDER BY " };
        format!("{order}{}", self.order)
    }
}

/// A bigint that is never negative.
pub(crate) fn position_of(row: &Row, column: usize) -> Result<u64, QueryError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| QueryError::Row(format!("column {column} is negative")))
}

/// A position as the database keeps it; beyond its range there is nothing to find.
pub(crate) fn bigint(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
