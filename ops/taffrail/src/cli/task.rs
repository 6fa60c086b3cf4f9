//! `taffrail task`

use std::time::Duration;

use clap::{Args, Subcommand};
use client::Client;
use domain::task::TaskRef;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fail::Failure;
use super::human::{age, gist, text};
use super::out::{Output, Printer};
use super::submit::{DependencyArgs, SubmitArgs, seconds};
use super::table::{Cell, Paint, printable};
use super::{App, batch};

/// What can be done about tasks.
#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Submit a task
    Submit(Box<SubmitArgs>),
    /// List tasks, the newest first
    List(Box<ListArgs>),
    /// Show a task
    Get {
        /// The task: its id, or its number such as TASK-7
        id: TaskRef,
    },
    /// Change what a task says, or what it waits for
    Update(Box<UpdateArgs>),
    /// List the subtasks of a task, the newest first
    Children {
        /// The task
        id: Uuid,
        #[command(flatten)]
        page: Page,
    },
    /// Cancel a task and its open subtasks
    Cancel {
        /// The task: its id, or its number such as TASK-7
        id: TaskRef,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        /// Leave its subtasks alone
        #[arg(long)]
        no_cascade: bool,
    },
    /// Watch a task until it has come to an end; the exit code tells which
    Watch {
        /// The task: its id, or its number such as TASK-7
        id: TaskRef,
        /// At most so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Say what a task waits for, and why
    Why {
        /// The task: its id, or its number such as TASK-7
        id: TaskRef,
    },
    /// Name the agents that could have a task, the best first
    Candidates {
        /// The task: its id, or its number such as TASK-7
        id: TaskRef,
    },
    /// Submit many tasks from a file
    Batch(batch::BatchArgs),
}

/// `taffrail task update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The task
    pub id: Uuid,
    /// What is to be done, in a line
    #[arg(long)]
    pub title: Option<String>,
    /// The same at length
    #[arg(long)]
    pub description: Option<String>,
    /// critical, high, normal, low or background
    #[arg(long)]
    pub priority: Option<String>,
    /// Should be done by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub due_at: Option<String>,
    /// A task that it waits for, instead of those it does now; may be given several times
    #[arg(long, value_name = "TASK")]
    pub depends_on: Vec<Uuid>,
    /// Waits for no other task any more
    #[arg(long, conflicts_with = "depends_on")]
    pub no_dependencies: bool,
    #[command(flatten)]
    pub dependency: DependencyArgs,
}

impl UpdateArgs {
    /// The request's body: what was not given stays.
    pub fn body(&self) -> Value {
        let on = (self.no_dependencies || !self.depends_on.is_empty()).then_some(&self.depends_on);
        let fields = [
            ("title", json!(self.title)),
            ("description", json!(self.description)),
            ("priority", json!(self.priority)),
            ("due_at", json!(self.due_at)),
            ("depends_on", json!(on)),
            ("dependency", self.dependency.value()),
        ];
        let given = fields.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Filters of a list of tasks.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// inbox, queued, assigned, in_progress, blocked, review, done, failed, dead, cancelled
    #[arg(long)]
    state: Option<String>,
    /// The queue
    #[arg(long)]
    queue: Option<String>,
    /// critical, high, normal, low or background
    #[arg(long)]
    priority: Option<String>,
    /// The agent that has it
    #[arg(long, value_name = "ID")]
    agent: Option<Uuid>,
    /// A label
    #[arg(long)]
    label: Option<String>,
    /// A capability that it needs
    #[arg(long)]
    capability: Option<String>,
    /// The task that it is a part of
    #[arg(long, value_name = "ID")]
    parent: Option<TaskRef>,
    /// Words in the title
    #[arg(short = 's', long = "search", value_name = "TEXT")]
    q: Option<String>,
    /// Due before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    due_before: Option<String>,
    /// Only those that stand still for too long
    #[arg(long)]
    escalated: bool,
    #[command(flatten)]
    page: Page,
}

/// Which page of a list.
#[derive(Debug, Default, Args)]
pub struct Page {
    /// Entries of a page, at most 200
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Go on behind an earlier page
    #[arg(long)]
    pub cursor: Option<String>,
}

impl Page {
    /// The parameters of the page behind those of the filter; those not given are left out.
    pub fn with(&self, filter: Vec<(&'static str, Option<String>)>) -> Vec<(&'static str, String)> {
        let page = [("limit", self.limit.map(|n| n.to_string())), ("cursor", self.cursor.clone())];
        filter.into_iter().chain(page).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Does it.
pub async fn run(app: &App, verb: TaskVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        TaskVerb::Submit(args) => {
            let mut body = args.body()?;
            named(&client, &mut body).await?;
            let answer = client.submit_task(&body, args.idempotency_key.as_deref()).await?;
            if !args.wait {
                return app.out.show(&answer, |_| format!("{}\n", text(&answer, "id")));
            }
            let id = text(&answer, "id")
                .parse()
                .map_err(|_| Failure::Usage("the server did not say which task it made".into()))?;
            app.out.hint(&format!("task {id}"));
            watch(app, id, args.timeout).await
        }
        TaskVerb::List(args) => {
            let ListArgs { state, queue, priority, agent, label, capability, .. } = *args;
            let filter = vec![
                ("state", state),
                ("queue", queue),
                ("priority", priority),
                ("agent", agent.map(|id| id.to_string())),
                ("label", label),
                ("capability", capability),
                ("parent", args.parent.map(|id| id.to_string())),
                ("q", args.q),
                ("due_before", args.due_before),
                ("escalated", args.escalated.then(|| "true".to_owned())),
            ];
            app.out.list(&client.tasks(&args.page.with(filter)).await?, HEADERS, row)
        }
        TaskVerb::Get { id } => {
            let task = client.task(id).await?;
            app.out.show(&task, |out| card(out, &task))
        }
        TaskVerb::Update(args) => {
            let answer = client.command_task(args.id, "update", &args.body()).await?;
            app.out.show(&answer, |_| format!("task {} is changed\n", args.id))
        }
        TaskVerb::Children { id, page } => {
            app.out.list(&client.task_children(id, &page.with(vec![])).await?, HEADERS, row)
        }
        TaskVerb::Cancel { id, reason, no_cascade } => {
            let mut body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
            if no_cascade {
                body["cascade"] = json!(false);
            }
            let answer = client.command_task(id, "cancel", &body).await?;
            app.out.show(&answer, |_| format!("task {id} is cancelled\n"))
        }
        TaskVerb::Watch { id, timeout } => watch(app, id, timeout).await,
        TaskVerb::Why { id } => {
            let why = client.why(id).await?;
            app.out.show(&why, |out| explained(out, &why))
        }
        TaskVerb::Candidates { id } => {
            let found = client.candidates(id).await?;
            let page = json!({ "items": found["agents"] });
            if !app.out.is_human() {
                return app.out.document(&found);
            }
            app.out.list(&page, &["AGENT", "ID", "SCORE", "ROOM", "ASKS"], candidate)?;
            let rejected = &found["rejected"];
            if rejected.as_object().is_some_and(|object| !object.is_empty()) {
                app.out.hint(&format!("passed over: {rejected}"));
            }
            Ok(())
        }
        TaskVerb::Batch(args) => batch::run(app, &client, args).await,
    }
}

/// Puts ids where a body names tasks by their numbers: bodies take ids alone.
async fn named(client: &Client, body: &mut Value) -> Result<(), Failure> {
    let mut places = vec!["/parent_id".to_owned()];
    let dependencies = body["depends_on"].as_array().map_or(0, Vec::len);
    places.extend((0..dependencies).map(|n| format!("/depends_on/{n}")));
    for place in places {
        let Some(given) = body.pointer_mut(&place) else { continue };
        if let Some(Ok(number @ TaskRef::Number(_))) = given.as_str().map(str::parse) {
            *given = client.task(number).await?["id"].take();
        }
    }
    Ok(())
}

/// The headers of [`row`].
pub const HEADERS: &[&str] =
    &["NUMBER", "ID", "STATE", "PRIORITY", "QUEUE", "ATTEMPT", "AGE", "TITLE"];

/// A task in a list.
pub fn row(task: &Value) -> Vec<Cell> {
    vec![
        text(task, "number").into(),
        text(task, "id").into(),
        Cell::state(&text(task, "state")),
        Cell::state(&text(task, "priority")),
        text(task, "queue").into(),
        format!("{}/{}", text(task, "attempt"), text(task, "max_attempts")).into(),
        age(&text(task, "created_at")).into(),
        text(task, "title").into(),
    ]
}

fn card(out: &Printer, task: &Value) -> String {
    let mut rows: Vec<(&str, Cell)> = vec![
        ("number", text(task, "number").into()),
        ("id", text(task, "id").into()),
        ("title", text(task, "title").into()),
        ("state", Cell::state(&text(task, "state"))),
        ("priority", Cell::state(&text(task, "priority"))),
        ("queue", text(task, "queue").into()),
        ("type", text(task, "type").into()),
        ("attempt", format!("{} of {}", text(task, "attempt"), text(task, "max_attempts")).into()),
    ];
    for name in [
        "description",
        "capabilities",
        "labels",
        "assignees",
        "agent_id",
        "parent_id",
        "depends_on",
        "children",
        "escalation",
        "lease_expires_at",
        "due_at",
        "progress",
        "payload",
        "result",
        "error",
        "created_by",
    ] {
        let value = text(task, name);
        if !matches!(value.as_str(), "" | "[]" | "{}") {
            rows.push((name, value.into()));
        }
    }
    let parts = &task["subtasks"];
    if parts.is_object() {
        let count = |name| text(parts, name);
        let sum = format!(
            "{} of {} done, {} open, {} %",
            count("done"),
            count("total"),
            count("open"),
            count("percent")
        );
        rows.push(("subtasks", sum.into()));
    }
    let needs = &task["dependency"];
    if needs["need"] == "any" || needs["on"] == "end" {
        let rule = format!("{}, on {}", text(needs, "need"), text(needs, "on"));
        rows.push(("dependency", rule.into()));
    }
    for name in ["created_at", "updated_at"] {
        let time = text(task, name);
        rows.push((name, format!("{time} ({})", age(&time)).into()));
    }
    rows.push(("version", text(task, "version").into()));
    rows.push(("position", text(task, "position").into()));
    out.fields(&rows)
}

/// Prints every state on the way; fails when the end is not `done`.
async fn watch(app: &App, id: TaskRef, within: Option<Duration>) -> Result<(), Failure> {
    let client = app.client()?;
    let mut failed = None;
    let out = app.out;
    let task = client
        .wait_task(id, within, |task| {
            let written = match out.output {
                Output::Table => out.text(&step(&out, task)),
                Output::Jsonl => out.document(task),
                Output::Json | Output::Yaml => Ok(()),
            };
            failed = written.err().or(failed.take());
        })
        .await?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    if matches!(out.output, Output::Json | Output::Yaml) {
        out.document(&task)?;
    }
    let state = text(&task, "state");
    if client::is_success_task(&state) {
        return Ok(());
    }
    let error = gist(&task["error"], 200);
    let because = if error.is_empty() { String::new() } else { format!(": {error}") };
    Err(Failure::BadEnd(format!("task {id} is {state}{because}")))
}

fn step(out: &Printer, task: &Value) -> String {
    let state = text(task, "state");
    let mut line = out.paint(&state, Paint::of(&state));
    match state.as_str() {
        "done" => line = format!("{line}  {}", gist(&task["result"], 2_000)),
        "assigned" | "in_progress" => {
            line = format!(
                "{line}  attempt {}, agent {}",
                text(task, "attempt"),
                text(task, "agent_id")
            );
            let progress = gist(&task["progress"], 200);
            if !progress.is_empty() {
                line = format!("{line}  {progress}");
            }
        }
        _ => {}
    }
    format!("{}\n", line.replace(['\n', '\r'], " "))
}

fn candidate(agent: &Value) -> Vec<Cell> {
    ["name", "id", "score", "free_slots", "asks"].map(|name| text(agent, name).into()).to_vec()
}

/// What `why` says: the state, then every reason, the strongest first.
fn explained(out: &Printer, why: &Value) -> String {
    let state = text(why, "state");
    let mut words = format!("{}\n", out.paint(&printable(&state, false), Paint::of(&state)));
    for reason in why["reasons"].as_array().into_iter().flatten() {
        let until = reason["until"].as_str().map(|time| format!(" ({})", age(time)));
        let line = format!("{}: {}", text(reason, "code"), text(reason, "message"));
        words.push_str(&printable(&format!("  {line}{}", until.unwrap_or_default()), false));
        words.push('\n');
        let release = text(reason, "release");
        if !release.is_empty() {
            words.push_str(&printable(&format!("    released by {release}\n"), false));
        }
    }
    words
}
