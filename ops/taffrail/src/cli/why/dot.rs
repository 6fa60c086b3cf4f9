//! The graph in Graphviz' language.

use serde_json::Value;

use super::super::human::text;
use super::tree::Graph;

/// Longest line of a label, in characters: a title must not make the picture a banner.
const WIDEST: usize = 60;

/// The whole graph, from top to bottom: who asked as an oval, events as boxes, refusals red,
/// recorded causes as lines, mere order within a stream dashed.
pub fn graph(answer: &Value) -> String {
    let graph = Graph::of(answer);
    let mut lines = vec![
        "digraph why {".to_owned(),
        "  rankdir=TB; node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=11];"
            .into(),
        "  edge [fontname=\"sans-serif\", fontsize=9];".into(),
    ];
    for node in &graph.nodes {
        lines.push(box_of(&graph, node));
        lines.extend(above(&graph, node));
        if let Some(after) = node["more_after"].as_u64() {
            let (own, at) = (own(node), text(node, "position"));
            let label = label(&[format!("more: taffrail why {at} --after {after}")]);
            lines.push(format!("  m{at} [shape=plaintext, label={label}];"));
            lines.push(format!("  {own} -> m{at} [style=dotted];"));
        }
    }
    lines.push("}".into());
    lines.join("\n") + "\n"
}

/// The name of an entry within the graph. Refusals share positions, their commands tell them
/// apart.
fn own(node: &Value) -> String {
    let at = text(node, "position");
    if node["refused"] == true {
        let id: String =
            text(node, "command_id").chars().filter(char::is_ascii_alphanumeric).collect();
        format!("r{at}_{id}")
    } else {
        format!("n{at}")
    }
}

fn box_of(graph: &Graph<'_>, node: &Value) -> String {
    let label = label(&[
        format!("{}  {}  {}", text(node, "position"), text(node, "type"), graph.name(node)),
        graph.named(&text(node, "summary")),
        format!("{} · {}", graph.actor(node), text(node, "occurred_at")),
        format!("{} {}", text(node, "command"), text(node, "command_id")),
    ]);
    let mut looks = String::new();
    if node["refused"] == true {
        looks.push_str(", color=red, fontcolor=red");
    }
    if node["asked"] == true {
        looks.push_str(", penwidth=2.5");
    }
    format!("  {} [label={label}{looks}];", own(node))
}

/// What an entry hangs on.
fn above(graph: &Graph<'_>, node: &Value) -> Vec<String> {
    let (own, at) = (own(node), text(node, "position"));
    if let Some(from) = node["from"].as_u64() {
        return vec![match node["link"].as_str() {
            Some("followed") => {
                format!("  n{from} -> {own} [style=dashed, label=\"then\"];")
            }
            _ => format!("  n{from} -> {own};"),
        }];
    }
    if let Some(cause) = node["cause"].as_u64() {
        let label = label(&[format!("further up: taffrail why {cause}")]);
        return vec![
            format!("  asked{at} [shape=plaintext, label={label}];"),
            format!("  asked{at} -> {own} [style=dotted];"),
        ];
    }
    let mut words = vec![format!("{} asked for {}", graph.actor(node), text(node, "command"))];
    words.extend([text(node, "credential"), text(node, "request_id")]);
    words.retain(|word| !word.is_empty());
    vec![
        format!("  asked{at} [shape=ellipse, style=solid, label={}];", label(&words)),
        format!("  asked{at} -> {own};"),
    ]
}

/// Lines as a quoted string: quotes and backslashes escaped, nothing that steers.
fn label(lines: &[String]) -> String {
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut short: String = line.chars().filter(|c| !c.is_control()).take(WIDEST).collect();
            if line.chars().nth(WIDEST).is_some() {
                short.push('…');
            }
            short.replace('\\', "\\\\").replace('"', "\\\"")
        })
        .collect();
    format!("\"{}\"", lines.join("\\n"))
}
