//! `taffrail dead`

use std::io::{IsTerminal, Write};

use clap::{Args, Subcommand};
use client::Client;
use domain::task::TaskRef;
use serde_json::{Map, Value, json};

use super::fail::Failure;
use super::human::{age, gist, text};
use super::submit::read_payload;
use super::table::Cell;
use super::task::Page;
use super::{App, op};

/// What can be done about tasks that failed.
#[derive(Debug, Subcommand)]
pub enum DeadVerb {
    /// List them with their last errors
    List {
        /// The queue
        #[arg(long)]
        queue: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Give them another life: their attempts are counted anew
    Requeue {
        #[command(flatten)]
        chosen: Chosen,
        /// Another input: JSON, @FILE, or - for stdin
        #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
        payload: Option<String>,
        /// Another priority
        #[arg(long)]
        priority: Option<String>,
    },
    /// Drop them
    Discard(Chosen),
}

/// Which ones: those that are named, or all that a filter takes.
#[derive(Debug, Args)]
pub struct Chosen {
    /// The tasks: their ids, or their numbers such as TASK-7
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    ids: Vec<TaskRef>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Only tell how many the filter takes, with a sample
    #[arg(long, requires = "filter", conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without a question
    #[arg(short, long, requires = "filter")]
    yes: bool,
    /// Do not wait for the operation's end
    #[arg(long, requires = "filter")]
    no_wait: bool,
}

/// What a filter takes; all that is given must hold.
#[derive(Debug, Args)]
#[group(id = "filter", multiple = true)]
pub struct Filter {
    /// All dead letters there are
    #[arg(long)]
    all: bool,
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// failed or dead
    #[arg(long)]
    state: Option<String>,
    /// Whose last error has this class
    #[arg(long)]
    class: Option<String>,
    /// Whose last error contains this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// That ended before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// That ended at this time or later
    #[arg(long, value_name = "TIME")]
    after: Option<String>,
}

impl Filter {
    fn body(&self) -> Value {
        let fields = [
            ("queue", &self.queue),
            ("type", &self.kind),
            ("state", &self.state),
            ("class", &self.class),
            ("error", &self.error),
            ("dead_before", &self.before),
            ("dead_after", &self.after),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        Value::Object(
            given.map(|(name, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>(),
        )
    }
}

/// Does it.
pub async fn run(app: &App, verb: DeadVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        DeadVerb::List { queue, page } => {
            let answer = client.dead_letters(&page.with(vec![("queue", queue)])).await?;
            app.out.list(&answer, HEADERS, row)
        }
        DeadVerb::Requeue { chosen, payload, priority } => {
            let mut body = reason(&chosen);
            if let Some(payload) = payload {
                body["changes"]["payload"] = read_payload(&payload)?;
            }
            if let Some(priority) = priority {
                body["changes"]["priority"] = json!(priority);
            }
            if chosen.ids.is_empty() {
                return all(app, &client, &chosen, "requeue", body).await;
            }
            for id in chosen.ids {
                let answer = client.requeue_dead(id, &body).await?;
                app.out.show(&answer, |_| format!("task {id} is queued again\n"))?;
            }
            Ok(())
        }
        DeadVerb::Discard(chosen) => {
            let body = reason(&chosen);
            if chosen.ids.is_empty() {
                return all(app, &client, &chosen, "discard", body).await;
            }
            for id in chosen.ids {
                let answer = client.command_task(id, "discard", &body).await?;
                app.out.show(&answer, |_| format!("task {id} is dropped\n"))?;
            }
            Ok(())
        }
    }
}

fn reason(chosen: &Chosen) -> Value {
    chosen.reason.as_ref().map_or(json!({}), |reason| json!({ "reason": reason }))
}

/// Does it to all that the filter takes: tells first, asks, and follows the operation.
async fn all(
    app: &App,
    client: &Client,
    chosen: &Chosen,
    action: &str,
    mut body: Value,
) -> Result<(), Failure> {
    body["filter"] = chosen.filter.body();
    if !chosen.yes {
        let answer = client.preview_dead(action, &body).await?;
        let matching = text(&answer, "matching");
        if app.out.is_human() {
            let shown = json!({ "items": answer["sample"] });
            app.out.list(&shown, HEADERS, row)?;
            app.out.text(&format!("{matching} dead letters match\n"))?;
        } else {
            app.out.document(&answer)?;
        }
        if chosen.dry_run || matching == "0" {
            return Ok(());
        }
        let asks = app.out.is_human() && std::io::stdin().is_terminal();
        if !asks {
            return Err(Failure::Usage(format!("nothing was done: --yes does {action} them")));
        }
        if !agreed(&format!("{action} {matching} tasks? [y/N] "))? {
            app.out.hint("nothing was done");
            return Ok(());
        }
    }
    let answer = client.all_dead(action, &body).await?;
    op::conclude(app, client, answer, !chosen.no_wait, None).await
}

/// Asks on the terminal; anything but yes is no.
fn agreed(question: &str) -> Result<bool, Failure> {
    let asked = || {
        let mut out = std::io::stderr();
        out.write_all(question.as_bytes())?;
        out.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(answer)
    };
    let answer: String = asked()
        .map_err(|source| Failure::Io { what: "cannot ask on the terminal".into(), source })?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The headers of [`row`].
const HEADERS: &[&str] =
    &["NUMBER", "ID", "STATE", "QUEUE", "ATTEMPTS", "SINCE", "CLASS", "TITLE", "ERROR"];

fn row(task: &Value) -> Vec<Cell> {
    vec![
        text(task, "number").into(),
        text(task, "id").into(),
        Cell::state(&text(task, "state")),
        text(task, "queue").into(),
        format!("{}/{}", text(task, "attempt"), text(task, "max_attempts")).into(),
        age(&text(task, "updated_at")).into(),
        text(task, "error_class").into(),
        gist(&task["title"], 32).into(),
        gist(&task["error"], 200).into(),
    ]
}
