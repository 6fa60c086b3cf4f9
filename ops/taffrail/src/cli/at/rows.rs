//! What an event touched: the rows before and after it, and which of their fields it changed.

use serde_json::{Map, Value, json};

use super::super::human::text;
use super::super::table::printable;

/// Rows that are shown of one event; what it names beyond is found by `w`.
const MOST: usize = 6;
/// Fields that every event moves: they say nothing about it.
const BOOKKEEPING: [&str; 5] = ["position", "version", "updated_at", "updated_position", "etag"];

/// The log at a position.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// The event's position.
    pub position: u64,
    /// The log's head when it was asked for.
    pub head: u64,
    /// The event as a CloudEvent.
    pub event: Value,
    /// Lines of the audit around it, oldest first.
    pub lines: Vec<Value>,
    /// The rows that it touched.
    pub rows: Vec<RowAt>,
}

/// A row that somebody keeps an eye on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub kind: &'static str,
    /// What the API calls it.
    pub id: String,
}

/// A row at a position and at the one before.
#[derive(Debug, Clone, Default)]
pub struct RowAt {
    pub kind: &'static str,
    /// By which it was asked for.
    pub id: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// Why it cannot be shown.
    pub problem: Option<String>,
}

/// What became of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Same,
    Changed,
    Appeared,
    Gone,
}

/// A field before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub before: String,
    pub after: String,
    pub change: Change,
    /// Every event moves it.
    pub usual: bool,
}

impl RowAt {
    /// What people call it.
    pub fn name(&self) -> String {
        let row = self.after.as_ref().or(self.before.as_ref());
        let named = row.map(|row| match self.kind {
            "task" => text(row, "number"),
            "operation" => text(row, "kind"),
            _ => text(row, "name"),
        });
        let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| self.id.clone());
        let name = if self.kind == "task" && name.bytes().all(|b| b.is_ascii_digit()) {
            format!("TASK-{name}")
        } else {
            name
        };
        printable(&name, false)
    }

    /// Its fields: what changed first, then the rest, then what every event moves.
    pub fn fields(&self) -> Vec<Field> {
        let (before, after) = (flat(self.before.as_ref()), flat(self.after.as_ref()));
        let mut names: Vec<&String> = after.iter().map(|(name, _)| name).collect();
        names.extend(
            before
                .iter()
                .map(|(name, _)| name)
                .filter(|name| !after.iter().any(|(known, _)| known == *name)),
        );
        let value = |row: &[(String, String)], name: &str| {
            row.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let mut fields: Vec<Field> = names
            .into_iter()
            .map(|name| {
                let (before, after) = (value(&before, name), value(&after, name));
                let change = match (&before, &after) {
                    (Some(before), Some(after)) if before == after => Change::Same,
                    (None, _) => Change::Appeared,
                    (_, None) => Change::Gone,
                    (Some(_), Some(_)) => Change::Changed,
                };
                let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
                let usual = BOOKKEEPING.contains(&name.as_str());
                Field { name: name.clone(), before, after, change, usual }
            })
            .collect();
        // Nothing that stayed nothing.
        fields.retain(|field| {
            field.change != Change::Same || !matches!(field.after.as_str(), "" | "[]" | "{}")
        });
        fields.sort_by_key(|field| (field.change == Change::Same, field.usual));
        fields
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let fields = self.fields();
        let changed = fields.iter().filter(|field| field.change != Change::Same);
        json!({
            "kind": self.kind,
            "id": self.id,
            "name": self.name(),
            "before": self.before,
            "after": self.after,
            "changed": changed.map(|field| field.name.clone()).collect::<Vec<_>>(),
            "problem": self.problem,
        })
    }
}

/// A document as fields: objects by their paths, lists as they are, nothing that is null.
fn flat(row: Option<&Value>) -> Vec<(String, String)> {
    fn walk(prefix: &str, fields: &Map<String, Value>, into: &mut Vec<(String, String)>) {
        for (name, value) in fields {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Null => {}
                Value::Object(below) if !below.is_empty() && below.len() <= 12 => {
                    walk(&name, below, into);
                }
                Value::String(text) => into.push((name, printable(text, false))),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    into.push((name, printable(&value.to_string(), false)));
                }
            }
        }
    }
    let mut fields = Vec::new();
    if let Some(Value::Object(row)) = row {
        walk("", row, &mut fields);
    }
    fields
}

/// What an event's own stream is a row of, and what else it names.
pub fn touched(event: &Value) -> Vec<Watched> {
    let data = &event["data"];
    let kind = stream_type(event);
    let subject = text(event, "subject");
    let mut rows = Vec::new();
    let mut put = |kind: &'static str, id: String| {
        let row = Watched { kind, id };
        if !row.id.is_empty() && !rows.contains(&row) && rows.len() < MOST {
            rows.push(row);
        }
    };
    match kind.as_str() {
        "task" => put("task", subject),
        "agent" => put("agent", subject),
        "operation" => put("operation", subject),
        "schedule" => put("schedule", subject),
        "node" => put("node", subject),
        // These are asked for by name.
        "queue" => put("queue", text(data, "queue")),
        "profile" => put("profile", text(data, "name")),
        _ => {}
    }
    for (field, kind) in [
        ("agent_id", "agent"),
        ("task_id", "task"),
        ("queue", "queue"),
        ("parent_id", "task"),
        ("node_id", "node"),
        ("operation", "operation"),
        ("schedule_id", "schedule"),
    ] {
        put(kind, text(data, field));
    }
    let resource = &data["resource"];
    match resource["kind"].as_str() {
        Some("task") => put("task", text(resource, "id")),
        Some("agent") => put("agent", text(resource, "id")),
        Some("queue") => put("queue", text(resource, "id")),
        Some(_) | None => {}
    }
    rows
}

/// `task` of `dev.taffrail.task.submitted.v1`.
pub fn stream_type(event: &Value) -> String {
    short_type(event).split('.').next().unwrap_or_default().to_owned()
}

/// `task.submitted` of `dev.taffrail.task.submitted.v1`.
pub fn short_type(event: &Value) -> String {
    let kind = text(event, "type");
    let kind = kind.strip_prefix("dev.taffrail.").unwrap_or(&kind);
    printable(kind.rsplit_once(".v").map_or(kind, |(name, _)| name), false)
}
