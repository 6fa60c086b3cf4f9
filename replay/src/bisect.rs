//! The first position at which something became true.
//!
//! A condition on the rows of a read model holds at a moment when it holds for a row. Between
//! a moment at which it does not hold and a later one at which it does, halving finds the
//! event after which it held: a look at the middle only needs the rows that changed since the
//! last moment known not to hold. Kept past versions tell of times at which it held and does
//! no more, so the first of several flips is found, as far as it lasted over a boundary.

use chrono::TimeDelta;
use domain::expression::Condition;
use domain::{TenantId, Timestamp};
use projections::engine::INTERVAL;
use projections::{Model, Queries, QueryError, Shown};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Positions whose rows are looked at in one go: all rows, and those of some states.
const WINDOW: (u64, u64) = (16_384, 262_144);
/// What a condition calls the row that it looks at.
pub const VARIABLE: &str = "row";
/// The states in which a task has not come to an end.
const OPEN: [&str; 6] = ["inbox", "queued", "assigned", "in_progress", "blocked", "review"];

/// What to look for.
#[derive(Debug)]
pub enum Predicate {
    /// Some row of a model for which a condition holds.
    Row(Model, Condition),
    /// A task that has not ended and has not moved for longer than this.
    Stuck(TimeDelta),
}

/// Where something became true.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Found {
    /// The first position at which it is true; null where it is not true at the end of the
    /// range, nor was at a boundary within.
    pub position: Option<u64>,
    /// It was true where the range begins already.
    pub already: bool,
    /// It is true at every later moment that was looked at, the range's end among them.
    pub monotone: bool,
    /// How far apart the moments are between which a shorter flip would not be seen.
    pub resolution: u64,
    /// Moments at which rows were looked at.
    pub looks: u32,
    /// Rows that were looked at.
    pub rows: u64,
    /// The row for which it became true, and that row before.
    pub row: Option<Flipped>,
}

/// A row for which the condition began to hold.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Flipped {
    /// The read model.
    pub model: String,
    /// What names the row.
    pub key: String,
    /// The row one position earlier; null where there was none.
    #[schema(value_type = domain::Json)]
    pub before: Value,
    /// The row.
    #[schema(value_type = domain::Json)]
    pub after: Value,
}

/// Finds the first position behind `from`, up to `to`, at which a predicate is true.
///
/// # Errors
/// When the database cannot be reached.
pub async fn bisect(
    queries: &Queries,
    tenant: &TenantId,
    predicate: &Predicate,
    (from, to): (u64, u64),
) -> Result<Found, QueryError> {
    let mut search = Search { queries, tenant, predicate, looks: 0, rows: 0 };
    if let Some(row) = search.any(0, from).await? {
        return Ok(search.found(Some(from), true, true, row_of(predicate, Value::Null, row)));
    }
    let at_end = search.any(from, to).await?.is_some();
    // The earliest boundary at which a version stood that has been replaced since.
    let past = search.first_past(from, to).await?;
    let Some(mut high) = past.or(at_end.then_some(to)) else {
        return Ok(search.found(None, false, false, None));
    };
    let mut low = from;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match search.any(low, middle).await? {
            Some(_) => high = middle,
            None => low = middle,
        }
    }
    let row = search.any(low, high).await?;
    let row = match row {
        Some(row) => {
            let before = queries.at(low).row(tenant, predicate.model(), &row.key).await?;
            row_of(predicate, before.unwrap_or_default(), row)
        }
        None => None,
    };
    Ok(search.found(Some(high), false, at_end, row))
}

fn row_of(predicate: &Predicate, before: Value, row: Shown) -> Option<Flipped> {
    let model = predicate.model().as_str().into();
    Some(Flipped { model, key: row.key, before, after: row.row })
}

impl Predicate {
    fn model(&self) -> Model {
        match self {
            Self::Row(model, _) => *model,
            Self::Stuck(_) => Model::Tasks,
        }
    }

    /// The states of the rows for which it can be true, where it names some.
    fn states(&self) -> Vec<String> {
        match self {
            // What a model keeps as its state is what it shows, but for agents: `busy` is
            // told by tasks.
            Self::Row(Model::Tasks | Model::Operations | Model::Nodes | Model::Schedules, c) => {
                c.demands("state").unwrap_or_default()
            }
            Self::Row(_, _) => Vec::new(),
            Self::Stuck(_) => OPEN.map(str::to_owned).to_vec(),
        }
    }

    /// Whether a row that did not change can make it true: by the passing of time.
    fn ages(&self) -> bool {
        matches!(self, Self::Stuck(_))
    }

    fn holds(&self, row: &Value, now: Option<Timestamp>) -> bool {
        match self {
            Self::Row(_, condition) => {
                let seen = condition
                    .fields()
                    .iter()
                    .filter_map(|name| row.get(name).map(|value| (name.clone(), value.clone())));
                condition.holds(&Value::Object(seen.collect::<Map<_, _>>()))
            }
            Self::Stuck(longest) => {
                let moved = row["updated_at"].as_str().and_then(|text| text.parse().ok());
                let (Some(moved), Some(now)) = (moved, now) else { return false };
                let moved: Timestamp = moved;
                now - moved > *longest
            }
        }
    }
}

impl Found {
    /// The answer of a search that looked at every event.
    pub fn at(position: Option<u64>) -> Self {
        Self {
            position,
            already: false,
            monotone: true,
            resolution: 1,
            looks: 1,
            rows: 0,
            row: None,
        }
    }
}

struct Search<'a> {
    queries: &'a Queries,
    tenant: &'a TenantId,
    predicate: &'a Predicate,
    looks: u32,
    rows: u64,
}

impl Search<'_> {
    fn found(
        self,
        position: Option<u64>,
        already: bool,
        monotone: bool,
        row: Option<Flipped>,
    ) -> Found {
        let Self { looks, rows, .. } = self;
        Found { position, already, monotone, resolution: INTERVAL, looks, rows, row }
    }

    /// A row for which it is true at a moment; only rows that changed behind `since` are
    /// looked at, where no other can make it so.
    async fn any(&mut self, since: u64, moment: u64) -> Result<Option<Shown>, QueryError> {
        self.looks += 1;
        if moment == 0 {
            return Ok(None);
        }
        let (queries, model) = (self.queries.at(moment), self.predicate.model());
        let now = match self.predicate.ages() {
            true => self.queries.recorded_at(moment).await?,
            false => None,
        };
        let states = self.predicate.states();
        let mut at = if self.predicate.ages() { 0 } else { since };
        while at < moment {
            let until = at.saturating_add(width(&states)).min(moment);
            let rows = queries.rows_between(self.tenant, model, (at, until), &states).await?;
            self.rows += rows.len() as u64;
            let found = rows.into_iter().find(|shown| self.predicate.holds(&shown.row, now));
            if found.is_some() {
                return Ok(found);
            }
            at = until;
        }
        Ok(None)
    }

    /// The first boundary at which a version stood for which it was true and which was
    /// replaced within the range.
    async fn first_past(&mut self, from: u64, to: u64) -> Result<Option<u64>, QueryError> {
        let (model, states) = (self.predicate.model(), self.predicate.states());
        if self.predicate.ages() {
            return Ok(None);
        }
        self.looks += 1;
        let mut at = from;
        while at < to {
            let begun = (at, at.saturating_add(width(&states)).min(to));
            let rows =
                self.queries.versions_between(self.tenant, model, begun, to, &states).await?;
            self.rows += rows.len() as u64;
            let first = rows.into_iter().find(|shown| self.predicate.holds(&shown.row, None));
            if let Some(first) = first {
                return Ok(Some(first.at.next_multiple_of(INTERVAL)));
            }
            at = begun.1;
        }
        Ok(None)
    }
}

/// An index finds the rows of some states, so more positions fit into one go.
fn width(states: &[String]) -> u64 {
    if states.is_empty() { WINDOW.0 } else { WINDOW.1 }
}
