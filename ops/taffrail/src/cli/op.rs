//! `taffrail op`

use std::time::Duration;

use clap::Subcommand;
use client::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fail::Failure;
use super::human::{age, gist, text};
use super::submit::seconds;
use super::table::Cell;
use super::task::Page;
use super::{App, progress};

/// What can be done about operations.
#[derive(Debug, Subcommand)]
pub enum OpVerb {
    /// List operations, the newest first
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Show an operation
    Get {
        /// The operation
        id: Uuid,
    },
    /// Ask an operation to stop
    Cancel {
        /// The operation
        id: Uuid,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Wait for an operation's end; the exit code tells which
    Wait {
        /// The operation
        id: Uuid,
        /// At most so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<Duration>,
    },
}

/// Does it.
pub async fn run(app: &App, verb: OpVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        OpVerb::List { page } => {
            let answer = client.operations(&page.with(vec![])).await?;
            app.out.list(&answer, &["ID", "KIND", "STATE", "AGE", "RESOURCE", "PROGRESS"], row)
        }
        OpVerb::Get { id } => {
            let operation = client.operation(id).await?;
            show(app, &operation)
        }
        OpVerb::Cancel { id, reason } => {
            let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
            let answer = client.cancel_operation(id, &body).await?;
            app.out.show(&answer, |_| format!("operation {id} is cancelled\n"))
        }
        OpVerb::Wait { id, timeout } => wait(app, &client, id, timeout).await,
    }
}

/// Shows what an accepted request led to: the operation's end when it is waited for.
pub async fn conclude(
    app: &App,
    client: &Client,
    answer: Value,
    waited_for: bool,
    within: Option<Duration>,
) -> Result<(), Failure> {
    let id = ["operation_id", "id"].iter().find_map(|name| answer[*name].as_str()?.parse().ok());
    match id {
        Some(id) if waited_for => wait(app, client, id, within).await,
        Some(_) | None => app.out.show(&answer, |_| format!("operation {}\n", text(&answer, "id"))),
    }
}

async fn wait(
    app: &App,
    client: &Client,
    id: Uuid,
    within: Option<Duration>,
) -> Result<(), Failure> {
    let operation = awaited(app, client, id, within).await?;
    show(app, &operation)?;
    well_ended(&operation)
}

/// The operation that a request led to, once it has ended well.
pub async fn ended(
    app: &App,
    client: &Client,
    answer: &Value,
    within: Option<Duration>,
) -> Result<Value, Failure> {
    let id = answer["operation_id"].as_str().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| Failure::BadEnd("the server named no operation".into()))?;
    let operation = awaited(app, client, id, within).await?;
    well_ended(&operation)?;
    Ok(operation)
}

async fn awaited(
    app: &App,
    client: &Client,
    id: Uuid,
    within: Option<Duration>,
) -> Result<Value, Failure> {
    let bar = progress::spinner(&app.out, format!("operation {id}"));
    let ended =
        client.wait_operation(id, within, |operation| progress::follow(&bar, operation)).await;
    bar.finish_and_clear();
    Ok(ended?)
}

fn well_ended(operation: &Value) -> Result<(), Failure> {
    let id = text(operation, "id");
    match text(operation, "state").as_str() {
        "succeeded" => Ok(()),
        state => {
            let detail = operation.pointer("/problem/detail").and_then(Value::as_str);
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            Err(Failure::BadEnd(format!("operation {id} is {state}{detail}")))
        }
    }
}

fn show(app: &App, operation: &Value) -> Result<(), Failure> {
    app.out.show(operation, |out| {
        let rows: Vec<(&str, Cell)> =
            ["id", "kind", "state", "resource", "progress", "result", "problem"]
                .into_iter()
                .filter(|name| !operation[*name].is_null())
                .map(|name| match name {
                    "state" => (name, Cell::state(&text(operation, name))),
                    "resource" => (name, resource(operation).into()),
                    _ => (name, gist(&operation[name], 2_000).into()),
                })
                .collect();
        out.fields(&rows)
    })
}

fn resource(operation: &Value) -> String {
    format!("{} {}", text(operation, "/resource/type"), text(operation, "/resource/id"))
        .trim()
        .to_owned()
}

fn row(operation: &Value) -> Vec<Cell> {
    vec![
        text(operation, "id").into(),
        text(operation, "kind").into(),
        Cell::state(&text(operation, "state")),
        age(&text(operation, "created_at")).into(),
        resource(operation).into(),
        text(operation, "/progress/message").into(),
    ]
}
