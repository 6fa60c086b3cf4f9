//! `taffrail rebuild`

use std::time::Duration;

use clap::{Args, Subcommand};
use client::Client;
use serde_json::Value;

use super::fail::Failure;
use super::human::{age, text};
use super::queue::token;
use super::submit::seconds;
use super::table::Cell;
use super::{App, op};

/// `taffrail rebuild`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RebuildArgs {
    /// What else can be done about read models
    #[command(subcommand)]
    verb: Option<RebuildVerb>,
    /// Which read model
    #[command(flatten)]
    asked: Option<Asked>,
    /// Only make the rows and compare them with those that are read
    #[arg(long)]
    dry_run: bool,
}

/// A model, and how long to wait.
#[derive(Debug, Args)]
pub struct Asked {
    /// The read model: agents, tasks, operations, audit, metrics, …
    #[arg(value_parser = token)]
    model: String,
    /// Do not wait for the operation's end
    #[arg(long)]
    no_wait: bool,
    /// At most so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "no_wait")]
    timeout: Option<Duration>,
}

/// What else can be done about read models.
#[derive(Debug, Subcommand)]
pub enum RebuildVerb {
    /// Read the version again that was read before the last rebuild
    Rollback(Asked),
    /// Free the space of the version that was read before the last rebuild
    Forget(Asked),
    /// Show each read model: place, version, what can be gone back to, what is under way
    Status,
}

/// Does it; the bar shows how far the operation is.
pub async fn run(app: &App, args: RebuildArgs) -> Result<(), Failure> {
    let client = app.client()?;
    match (args.verb, args.asked) {
        (None, Some(asked)) => {
            let answer = client.rebuild(&asked.model, args.dry_run).await?;
            conclude(app, &client, &asked, answer).await
        }
        (Some(RebuildVerb::Rollback(asked)), _) => {
            let answer = client.roll_back(&asked.model).await?;
            conclude(app, &client, &asked, answer).await
        }
        (Some(RebuildVerb::Forget(asked)), _) => {
            let answer = client.forget_previous(&asked.model).await?;
            conclude(app, &client, &asked, answer).await
        }
        (Some(RebuildVerb::Status) | None, _) => status(app, &client.models().await?),
    }
}

async fn conclude(app: &App, client: &Client, asked: &Asked, answer: Value) -> Result<(), Failure> {
    op::conclude(app, client, answer, !asked.no_wait, asked.timeout).await
}

fn status(app: &App, models: &Value) -> Result<(), Failure> {
    let headers = ["MODEL", "POSITION", "LAG", "FOLD", "PARKED", "PREVIOUS", "REBUILD"];
    app.out.list(models, &headers, |model| {
        let fold = match model["outdated"].as_bool() {
            Some(true) => format!("{} (outdated)", text(model, "fold")),
            _ => text(model, "fold"),
        };
        let there = |name: &str| Some(&model[name]).filter(|value| !value.is_null());
        let previous = there("previous").map(|before| {
            format!("{}, {}", text(before, "position"), age(&text(before, "retired_at")))
        });
        let rebuild = there("rebuild").map(|now| format!("at {}", text(now, "position")));
        let (previous, rebuild) = (previous.unwrap_or_default(), rebuild.unwrap_or_default());
        let place = [text(model, "model"), text(model, "position"), text(model, "lag")];
        let rest = [fold, text(model, "parked"), previous, rebuild];
        place.into_iter().chain(rest).map(Cell::from).collect()
    })
}
