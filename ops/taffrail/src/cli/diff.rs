//! `taffrail diff A B` and `taffrail bisect`: the past compared and searched.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::App;
use super::fail::Failure;
use super::human::{clock, text};
use super::table::printable;

/// Fields told of a row, so that a screen holds several rows.
const FIELDS: usize = 6;
/// Characters told of a value.
const WIDTH: usize = 60;

/// `taffrail diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The earlier moment: a position, or a time such as 2026-01-31T12:00:00Z
    from: String,
    /// The later moment; now when absent
    to: Option<String>,
    /// One read model alone: tasks, agents, queues, operations, …
    #[arg(long)]
    model: Option<String>,
    /// Rows to show of each model
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Go on behind this position in the rows of one model
    #[arg(long, value_name = "POSITION", requires = "model")]
    behind: Option<u64>,
}

/// Compares two moments.
pub async fn diff(app: &App, args: DiffArgs) -> Result<(), Failure> {
    let behind = args.behind.map(|position| position.to_string());
    let given = [("from", Some(args.from)), ("to", args.to), ("model", args.model)];
    let given = given.into_iter().chain([("behind", behind)]);
    let mut query: Vec<_> = given.filter_map(|(name, value)| Some((name, value?))).collect();
    query.push(("limit", args.limit.to_string()));
    let diff = app.client()?.get("v1/time/diff", &query).await?;
    app.out.show(&diff, |_| told(&diff))
}

fn told(diff: &Value) -> String {
    let moment = |end: &str| {
        let at = &diff[end];
        let time = at["recorded_at"].as_str().map(clock).unwrap_or_default();
        format!("{} {time}", text(at, "position")).trim_end().to_owned()
    };
    let mut out = format!("{} → {}\n", moment("from"), moment("to"));
    let events = diff["events"].as_object().into_iter().flatten();
    let mut events: Vec<(u64, &str)> =
        events.map(|(name, count)| (count.as_u64().unwrap_or_default(), name.as_str())).collect();
    events.sort_unstable_by(|a, b| b.cmp(a));
    let all: u64 = events.iter().map(|(count, _)| count).sum();
    let parts: Vec<String> = events.iter().map(|(count, name)| format!("{count} {name}")).collect();
    out.push_str(&format!("{all} events: {}\n", parts.join(", ")));
    for model in diff["models"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "\n{}: {} appeared, {} changed, {} vanished\n",
            text(model, "model"),
            text(model, "appeared"),
            text(model, "changed"),
            text(model, "vanished")
        ));
        for row in model["rows"].as_array().into_iter().flatten() {
            out.push_str(&of_row(row));
        }
        if let Some(next) = model["next"].as_u64() {
            let name = text(model, "model");
            out.push_str(&format!("  … go on with --model {name} --behind {next}\n"));
        }
    }
    out
}

fn of_row(row: &Value) -> String {
    let sign = match row["change"].as_str() {
        Some("appeared") => '+',
        Some("vanished") => '-',
        _ => '~',
    };
    let at = row["position"].as_u64().map(|at| format!(" at {at}")).unwrap_or_default();
    let mut out = format!("  {sign} {}{at}\n", printable(&text(row, "key"), false));
    let fields = row["fields"].as_object();
    // Of what appeared or vanished the names that people know it by are enough.
    let told: Vec<_> = fields
        .into_iter()
        .flatten()
        .filter(|(name, _)| {
            sign == '~' || matches!(name.as_str(), "name" | "title" | "state" | "kind")
        })
        .collect();
    for (name, field) in told.iter().take(FIELDS) {
        let value = |end: &str| short(&field[end]);
        let change = match sign {
            '+' => value("to"),
            '-' => value("from"),
            _ => format!("{} → {}", value("from"), value("to")),
        };
        out.push_str(&format!("      {name}: {change}\n"));
    }
    if told.len() > FIELDS {
        out.push_str(&format!("      … and {} fields more\n", told.len() - FIELDS));
    }
    out
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => "·".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let text = printable(&text, false);
    if text.chars().count() <= WIDTH {
        return text;
    }
    text.chars().take(WIDTH - 1).chain(['…']).collect()
}

/// `taffrail bisect`
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// A condition in CEL over a row, such as 'row.state == "dead"'
    #[arg(required_unless_present = "named", conflicts_with = "named")]
    condition: Option<String>,
    /// The read model whose rows it looks at
    #[arg(long, default_value = "tasks", conflicts_with = "named")]
    model: String,
    /// A condition that has a name, instead
    #[arg(long, value_enum)]
    named: Option<Named>,
    /// For `stuck`: not moved for so long, such as 90s, 10m or 2h
    #[arg(long = "for", value_name = "TIME", value_parser = super::submit::seconds)]
    longer: Option<std::time::Duration>,
    /// For `attempts-above` and `agent-flapping`: more than this
    #[arg(long, value_name = "N")]
    above: Option<u32>,
    /// Behind this position or time
    #[arg(long)]
    from: Option<String>,
    /// Up to this position or time; now when absent
    #[arg(long)]
    to: Option<String>,
}

/// A condition that has a name.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Named {
    /// A task that has not ended does not move (--for)
    Stuck,
    /// A task was given out while somebody held it
    TwoHolders,
    /// A task had more attempts (--above)
    AttemptsAbove,
    /// An agent was restarted more often (--above)
    AgentFlapping,
}

/// Finds the first position at which it is true.
pub async fn bisect(app: &App, args: BisectArgs) -> Result<(), Failure> {
    let named = args.named.map(|named| match named {
        Named::Stuck => "stuck",
        Named::TwoHolders => "two_holders",
        Named::AttemptsAbove => "attempts_above",
        Named::AgentFlapping => "agent_flapping",
    });
    let mut body = json!({ "from": args.from, "to": args.to, "above": args.above });
    match named {
        Some(named) => {
            body["named"] = json!(named);
            body["for_ms"] = json!(args.longer.map(|longer| longer.as_millis()));
        }
        None => {
            body["model"] = json!(args.model);
            body["condition"] = json!(args.condition);
        }
    }
    let answer = app.client()?.post("v1/time/bisect", &body).await?;
    app.out.show(&answer, |_| found(&answer))
}

fn found(answer: &Value) -> String {
    let mut out = format!("{}\n", printable(&text(answer, "summary"), false));
    for (what, event) in [("event", &answer["event"]), ("caused by", &answer["cause"])] {
        if event.is_null() {
            continue;
        }
        out.push_str(&format!(
            "{what}: {} at {} {} on {} by {}\n",
            text(event, "type").trim_start_matches("dev.taffrail."),
            text(event, "sequence").trim_start_matches('0'),
            clock(&text(event, "recordedtime")),
            text(event, "subject"),
            printable(&text(event, "actor"), false)
        ));
    }
    let row = &answer["found"]["row"];
    if let Some(key) = row["key"].as_str() {
        out.push_str(&format!("row: {} {}\n", text(row, "model"), printable(key, false)));
        for (name, after) in row["after"].as_object().into_iter().flatten() {
            let before = &row["before"][name];
            if before != after {
                out.push_str(&format!("      {name}: {} → {}\n", short(before), short(after)));
            }
        }
    }
    let found = &answer["found"];
    out.push_str(&format!("{} looks, {} rows\n", text(found, "looks"), text(found, "rows")));
    out
}
