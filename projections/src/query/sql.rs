//! SQL put together from the filters that were given.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Model, QueryError};

/// The column at which a page's own columns begin, behind those of the checkpoint.
pub(crate) const FIRST: usize = 4;

/// A statement with its parameters; every text in it is ours, every value a parameter.
pub(crate) struct Sql {
    pub(crate) text: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
    order: &'static str,
    one_shape: bool,
}

/// What holds for one transaction: whose rows are seen, and for how long one may ask.
const SETTINGS: &str = "SELECT set_config('app.tenant', $1, true),
                               set_config('statement_timeout', '10s', true)";
/// The same for statements whose best plan does not depend on their values: planning them
/// anew each time costs more than running them.
const SETTINGS_OF_ONE_SHAPE: &str = "SELECT set_config('app.tenant', $1, true),
                                            set_config('statement_timeout', '10s', true),
                                            set_config('plan_cache_mode', 'force_generic_plan', true)";

impl Sql {
    /// A statement without values.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new(), order: "", one_shape: false }
    }

    /// Keeps a value; yields its placeholder.
    pub(crate) fn bind(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
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

    /// The statement that goes before it in its transaction; its parameter is the tenant.
    pub(crate) fn settings(&self) -> &'static str {
        if self.one_shape { SETTINGS_OF_ONE_SHAPE } else { SETTINGS }
    }

    pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)).collect()
    }

    /// The page beside the lowest checkpoint of some models, their lag and the head.
    pub(crate) fn beside_checkpoint(mut self, models: &[Model]) -> Self {
        let names: Vec<&str> = models.iter().map(|model| model.as_str()).collect();
        let names = names.join("', '");
        let order = if self.order.is_empty() { "" } else { " ORDER BY " };
        self.text = format!(
            "SELECT c.position,
                    CASE WHEN c.position >= h.position THEN 0
                         ELSE coalesce(greatest(0, extract(epoch FROM clock_timestamp()
                                  - read.recorded_at(c.position + 1)) * 1000), 0)::bigint END,
                    h.position, p.*
             FROM (SELECT coalesce(min(position), 0) AS position
                   FROM read.checkpoints WHERE model IN ('{names}')) c
             CROSS JOIN (SELECT position FROM log_head WHERE shard = 0) h
             LEFT JOIN (SELECT true AS here, page.* FROM ({}) page) p ON true{order}{}",
            self.text, self.order
        );
        self
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
