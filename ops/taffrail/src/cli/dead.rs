//! `taffrail dead`

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::App;
use super::fail::Failure;
use super::human::{age, gist, text};
use super::submit::read_payload;
use super::table::Cell;
use super::task::Page;

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

/// Which ones.
#[derive(Debug, Args)]
pub struct Chosen {
    /// The tasks
    #[arg(required = true)]
    ids: Vec<Uuid>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// Does it.
pub async fn run(app: &App, verb: DeadVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        DeadVerb::List { queue, page } => {
            let answer = client.dead_letters(&page.with(vec![("queue", queue)])).await?;
            app.out.list(
                &answer,
                &["ID", "STATE", "QUEUE", "ATTEMPTS", "SINCE", "TITLE", "ERROR"],
                row,
            )
        }
        DeadVerb::Requeue { chosen, payload, priority } => {
            let mut body = chosen.reason.map_or(json!({}), |reason| json!({ "reason": reason }));
            if let Some(payload) = payload {
                body["changes"]["payload"] = read_payload(&payload)?;
            }
            if let Some(priority) = priority {
                body["changes"]["priority"] = json!(priority);
            }
            for id in chosen.ids {
                let answer = client.requeue_dead(id, &body).await?;
                app.out.show(&answer, |_| format!("task {id} is queued again\n"))?;
            }
            Ok(())
        }
        DeadVerb::Discard(chosen) => {
            let body = chosen.reason.map_or(json!({}), |reason| json!({ "reason": reason }));
            for id in chosen.ids {
                let answer = client.command_task(id, "discard", &body).await?;
                app.out.show(&answer, |_| format!("task {id} is dropped\n"))?;
            }
            Ok(())
        }
    }
}

fn row(task: &Value) -> Vec<Cell> {
    vec![
        text(task, "id").into(),
        Cell::state(&text(task, "state")),
        text(task, "queue").into(),
        format!("{}/{}", text(task, "attempt"), text(task, "max_attempts")).into(),
        age(&text(task, "updated_at")).into(),
        gist(&task["title"], 32).into(),
        gist(&task["error"], 200).into(),
    ]
}
