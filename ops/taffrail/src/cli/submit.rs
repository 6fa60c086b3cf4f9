//! The flags of a new task, and the body they make.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use domain::task::TaskRef;
use serde_json::{Map, Value, json};

use super::fail::Failure;

/// The largest input that is read from a file or stdin: the server takes 1 MiB.
const MAX_INPUT: u64 = 1024 * 1024;

/// `taffrail task submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// What is to be done, in a line
    pub title: String,
    /// The same at length
    #[arg(long)]
    pub description: Option<String>,
    /// The queue it waits in [default: default]
    #[arg(long)]
    pub queue: Option<String>,
    /// The kind of work, for agents that know several [default: default]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// critical, high, normal, low or background [default: normal]
    #[arg(long)]
    pub priority: Option<String>,
    /// The input of the work: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// What an agent must be able to do; may be given several times
    #[arg(long = "capability", value_name = "CAPABILITY")]
    pub capabilities: Vec<String>,
    /// A label, or name=value; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// Attempts in all [default: 3]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
    /// Wait before the second attempt, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS")]
    pub backoff_ms: Option<u64>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub run_at: Option<String>,
    /// Should be done by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub due_at: Option<String>,
    /// A task that it waits for; may be given several times
    #[arg(long, value_name = "TASK")]
    pub depends_on: Vec<TaskRef>,
    #[command(flatten)]
    pub dependency: DependencyArgs,
    /// The task that this one is a part of
    #[arg(long, value_name = "TASK")]
    pub parent: Option<TaskRef>,
    /// Into the inbox instead of the queue
    #[arg(long)]
    pub triage: bool,
    /// Who is meant to do it; may be given several times
    #[arg(long = "assignee", value_name = "AGENT")]
    pub assignees: Vec<String>,
    /// Tasks with the same key run one at a time
    #[arg(long, value_name = "KEY")]
    pub concurrency_key: Option<String>,
    /// Something that belongs to it, as NAME=URL; may be given several times
    #[arg(long = "attach", value_name = "NAME=URL")]
    pub attachments: Vec<String>,
    /// How long it is thought to take, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub estimate: Option<Duration>,
    /// What must hold for it to be accepted; may be given several times
    #[arg(long = "accept-when", value_name = "TEXT")]
    pub acceptance_criteria: Vec<String>,
    /// What it is to bring about; may be given several times
    #[arg(long = "deliverable", value_name = "TEXT")]
    pub deliverables: Vec<String>,
    /// An agent must have this label, NAME or NAME=VALUE[,VALUE…]; may be given several times
    #[arg(long = "require", value_name = "LABEL")]
    pub require: Vec<String>,
    /// No agent that has this label; may be given several times
    #[arg(long = "exclude", value_name = "LABEL")]
    pub exclude: Vec<String>,
    /// Points for agents that have this label, LABEL:POINTS; may be given several times
    #[arg(long = "prefer", value_name = "LABEL:POINTS")]
    pub prefer: Vec<String>,
    /// Back to the agent of the parent, or of the attempt before: parent or previous
    #[arg(long, value_name = "WHOM")]
    pub sticky_to: Option<String>,
    /// How long it waits for that agent before any other may have it, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "sticky_to")]
    pub sticky_wait: Option<Duration>,
    /// Never to the agent of the parent, or of the attempt before: parent or previous
    #[arg(long = "apart-from", value_name = "WHOM")]
    pub apart_from: Vec<String>,
    /// No agent that costs more
    #[arg(long, value_name = "N")]
    pub max_cost: Option<u32>,
    /// The same key again is the same task, for ever
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait until it has come to an end; the exit code tells which
    #[arg(long)]
    pub wait: bool,
    /// At most so many seconds
    #[arg(long, requires = "wait", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

/// What a task needs of those that it waits for.
#[derive(Debug, Default, Args)]
pub struct DependencyArgs {
    /// How many of them it needs: all or any [default: all]
    #[arg(long, value_name = "HOW MANY", value_parser = ["all", "any"])]
    pub need: Option<String>,
    /// What of them counts: success, or any end [default: success]
    #[arg(long, value_name = "WHAT", value_parser = ["success", "end"])]
    pub on: Option<String>,
}

impl DependencyArgs {
    /// The field's value; `null` when nothing was given.
    pub fn value(&self) -> Value {
        let given = [("need", &self.need), ("on", &self.on)];
        let given = given
            .into_iter()
            .filter_map(|(name, word)| Some((name.to_owned(), json!(word.as_ref()?))));
        let fields: Map<String, Value> = given.collect();
        if fields.is_empty() { Value::Null } else { Value::Object(fields) }
    }
}

/// Seconds, with a fraction if need be.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl SubmitArgs {
    /// The request's body: what was not given is left to the server.
    pub fn body(&self) -> Result<Value, Failure> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !empty {
                body.insert(name.to_owned(), value);
            }
        };
        set("title", json!(self.title));
        set("description", json!(self.description));
        set("queue", json!(self.queue));
        set("type", json!(self.kind));
        set("priority", json!(self.priority));
        set("capabilities", json!(self.capabilities));
        set("labels", labels(&self.labels)?);
        set("assignees", json!(self.assignees));
        set("parent_id", json!(self.parent));
        set("depends_on", json!(self.depends_on));
        set("dependency", self.dependency.value());
        set("due_at", json!(self.due_at));
        set("run_at", json!(self.run_at));
        set("concurrency_key", json!(self.concurrency_key));
        set("attachments", attachments(&self.attachments)?);
        set("estimate_ms", json!(self.estimate.map(|estimate| estimate.as_millis() as u64)));
        set("acceptance_criteria", json!(self.acceptance_criteria));
        set("deliverables", json!(self.deliverables));
        set("affinity", self.affinity()?);
        set("triage", if self.triage { json!(true) } else { Value::Null });
        if let Some(payload) = &self.payload {
            set("payload", read_payload(payload)?);
        }
        let mut retry = Map::new();
        retry.extend(self.max_attempts.map(|n| ("max_attempts".to_owned(), json!(n))));
        retry.extend(self.backoff_ms.map(|ms| ("backoff_ms".to_owned(), json!(ms))));
        if !retry.is_empty() {
            set("retry", Value::Object(retry));
        }
        Ok(Value::Object(body))
    }
}

impl SubmitArgs {
    fn affinity(&self) -> Result<Value, Failure> {
        let terms = |labels: &[String]| labels.iter().map(|text| term(text)).collect::<Vec<_>>();
        let sticky = self.sticky_to.as_ref().map(|to| {
            let wait_ms = self.sticky_wait.unwrap_or_default().as_millis() as u64;
            json!({ "to": to, "wait_ms": wait_ms })
        });
        let preferred: Result<Vec<Value>, Failure> =
            self.prefer.iter().map(|text| preference(text)).collect();
        let fields = [
            ("required", json!(terms(&self.require))),
            ("excluded", json!(terms(&self.exclude))),
            ("preferred", json!(preferred?)),
            ("sticky", json!(sticky)),
            ("apart_from", json!(self.apart_from)),
            ("max_cost", json!(self.max_cost)),
        ];
        let given =
            |value: &Value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty());
        let given: Map<String, Value> = fields
            .into_iter()
            .filter(|(_, value)| given(value))
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Ok(if given.is_empty() { Value::Null } else { Value::Object(given) })
    }
}

/// `NAME` or `NAME=VALUE[,VALUE…]`.
fn term(text: &str) -> Value {
    match text.split_once('=') {
        Some((label, values)) => {
            json!({ "label": label, "in": values.split(',').collect::<Vec<_>>() })
        }
        None => json!({ "label": text }),
    }
}

/// The same with `:POINTS` behind it.
fn preference(text: &str) -> Result<Value, Failure> {
    let split = text
        .rsplit_once(':')
        .and_then(|(label, points)| Some((label, points.parse::<i32>().ok()?)));
    let Some((label, points)) = split else {
        return Err(Failure::Usage(format!("--prefer takes LABEL:POINTS, not `{text}`")));
    };
    let mut preference = term(label);
    preference["points"] = json!(points);
    Ok(preference)
}

fn attachments(given: &[String]) -> Result<Value, Failure> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, url)) => Ok(json!({ "name": name, "url": url })),
        None => Err(Failure::Usage(format!("--attach takes NAME=URL, not `{text}`"))),
    };
    given.iter().map(one).collect()
}

fn labels(given: &[String]) -> Result<Value, Failure> {
    let pairs: Vec<_> = given.iter().filter_map(|label| label.split_once('=')).collect();
    if pairs.is_empty() {
        return Ok(json!(given));
    }
    if pairs.len() < given.len() {
        return Err(Failure::Usage("labels are either all words or all name=value".into()));
    }
    let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
    Ok(Value::Object(pairs.collect()))
}

/// JSON as it is given: as text, in a file, or on stdin.
pub fn read_payload(given: &str) -> Result<Value, Failure> {
    let text = match given.strip_prefix('@') {
        Some(file) => read_input(Path::new(file), MAX_INPUT)?,
        None if given == "-" => read_input(Path::new("-"), MAX_INPUT)?,
        None => given.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::Usage(format!("the payload is no JSON: {error} (a text needs quotes: '\"text\"')"))
    })
}

/// A file's text, or stdin's for `-`.
pub fn read_input(path: &Path, most: u64) -> Result<String, Failure> {
    let failed = |source| Failure::Io { what: format!("cannot read {}", path.display()), source };
    let mut text = String::new();
    let mut read = |from: &mut dyn Read| from.take(most + 1).read_to_string(&mut text);
    if path == Path::new("-") {
        read(&mut std::io::stdin().lock()).map_err(failed)?;
    } else {
        read(&mut std::fs::File::open(path).map_err(failed)?).map_err(failed)?;
    }
    if text.len() as u64 > most {
        return Err(Failure::Usage(format!("{} has more than {most} bytes", path.display())));
    }
    Ok(text)
}
