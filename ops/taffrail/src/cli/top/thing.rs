//! One thing in full: a queue's head, a task with its reasons, an operation.

use ratatui::text::{Line, Span};
use serde_json::Value;

use super::super::human::gist;
use super::super::table::{Paint, printable};
use super::draw::Looks;
use super::lists::age;
use super::model::{Look, Queue, percentile, short, shown};
use super::state::Detail;

/// Longest value of a field that is shown.
const LONGEST: usize = 2_000;

/// What is above a queue's tasks.
pub fn queue(queue: &Queue, answer: &Value, looks: Looks) -> Vec<Line<'static>> {
    let dim = |text: &str| looks.span(text, Paint::Dim);
    let paint = if queue.state == "active" { Paint::Plain } else { Paint::Yellow };
    let mut first = vec![dim("state "), looks.span(queue.state.clone(), paint)];
    let why = shown(answer, "state_reason");
    if !why.is_empty() {
        first.push(Span::raw(format!(" ({why})")));
    }
    first.push(dim("  waiting by priority "));
    let names = ["critical", "high", "normal", "low", "background"];
    let counts = names.iter().zip(queue.by_priority).filter(|(_, count)| *count > 0);
    let counts: Vec<_> = counts.map(|(name, count)| format!("{name} {}", short(count))).collect();
    first.push(Span::raw(if counts.is_empty() { "none".into() } else { counts.join(", ") }));
    let second = vec![
        dim("wait p50 "),
        Span::raw(percentile(queue.wait, |l| l.p50)),
        dim(" p99 "),
        Span::raw(percentile(queue.wait, |l| l.p99)),
        dim("  run p50 "),
        Span::raw(percentile(queue.run, |l| l.p50)),
        dim(" p99 "),
        Span::raw(percentile(queue.run, |l| l.p99)),
    ];
    vec![first.into(), second.into()]
}

/// `name  value` lines, as far as there is a value.
struct Fields {
    lines: Vec<Line<'static>>,
    looks: Looks,
}

impl Fields {
    fn put(&mut self, name: &str, value: String, paint: Paint) {
        if !matches!(value.as_str(), "" | "[]" | "{}" | "null") {
            let name = self.looks.span(format!("{name:<13}"), Paint::Dim);
            self.lines.push(Line::from(vec![name, self.looks.span(value, paint)]));
        }
    }
}

/// A task, and why it stands where it does.
pub fn task(detail: &Detail, look: &Look, looks: Looks) -> Vec<Line<'static>> {
    let task = &detail.main;
    let mut fields = Fields { lines: Vec::new(), looks };
    fields.put("title", shown(task, "title"), Paint::Plain);
    let state = shown(task, "state");
    fields.put("state", state.clone(), Paint::of(&state));
    let priority = shown(task, "priority");
    fields.put("priority", priority.clone(), Paint::of(&priority));
    for name in ["queue", "type"] {
        fields.put(name, shown(task, name), Paint::Plain);
    }
    let attempts = format!("{} of {}", shown(task, "attempt"), shown(task, "max_attempts"));
    fields.put("attempt", attempts, Paint::Plain);
    let agent = task["agent_id"].as_str().unwrap_or_default();
    let known = look.agents.iter().find(|one| one.id == agent);
    fields.put("agent", known.map_or(agent.to_owned(), |one| one.name.clone()), Paint::Plain);
    fields.put("submitted", format!("{} ago", age(task, "created_at", look)), Paint::Plain);
    for name in ["progress", "result", "error", "payload"] {
        let paint = if name == "error" { Paint::Red } else { Paint::Plain };
        fields.put(name, printable(&gist(&task[name], LONGEST), false), paint);
    }
    fields.put("id", shown(task, "id"), Paint::Dim);
    let mut lines = fields.lines;
    lines.push(Line::default());
    lines.push(Line::from(looks.strong("why")));
    for reason in detail.more["reasons"].as_array().into_iter().flatten() {
        let code = looks.span(shown(reason, "code"), Paint::Yellow);
        lines.push(Line::from(vec![
            Span::raw("  "),
            code,
            Span::raw(format!("  {}", shown(reason, "message"))),
        ]));
        let release = shown(reason, "release");
        if !release.is_empty() {
            lines.push(Line::from(looks.span(format!("    until: {release}"), Paint::Dim)));
        }
    }
    lines
}

/// An operation.
pub fn operation(detail: &Detail, looks: Looks) -> Vec<Line<'static>> {
    let operation = &detail.main;
    let mut fields = Fields { lines: Vec::new(), looks };
    let state = shown(operation, "state");
    fields.put("kind", shown(operation, "kind"), Paint::Plain);
    fields.put("state", state.clone(), Paint::of(&state));
    for name in ["resource", "progress", "result", "problem"] {
        let paint = if name == "problem" { Paint::Red } else { Paint::Plain };
        fields.put(name, printable(&gist(&operation[name], LONGEST), false), paint);
    }
    for name in ["created_at", "updated_at", "id"] {
        fields.put(name, shown(operation, name), Paint::Dim);
    }
    fields.lines
}
