//! What the expressions of a queue's limits look at, and what they say of a task.
//!
//! They are evaluated when a task is submitted and when it is updated, under the policy
//! of that time: the answer follows from the log, and a new expression counts the tasks
//! that come after it. The payload is looked at only where an expression names it.

use std::sync::Arc;

use domain::Json;
use domain::task::{TaskSubmitted, TaskUpdated};
use serde_json::{Value, json};

use super::entry::Entry;
use super::rules::Expression;
use super::waiting::Queue;

/// Evaluates the queue's expressions for a new task.
pub(super) fn submitted(entry: &mut Entry, new: &TaskSubmitted, queue: Option<&Queue>) {
    let Some(expressions) = expressions(queue) else { return };
    let facts = json!({
        "title": new.title,
        "type": new.kind,
        "queue": new.queue,
        "priority": new.priority,
        "capabilities": new.capabilities,
        "labels": new.labels,
        "assignees": new.assignees,
        "parent_id": new.parent_id,
        "concurrency_key": new.concurrency_key,
        "payload": payload(expressions, &new.payload),
    });
    entry.values = values(expressions, &facts);
    entry.facts = Some(Box::new(facts));
}

/// What the expressions say once a task is changed; what they look at changes with it.
pub(super) fn updated(
    entry: &mut Entry,
    changes: &TaskUpdated,
    queue: Option<&Queue>,
) -> Vec<(Arc<str>, Arc<str>)> {
    let expressions = expressions(queue).unwrap_or_default();
    let Some(facts) = entry.facts.as_deref_mut() else { return vec![] };
    if let Some(payload) = changes.payload.as_ref().map(|new| payload(expressions, new)) {
        facts["payload"] = payload;
    }
    let fields = [
        ("title", changes.title.as_ref().map(|new| json!(new))),
        ("priority", changes.priority.map(|new| json!(new))),
        ("capabilities", changes.capabilities.as_ref().map(|new| json!(new))),
        ("labels", changes.labels.as_ref().map(|new| json!(new))),
        ("assignees", changes.assignees.as_ref().map(|new| json!(new))),
    ];
    for (name, new) in fields {
        if let Some(new) = new {
            facts[name] = new;
        }
    }
    values(expressions, facts)
}

fn expressions(queue: Option<&Queue>) -> Option<&[Expression]> {
    queue.map(|queue| &*queue.rules.expressions).filter(|all| !all.is_empty())
}

fn payload(expressions: &[Expression], payload: &Json) -> Value {
    let wanted = expressions.iter().any(|expression| expression.text.contains("payload"));
    let read = wanted.then(|| serde_json::from_str(payload.as_str()).ok()).flatten();
    read.unwrap_or_default()
}

fn values(expressions: &[Expression], facts: &Value) -> Vec<(Arc<str>, Arc<str>)> {
    let value = |expression: &Expression| {
        Some((expression.text.clone(), expression.program.value(facts)?.into()))
    };
    expressions.iter().filter_map(value).collect()
}
