//! `taffrail audit`

use clap::Args;
use serde_json::Value;

use super::App;
use super::fail::Failure;
use super::human::{clock, text};
use super::table::Cell;
use super::task::Page;

/// `taffrail audit`
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Who asked
    #[arg(long)]
    actor: Option<String>,
    /// About this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// About this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// About this crew
    #[arg(long, value_name = "ID")]
    crew: Option<String>,
    /// Of this type, such as task.submitted
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// From this position or time on
    #[arg(long)]
    from: Option<String>,
    /// Up to this position or time
    #[arg(long)]
    to: Option<String>,
    /// What it came from
    #[arg(long)]
    cause: Option<String>,
    #[command(flatten)]
    page: Page,
}

/// Does it.
pub async fn run(app: &App, args: AuditArgs) -> Result<(), Failure> {
    let filter = vec![
        ("actor", args.actor),
        ("agent", args.agent),
        ("task", args.task),
        ("crew", args.crew),
        ("type", args.kind),
        ("from", args.from),
        ("to", args.to),
        ("cause", args.cause),
    ];
    let answer = app.client()?.audit(&args.page.with(filter)).await?;
    let headers = ["POSITION", "TIME", "OUTCOME", "TYPE", "SUBJECT", "ACTOR", "DETAIL"];
    app.out.list(&answer, &headers, row)
}

fn row(entry: &Value) -> Vec<Cell> {
    let detail = match entry["problem"]["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => text(entry, "summary"),
    };
    vec![
        text(entry, "position").into(),
        clock(&text(entry, "occurred_at")).into(),
        Cell::state(&text(entry, "outcome")),
        text(entry, "type").into(),
        text(entry, "stream_id").into(),
        text(entry, "actor").into(),
        detail.into(),
    ]
}
