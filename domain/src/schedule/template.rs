//! The task that a schedule submits.

use serde_json::Value;

use crate::decide::Timestamp;
use crate::json::{self, Json};
use crate::macros::Body;
use crate::problem::FieldError;
use crate::recorded::Recorded;
use crate::task::SubmitTask;

/// A task's body. Texts of its payload that are a placeholder and nothing else are filled in
/// for each firing: `{{run}}`, `{{slot_at}}`, and `{{event}}` or `{{event.payload.title}}`
/// for schedules that fire on events.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    task: SubmitTask,
    has_placeholders: bool,
}

/// What placeholders stand for.
#[derive(Debug, Clone)]
pub struct Filling {
    /// The number of the firing.
    pub run: u64,
    /// The slot, or the time of the firing where it has none.
    pub slot_at: Timestamp,
    /// The event that fired it, as [`Filling::event_of`] shows it.
    pub event: Option<Value>,
}

impl Template {
    /// Reads and checks a template; `on_event` says whether the schedule fires on events,
    /// where that is known.
    ///
    /// # Errors
    /// The faulty fields, with pointers from the template.
    pub fn parse(body: &Json, on_event: Option<bool>) -> Result<Self, Vec<FieldError>> {
        let task: SubmitTask = json::read(body.as_str().as_bytes()).map_err(|fault| vec![fault])?;
        task.check()?;
        let fixed = |name: &str| {
            let text = format!("`{name}` would be the same instant for every firing");
            FieldError::new(format!("/{name}"), "not_in_template", text)
        };
        let mut faults: Vec<FieldError> = Vec::new();
        faults.extend(task.run_at.map(|_| fixed("run_at")));
        faults.extend(task.due_at.map(|_| fixed("due_at")));
        let mut has_placeholders = false;
        if task.payload.as_str().contains("{{") {
            let payload: Value = task.payload.read().unwrap_or_default();
            look(&payload, "/payload", &mut |pointer, name| {
                has_placeholders = true;
                if on_event == Some(false) && is_event(name) {
                    let text = "only a schedule that fires on events has an event";
                    faults.push(FieldError::new(pointer, "no_event", text));
                }
            });
        }
        if faults.is_empty() { Ok(Self { task, has_placeholders }) } else { Err(faults) }
    }

    /// Whether a firing has to know its event.
    pub fn has_placeholders(&self) -> bool {
        self.has_placeholders
    }

    /// The task of one firing.
    ///
    /// # Errors
    /// When what was filled in makes the task too large.
    pub fn fill(&self, with: &Filling) -> Result<SubmitTask, Vec<FieldError>> {
        let mut task = self.task.clone();
        if self.has_placeholders {
            // Numbers go through JSON's usual types here: beyond 64 bits they lose digits.
            let mut payload: Value = task.payload.read().unwrap_or_default();
            replace(&mut payload, with);
            task.payload = Json::of(&payload);
            task.check()?;
        }
        Ok(task)
    }
}

impl Filling {
    /// An event as conditions and placeholders see it.
    pub fn event_of(event: &Recorded) -> Value {
        let payload: Value = serde_json::from_slice(&event.payload).unwrap_or_default();
        serde_json::json!({
            "position": event.position,
            "type": format!("{}.{}", event.stream_type, event.event_type),
            "stream_type": event.stream_type.as_str(),
            "stream_id": event.stream_id,
            "version": event.version,
            "actor": &*event.actor,
            "occurred_at": event.occurred_at,
            "payload": payload,
        })
    }
}

/// The name in a text that is a placeholder of ours; other texts in braces stay as they are.
fn placeholder(text: &str) -> Option<&str> {
    let name = text.strip_prefix("{{")?.strip_suffix("}}")?.trim();
    (matches!(name, "run" | "slot_at") || is_event(name)).then_some(name)
}

fn is_event(name: &str) -> bool {
    name == "event" || name.starts_with("event.")
}

fn look(value: &Value, at: &str, found: &mut impl FnMut(String, &str)) {
    match value {
        Value::String(text) => {
            if let Some(name) = placeholder(text) {
                found(at.to_owned(), name);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                look(inner, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, inner) in fields {
                look(inner, &format!("{at}/{}", json::escaped(name)), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn replace(value: &mut Value, with: &Filling) {
    match value {
        Value::String(text) => {
            let filled = match placeholder(text) {
                Some("run") => Value::from(with.run),
                Some("slot_at") => serde_json::json!(with.slot_at),
                Some(name) => {
                    let steps = name.split('.').skip(1);
                    let place = |at: Option<Value>, step: &str| at?.get(step).cloned();
                    steps.fold(with.event.clone(), place).unwrap_or_default()
                }
                None => return,
            };
            *value = filled;
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| replace(inner, with)),
        Value::Object(fields) => fields.values_mut().for_each(|inner| replace(inner, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
