//! `taffrail fork`

mod picture;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::fail::Failure;
use super::human::text;
use super::submit::{read_payload, seconds};
use super::{App, op};

/// `taffrail fork`
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// The last position that stays as it was; 0: everything is told once more
    #[arg(long, value_name = "POSITION")]
    from: u64,
    /// The last position that counts; the head when absent
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// What is different, as JSON, @FILE, or - for stdin: queues, retry, priorities, agents,
    /// lease_ms
    #[arg(long, value_name = "CHANGES")]
    set: Option<String>,
    /// Other agents: +2@ada two like ada, +2:gpu two that can do gpu, -bob without bob,
    /// ada=4 four slots for ada
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true)]
    agents: Vec<String>,
    /// What chance goes by
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw the comparison into this SVG file
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// At most so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// Does it.
pub async fn run(app: &App, args: ForkArgs) -> Result<(), Failure> {
    let mut changes = match &args.set {
        Some(set) => read_payload(set)?,
        None => json!({}),
    };
    if !changes.is_object() {
        return Err(Failure::Usage(
            "--set needs a JSON object, such as {\"lease_ms\": 5000}".into(),
        ));
    }
    for change in &args.agents {
        changed(&mut changes, change)?;
    }
    let mut asked = json!({ "from": args.from, "seed": args.seed, "changes": changes });
    if let Some(to) = args.to {
        asked["to"] = to.into();
    }
    let client = app.client()?;
    let answer = client.fork(&asked).await?;
    let operation = op::ended(app, &client, &answer, args.timeout).await?;
    let report = &operation["result"];
    if let Some(path) = &args.picture {
        std::fs::write(path, picture::draw(report)).map_err(|source| Failure::Io {
            what: format!("cannot write {}", path.display()),
            source,
        })?;
    }
    app.out.show(report, |out| {
        let mut shown = summary(report);
        shown.push('\n');
        shown.push_str(&out.table(&["", "HAPPENED", "WHAT IF", "DIFFERENCE"], rows(report)));
        let queues = queues(report);
        if queues.len() > 1 {
            shown.push('\n');
            let headers =
                ["QUEUE", "WAIT P50", "WHAT IF", "WAIT P99", "WHAT IF", "DONE", "WHAT IF"];
            shown.push_str(&out.table(&headers, queues.into_iter()));
        }
        shown.push('\n');
        let headers = ["AGENT", "TASKS", "WHAT IF", "BUSY", "WHAT IF"];
        shown.push_str(&out.table(&headers, agents(report)));
        shown.push_str(&control(report));
        let assumed = report["assumptions"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !assumed.is_empty() {
            shown.push_str("\nAssumed:\n");
        }
        for one in assumed {
            shown.push_str(&format!("  {} ({} times)\n", text(one, "what"), one["count"]));
        }
        shown
    })
}

/// Adds a word of `--agents` to the changes.
fn changed(changes: &mut Value, word: &str) -> Result<(), Failure> {
    let wrong = || {
        let said = "+COUNT, +COUNT@AGENT, +COUNT:CAPABILITY, -AGENT or AGENT=SLOTS is expected";
        Failure::Usage(format!("--agents {word}: {said}"))
    };
    let agents = &mut changes["agents"];
    if let Some(more) = word.strip_prefix('+') {
        let at = more.find(['@', ':']).unwrap_or(more.len());
        let count: u32 = more[..at].parse().map_err(|_| wrong())?;
        let mut added = json!({ "count": count });
        match (more.get(at..at + 1), more.get(at + 1..)) {
            (Some("@"), Some(like)) if !like.is_empty() => added["like"] = like.into(),
            (Some(":"), Some(can)) if !can.is_empty() => {
                added["capabilities"] = can.split(',').collect();
            }
            (Some(_), _) => return Err(wrong()),
            (None, _) => {}
        }
        return push(&mut agents["add"], added).ok_or_else(wrong);
    }
    if let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) {
        return push(&mut agents["remove"], name.into()).ok_or_else(wrong);
    }
    let (name, slots) = word.split_once('=').ok_or_else(wrong)?;
    let slots: u32 = slots.parse().map_err(|_| wrong())?;
    agents["slots"][name] = slots.into();
    Ok(())
}

fn push(list: &mut Value, value: Value) -> Option<()> {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()?.push(value);
    Some(())
}

fn summary(report: &Value) -> String {
    let (from, to) = (&report["from"], &report["to"]);
    let mut said = format!("fork {} of positions {from} to {to}\n", text(report, "fork_id"));
    let decisions = &report["decisions"];
    if report["left_at"].is_null() {
        let (same, different) = (&decisions["identical"], &decisions["different"]);
        let unknown = &decisions["unknown"];
        said.push_str(&match report["identical"].as_bool() {
            Some(true) => {
                format!("identical: {same} decisions made once more, {unknown} unknown\n")
            }
            Some(false) | None => {
                format!("not identical: {different} decisions come out differently\n")
            }
        });
        return said;
    }
    said.push_str(&format!("as it was up to position {}\n", report["left_at"]));
    let first = &report["first_difference"];
    if !first.is_null() {
        let who = |of: &str| {
            let (task, agent) =
                (text(first, &format!("/{of}/task_id")), text(first, &format!("/{of}/agent_id")));
            let agent = name_of(report, &agent);
            if task.is_empty() { "nothing".into() } else { format!("task {task} to agent {agent}") }
        };
        let at = text(first, "position");
        let at = if at.is_empty() {
            "behind the last assignment".into()
        } else {
            format!("at position {at}")
        };
        said.push_str(&format!(
            "first difference {at}: {} instead of {}\n",
            who("what_if"),
            who("happened")
        ));
    }
    let (same, other) =
        (&report["assignments"]["same_agent"], &report["assignments"]["other_agent"]);
    said.push_str(&format!("assignments: {same} to the same agent, {other} to another\n"));
    said
}

fn name_of(report: &Value, id: &str) -> String {
    let agents = report["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = agents.iter().find(|agent| agent["agent_id"] == id);
    known.map_or_else(|| id.to_owned(), |agent| text(agent, "name"))
}

/// How far the model is from what happened where nothing is changed.
fn control(report: &Value) -> String {
    let control = &report["control"];
    if control.is_null() {
        return String::new();
    }
    let wait = |p: &str| {
        time(control.pointer(&format!("/wait_ms/{p}")).and_then(Value::as_f64).unwrap_or_default())
    };
    format!(
        "\nThe model with nothing changed: wait p50 {}, p90 {}, p99 {}, {} completed; its distance from \
         what happened is its own error.\n",
        wait("p50"),
        wait("p90"),
        wait("p99"),
        control["completed"]
    )
}

/// Whether a figure is a count, a time in milliseconds or something else.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    Ms,
    PerSecond,
}

const ROWS: [(&str, &str, Unit); 17] = [
    ("submitted", "/submitted", Unit::Count),
    ("completed", "/completed", Unit::Count),
    ("failed", "/failed", Unit::Count),
    ("dead", "/dead", Unit::Count),
    ("cancelled", "/cancelled", Unit::Count),
    ("open at the end", "/open", Unit::Count),
    ("failed attempts", "/failed_attempts", Unit::Count),
    ("expired leases", "/expired_leases", Unit::Count),
    ("assignments", "/assigned", Unit::Count),
    ("wait p50", "/wait_ms/p50", Unit::Ms),
    ("wait p90", "/wait_ms/p90", Unit::Ms),
    ("wait p99", "/wait_ms/p99", Unit::Ms),
    ("wait max", "/wait_ms/max", Unit::Ms),
    ("run p50", "/run_ms/p50", Unit::Ms),
    ("run p99", "/run_ms/p99", Unit::Ms),
    ("throughput", "/throughput_per_s", Unit::PerSecond),
    ("waiting at the end", "/waiting", Unit::Count),
];

fn rows(report: &Value) -> impl Iterator<Item = Vec<String>> {
    let number = |of: &str, path: &str| {
        report.pointer(&format!("/{of}{path}")).and_then(Value::as_f64).unwrap_or_default()
    };
    let mut all: Vec<Vec<String>> = ROWS
        .iter()
        .map(|(name, path, unit)| {
            let (was, would) = (number("happened", path), number("what_if", path));
            vec![
                (*name).into(),
                figure(was, *unit),
                figure(would, *unit),
                difference(was, would, *unit),
            ]
        })
        .collect();
    let usage = report.pointer("/happened/usage").and_then(Value::as_object);
    for name in usage.into_iter().flat_map(serde_json::Map::keys) {
        let of = |side: &str| report[side]["usage"][name].as_f64().unwrap_or_default();
        let (was, would) = (of("happened"), of("what_if"));
        let unit = Unit::Count;
        all.push(vec![
            format!("usage: {name}"),
            figure(was, unit),
            figure(would, unit),
            difference(was, would, unit),
        ]);
    }
    all.into_iter()
}

fn queues(report: &Value) -> Vec<Vec<String>> {
    let queues = report["queues"].as_object();
    let row = |(name, pair): (&String, &Value)| {
        let of = |path: &str, unit| {
            let number =
                |side: &str| pair.pointer(&format!("/{side}{path}")).and_then(Value::as_f64);
            [number("happened"), number("what_if")].map(|n| figure(n.unwrap_or_default(), unit))
        };
        let columns = [
            of("/wait_ms/p50", Unit::Ms),
            of("/wait_ms/p99", Unit::Ms),
            of("/completed", Unit::Count),
        ];
        std::iter::once(name.clone()).chain(columns.into_iter().flatten()).collect()
    };
    queues.into_iter().flatten().map(row).collect()
}

fn agents(report: &Value) -> impl Iterator<Item = Vec<String>> {
    let agents = report["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    agents.iter().take(20).map(|agent| {
        let tasks = |side: &str| agent[side]["assigned"].to_string();
        let busy = |side: &str| {
            let share = agent[side]["utilisation"].as_f64().unwrap_or_default();
            format!("{:.0} %", 100.0 * share)
        };
        let added = if agent["added"] == true { " (added)" } else { "" };
        vec![
            format!("{}{added}", text(agent, "name")),
            tasks("happened"),
            tasks("what_if"),
            busy("happened"),
            busy("what_if"),
        ]
    })
}

fn figure(number: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => format!("{number:.0}"),
        Unit::Ms => time(number),
        Unit::PerSecond => format!("{number:.2}/s"),
    }
}

/// Milliseconds as people read them.
fn time(ms: f64) -> String {
    match ms.abs() {
        0.0..1_000.0 => format!("{ms:.0} ms"),
        1_000.0..120_000.0 => format!("{:.1} s", ms / 1e3),
        120_000.0..7_200_000.0 => format!("{:.1} min", ms / 6e4),
        _ => format!("{:.1} h", ms / 3.6e6),
    }
}

fn difference(was: f64, would: f64, unit: Unit) -> String {
    let by = would - was;
    if by == 0.0 {
        return "=".into();
    }
    let sign = if by > 0.0 { "+" } else { "-" };
    let share = if was == 0.0 {
        String::new()
    } else {
        format!(" ({sign}{:.0} %)", 100.0 * (by / was).abs())
    };
    format!("{sign}{}{share}", figure(by.abs(), unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_about_agents_become_changes() {
        let mut changes = json!({ "lease_ms": 5_000 });
        for word in ["+2@ada", "+1:gpu,py", "+3", "-bob", "eve=4"] {
            changed(&mut changes, word).expect(word);
        }
        let expected = json!({ "lease_ms": 5_000, "agents": {
            "add": [
                { "count": 2, "like": "ada" },
                { "count": 1, "capabilities": ["gpu", "py"] },
                { "count": 3 },
            ],
            "remove": ["bob"],
            "slots": { "eve": 4 },
        }});
        assert_eq!(changes, expected);
        for word in ["", "+", "+x", "+2@", "+2:", "-", "ada", "ada=", "ada=x", "2"] {
            assert!(changed(&mut json!({}), word).is_err(), "{word}");
        }
    }

    #[test]
    fn differences_say_in_which_direction() {
        assert_eq!(difference(1_000.0, 250.0, Unit::Ms), "-750 ms (-75 %)");
        assert_eq!(difference(0.0, 3.0, Unit::Count), "+3");
        assert_eq!(difference(3.0, 3.0, Unit::Count), "=");
        assert_eq!(time(90_000.0), "90.0 s");
        assert_eq!(time(600_000.0), "10.0 min");
    }
}
