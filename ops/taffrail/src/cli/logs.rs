//! `taffrail logs`: what an agent and its running tasks print.

use clap::Args;
use client::Followed;
use serde_json::Value;
use uuid::Uuid;

use super::App;
use super::fail::Failure;
use super::human::{short_id, text};
use super::out::Output;
use super::table::{Paint, printable};

/// `taffrail logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Its id or name
    agent: String,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// The last lines of those that are kept
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    tail: u32,
    /// Lines of one task
    #[arg(long, value_name = "ID")]
    task: Option<Uuid>,
}

/// Shows them.
pub async fn run(app: &App, args: LogsArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let id = super::agent::find(&client, &args.agent).await?;
    let mut query = vec![("tail", args.tail.to_string()), ("follow", args.follow.to_string())];
    query.extend(args.task.map(|task| ("task", task.to_string())));
    if !args.follow {
        let page = client.agent_logs(id, &query).await?;
        if app.out.output == Output::Json || app.out.output == Output::Yaml {
            return app.out.document(&page);
        }
        for line in page["items"].as_array().into_iter().flatten() {
            show(app, line)?;
        }
        return Ok(());
    }
    let mut follow = client.follow(format!("v1/agents/{id}/logs"), query);
    while let Some(item) = follow.next().await? {
        if let Followed::Event { event, .. } = item {
            show(app, &event)?;
        }
    }
    Ok(())
}

fn show(app: &App, event: &Value) -> Result<(), Failure> {
    match app.out.output {
        Output::Table => {
            let line = event["line"].as_str().map_or_else(|| event.to_string(), str::to_owned);
            let whose = match event["task_id"].as_str() {
                Some(_) => short_id(&text(event, "task_id")),
                None => text(event, "stream"),
            };
            let whose = app.out.paint(&printable(&whose, false), Paint::Dim);
            app.out.text(&format!("{whose}  {}\n", printable(&line, true)))
        }
        // A stream has no end that a document could have.
        Output::Json | Output::Jsonl => app.out.text(&format!("{event}\n")),
        Output::Yaml => {
            app.out.text("---\n")?;
            app.out.document(event)
        }
    }
}
