//! Two moments held against each other: what appeared, vanished and changed, field by field.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::TenantId;
use projections::{Model, Move, Moves, Queries, QueryError};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Which two moments, and how much to tell.
#[derive(Debug, Clone)]
pub struct DiffAsked {
    /// The earlier position.
    pub from: u64,
    /// The later one.
    pub to: u64,
    /// One read model alone; all but the audit where none is named.
    pub model: Option<Model>,
    /// Rows to tell of each model.
    pub limit: usize,
    /// Rows whose last change lies behind this position: a next page of one model.
    pub behind: Option<u64>,
}

/// What is different between two moments.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Diff {
    /// The earlier moment.
    pub from: Moment,
    /// The later one.
    pub to: Moment,
    /// The events in between by type; the tenant's own.
    pub events: BTreeMap<String, u64>,
    /// The read models in which something is different.
    pub models: Vec<ModelDiff>,
}

/// A moment of the log.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Moment {
    /// Its last position.
    pub position: u64,
    /// When the event there was recorded.
    pub recorded_at: Option<DateTime<Utc>>,
}

/// What is different in a read model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelDiff {
    /// Its name.
    pub model: String,
    /// Rows that were not there.
    pub appeared: u64,
    /// Rows that were there and that an event touched, also where it left them as they were.
    pub changed: u64,
    /// Rows that are there no more.
    pub vanished: u64,
    /// Some of them, in the order of their last change.
    pub rows: Vec<RowDiff>,
    /// The `behind` of the next rows of this model; null where these are all.
    pub next: Option<u64>,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RowDiff {
    /// What names it: an id, or the name of a queue.
    pub key: String,
    /// `appeared`, `changed` or `vanished`.
    pub change: RowChange,
    /// The position of its last change; absent where it vanished.
    pub position: Option<u64>,
    /// The fields that differ, with a path where they are parts of others.
    pub fields: BTreeMap<String, FieldDiff>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words say it")]
pub enum RowChange {
    Appeared,
    Changed,
    Vanished,
}

/// A field at both moments; null also where it was not there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FieldDiff {
    /// At the earlier moment.
    #[schema(value_type = domain::Json)]
    pub from: Value,
    /// At the later one.
    #[schema(value_type = domain::Json)]
    pub to: Value,
}

/// Compares two moments.
///
/// # Errors
/// When the database cannot be reached.
pub async fn diff(
    queries: &Queries,
    tenant: &TenantId,
    asked: &DiffAsked,
) -> Result<Diff, QueryError> {
    let DiffAsked { from, to, model, limit, behind } = *asked;
    let models: Vec<Model> = match model {
        Some(model) => vec![model],
        // One line per event: the events are counted instead.
        None => Model::ALL.into_iter().filter(|model| *model != Model::Audit).collect(),
    };
    let each = models.iter().map(|model| queries.moves(tenant, *model, (from, to), limit, behind));
    let moves = futures::future::try_join_all(each);
    let (moves, events) = futures::try_join!(moves, queries.event_counts(tenant, from, to))?;
    let models = models
        .into_iter()
        .zip(moves)
        .filter(|(_, moves)| *moves != Moves::default())
        .map(|(model, moves)| of_model(model, moves))
        .collect();
    let (from, to) = (moment(queries, from).await?, moment(queries, to).await?);
    Ok(Diff { from, to, events, models })
}

async fn moment(queries: &Queries, position: u64) -> Result<Moment, QueryError> {
    Ok(Moment { position, recorded_at: queries.recorded_at(position).await? })
}

fn of_model(model: Model, moves: Moves) -> ModelDiff {
    let Moves { appeared, changed, vanished, rows, next } = moves;
    let rows = rows.into_iter().filter_map(of_row).collect();
    ModelDiff { model: model.as_str().into(), appeared, changed, vanished, rows, next }
}

/// None where the row is as it was.
fn of_row(moved: Move) -> Option<RowDiff> {
    let Move { key, before, after } = moved;
    let change = match (&before, &after) {
        (None, None) => return None,
        (None, Some(_)) => RowChange::Appeared,
        (Some(_), None) => RowChange::Vanished,
        (Some(_), Some(_)) => RowChange::Changed,
    };
    let (position, after) = after.map(|shown| (shown.at, shown.row)).unzip();
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let mut fields = BTreeMap::new();
    differ(String::new(), before, after, &mut fields);
    (!fields.is_empty()).then_some(RowDiff { key, change, position, fields })
}

/// Collects the fields that differ; objects are gone into, lists are told as a whole.
fn differ(path: String, from: Value, to: Value, fields: &mut BTreeMap<String, FieldDiff>) {
    match (from, to) {
        (from, to) if from == to => {}
        (Value::Object(mut from), Value::Object(to)) => {
            let under = |name: &str| {
                if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
            };
            for (name, to) in to {
                let from = from.remove(&name).unwrap_or_default();
                differ(under(&name), from, to, fields);
            }
            for (name, from) in from {
                differ(under(&name), from, Value::Null, fields);
            }
        }
        // A row that appeared or vanished: each of its fields.
        (Value::Null, Value::Object(to)) if path.is_empty() => {
            differ(path, Value::Object(Default::default()), Value::Object(to), fields);
        }
        (Value::Object(from), Value::Null) if path.is_empty() => {
            differ(path, Value::Object(from), Value::Object(Default::default()), fields);
        }
        (from, to) => {
            fields.insert(path, FieldDiff { from, to });
        }
    }
}

#[cfg(test)]
mod tests {
    use projections::Shown;
    use serde_json::json;

    use super::*;

    fn row(before: Option<Value>, after: Option<Value>) -> Option<RowDiff> {
        let after = after.map(|row| Shown { key: "k".into(), at: 7, row });
        of_row(Move { key: "k".into(), before, after })
    }

    #[test]
    fn a_row_is_told_by_the_fields_that_differ() {
        let before = json!({ "state": "queued", "labels": { "a": "1", "b": "2" }, "ids": [1] });
        let after = json!({ "state": "done", "labels": { "a": "1" }, "ids": [1, 2] });
        let told = row(Some(before.clone()), Some(after)).expect("different");
        assert_eq!((told.change, told.position), (RowChange::Changed, Some(7)));
        let names: Vec<&str> = told.fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["ids", "labels.b", "state"]);
        assert_eq!(told.fields["labels.b"], FieldDiff { from: json!("2"), to: Value::Null });
        assert_eq!(row(Some(before.clone()), Some(before.clone())), None, "as it was");

        let appeared = row(None, Some(json!({ "state": "queued", "note": null }))).expect("new");
        assert_eq!(appeared.change, RowChange::Appeared);
        assert_eq!(appeared.fields.len(), 1, "what is null was not there either");
        let gone = row(Some(before), None).expect("gone");
        assert_eq!((gone.change, gone.position), (RowChange::Vanished, None));
    }
}
