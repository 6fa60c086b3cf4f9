//! The graph as a tree for people: what happened on one line, when, by whom and through which
//! command on the next.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::human::{duration, text};
use super::super::table::{Paint, painted, printable};

/// An answer of `GET /v1/time/why` as the trees draw it.
pub(super) struct Graph<'a> {
    pub nodes: Vec<&'a Value>,
    names: &'a Value,
    /// By the position of what they hang on.
    below: BTreeMap<u64, Vec<&'a Value>>,
}

impl<'a> Graph<'a> {
    pub fn of(answer: &'a Value) -> Self {
        let nodes: Vec<&Value> = answer["nodes"].as_array().into_iter().flatten().collect();
        let mut below: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
        for node in &nodes {
            if let Some(from) = node["from"].as_u64() {
                below.entry(from).or_default().push(node);
            }
        }
        Self { nodes, names: &answer["names"], below }
    }

    pub fn roots(&self) -> impl Iterator<Item = &&'a Value> {
        self.nodes.iter().filter(|node| node["from"].is_null())
    }

    /// What hangs on an entry; a refusal has nothing below it.
    pub fn below(&self, node: &Value) -> &[&'a Value] {
        if node["refused"] == true {
            return &[];
        }
        let at = node["position"].as_u64().unwrap_or_default();
        self.below.get(&at).map(Vec::as_slice).unwrap_or_default()
    }

    /// What an entry's stream is called.
    pub fn name(&self, node: &Value) -> String {
        let id = node["stream_id"].as_str().unwrap_or_default();
        let kind = text(node, "stream_type");
        match self.names[id].as_str() {
            Some(name) if kind == "task" => printable(name, false),
            Some(name) => format!("{kind} {}", printable(name, false)),
            None => format!("{kind} {id}"),
        }
    }

    /// A text in which the ids of known things are their names.
    pub fn named(&self, text: &str) -> String {
        let mut told = text.to_owned();
        for (id, name) in self.names.as_object().into_iter().flatten() {
            if let Some(name) = name.as_str().filter(|_| told.contains(id.as_str())) {
                told = told.replace(id.as_str(), name);
            }
        }
        printable(&told, false)
    }

    /// Who asked, by name.
    pub fn actor(&self, node: &Value) -> String {
        self.named(&text(node, "actor")).replacen("agent:", "agent ", 1)
    }
}

/// The colour of an entry by what it tells.
fn paint(node: &Value) -> Paint {
    if node["refused"] == true {
        return Paint::Red;
    }
    let kind = text(node, "type");
    let word = kind.rsplit('.').next().unwrap_or_default();
    match word {
        "completed" | "succeeded" | "approved" | "ready" => Paint::Green,
        "failed" | "attempt_failed" | "dead_lettered" | "lease_expired" | "quarantined"
        | "submit_failed" | "escalated" | "overdue" => Paint::Red,
        _ => Paint::Cyan,
    }
}

/// The whole tree.
pub fn tree(answer: &Value, width: Option<u16>, colour: bool) -> String {
    let graph = Graph::of(answer);
    let mut lines = Vec::new();
    if let Some(earlier) = answer["earlier"].as_u64() {
        let text = format!("earlier events are left out: taffrail why {earlier}");
        lines.push(painted(&text, Paint::Yellow, colour));
    }
    let width = width.map_or(usize::MAX, usize::from);
    let writer = Writer { graph: &graph, width, colour };
    for (index, root) in graph.roots().enumerate() {
        if index > 0 {
            lines.push(String::new());
        }
        lines.push(writer.origin(root));
        writer.entry(root, "", true, None, &mut lines);
    }
    lines.join("\n") + "\n"
}

struct Writer<'a> {
    graph: &'a Graph<'a>,
    /// Columns: a summary is cut there, so that the tree stays one.
    width: usize,
    colour: bool,
}

impl Writer<'_> {
    fn dim(&self, text: &str) -> String {
        painted(text, Paint::Dim, self.colour)
    }

    /// Where a tree begins: the command and whoever gave it, or what lies beyond.
    fn origin(&self, root: &Value) -> String {
        if let Some(cause) = root["cause"].as_u64() {
            let text = format!("caused by {cause}, further up: taffrail why {cause}");
            return painted(&text, Paint::Yellow, self.colour);
        }
        let mut said = format!(
            "{} asked for `{}`",
            self.graph.actor(root),
            printable(&text(root, "command"), false)
        );
        for (name, field) in [("with", "credential"), ("in request", "request_id")] {
            let value = text(root, field);
            if !value.is_empty() {
                said.push_str(&format!(", {name} {}", printable(&value, false)));
            }
        }
        said
    }

    fn entry(
        &self,
        node: &Value,
        indent: &str,
        last: bool,
        above: Option<&Value>,
        lines: &mut Vec<String>,
    ) {
        let followed = node["link"] == "followed";
        let branch = match (followed, last) {
            (false, false) => "├─",
            (false, true) => "└─",
            (true, false) => "├╌",
            (true, true) => "└╌",
        };
        let mark = if node["asked"] == true { "▶" } else { " " };
        let (kind, name) = (printable(&text(node, "type"), false), self.graph.name(node));
        let start = format!("{indent}{branch}{mark}{}  ", text(node, "position"));
        let used = start.chars().count() + kind.chars().count() + name.chars().count() + 4;
        let room = self.width.saturating_sub(used).max(16);
        let mut summary = self.graph.named(&text(node, "summary"));
        if let Some((cut, _)) = summary.char_indices().nth(room.saturating_sub(1))
            && summary.chars().nth(room).is_some()
        {
            summary.truncate(cut);
            summary.push('…');
        }
        let kind = painted(&kind, paint(node), self.colour);
        lines.push(format!("{start}{kind}  {name}  {summary}"));
        let below = self.graph.below(node);
        let more = node["more_after"].as_u64();
        let indent = format!("{indent}{}", if last { "   " } else { "│  " });
        let bar = if below.is_empty() && more.is_none() { "    " } else { "│   " };
        lines.push(format!("{indent}{bar}{}", self.dim(&self.when(node, above))));
        for (index, child) in below.iter().enumerate() {
            let last = index + 1 == below.len() && more.is_none();
            self.entry(child, &indent, last, Some(node), lines);
        }
        if let Some(after) = more {
            let place = text(node, "position");
            let text = format!("more came of it: taffrail why {place} --after {after}");
            lines.push(format!("{indent}└─ {}", painted(&text, Paint::Yellow, self.colour)));
        }
    }

    /// When, by whom, through which command.
    fn when(&self, node: &Value, above: Option<&Value>) -> String {
        let at = time(node);
        let mut said = match (above.and_then(time), at) {
            (Some(before), Some(at)) => {
                let passed = at.signed_duration_since(before);
                match passed.to_std() {
                    Ok(passed) => format!("+{}", duration(passed)),
                    Err(_) => text(node, "occurred_at"),
                }
            }
            (_, Some(at)) => at.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
            (_, None) => String::new(),
        };
        if above.is_some_and(|above| above["command_id"] == node["command_id"]) {
            return format!("{said} · of the same command");
        }
        said.push_str(&format!(" · {}", self.graph.actor(node)));
        said.push_str(&format!(
            " · {} {}",
            printable(&text(node, "command"), false),
            text(node, "command_id")
        ));
        said
    }
}

fn time(node: &Value) -> Option<chrono::DateTime<chrono::Utc>> {
    let text = node["occurred_at"].as_str()?;
    Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dot;
    use super::*;

    const TASK: &str = "0192d3c4-5b6a-7c8d-9e0f-112233445566";
    const ADA: &str = "0192d3c4-5b6a-7c8d-9e0f-aabbccddeeff";

    fn node(position: u64, kind: &str, actor: &str, summary: &str) -> Value {
        json!({
            "position": position, "refused": false, "type": kind, "stream_type": "task",
            "stream_id": TASK, "actor": actor, "summary": summary,
            "command": kind.rsplit('.').next(), "command_id": format!("c{position}"),
            "occurred_at": format!("2026-01-01T00:00:0{}Z", position % 10),
            "cause": null, "from": null, "link": "root", "asked": false, "more_after": null,
        })
    }

    fn answer() -> Value {
        let mut submitted = node(41, "task.submitted", "alice", "submitted to default: \"plants\"");
        submitted["credential"] = json!("token:00000000000000aa");
        submitted["asked"] = json!(true);
        submitted["more_after"] = json!(44);
        let mut assigned =
            node(42, "task.assigned", "manager:scheduler", &format!("assigned to {ADA}: idle"));
        (assigned["from"], assigned["link"], assigned["cause"]) =
            (json!(41), json!("caused"), json!(41));
        let mut started = node(43, "task.started", &format!("agent:{ADA}"), "started");
        (started["from"], started["link"]) = (json!(42), json!("followed"));
        let mut refused =
            node(44, "task.cancel", "manager:subtasks", "cancel refused: no\u{1b}[2J");
        (refused["from"], refused["link"], refused["refused"]) =
            (json!(41), json!("caused"), json!(true));
        json!({
            "nodes": [submitted, assigned, started, refused],
            "names": { TASK: "TASK-7", ADA: "ada" },
            "earlier": null, "position": 50,
        })
    }

    #[test]
    fn a_tree_tells_what_happened_and_through_whom() {
        insta::assert_snapshot!(tree(&answer(), None, false), @r#"
        alice asked for `submitted`, with token:00000000000000aa
        └─▶41  task.submitted  TASK-7  submitted to default: "plants"
           │   2026-01-01 00:00:01.000Z · alice · submitted c41
           ├─ 42  task.assigned  TASK-7  assigned to ada: idle
           │  │   +1.0 s · manager:scheduler · assigned c42
           │  └╌ 43  task.started  TASK-7  started
           │         +1.0 s · agent ada · started c43
           ├─ 44  task.cancel  TASK-7  cancel refused: no[2J
           │      +3.0 s · manager:subtasks · cancel c44
           └─ more came of it: taffrail why 41 --after 44
        "#);
    }

    #[test]
    fn a_summary_is_cut_at_the_screens_edge() {
        let narrow = tree(&answer(), Some(60), false);
        let first = narrow.lines().nth(1).unwrap();
        assert!(first.ends_with('…') && first.chars().count() == 60, "{first}");
    }

    #[test]
    fn a_graph_quotes_what_people_wrote() {
        let text = dot::graph(&answer());
        assert!(text.starts_with("digraph why {\n") && text.ends_with("}\n"), "{text}");
        assert!(text.contains(r#"submitted to default: \"plants\""#), "{text}");
        assert!(!text.contains('\u{1b}'));
        for edge in ["n41 -> n42;", "n42 -> n43 [style=dashed", "n41 -> r44", "n41 -> m41"] {
            assert!(text.contains(edge), "{edge} in {text}");
        }
        assert!(text.contains("asked41 -> n41"), "the command stands above: {text}");
    }
}
