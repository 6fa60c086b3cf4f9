//! `taffrail rebuild`

use std::time::Duration;

use clap::Args;

use super::fail::Failure;
use super::queue::token;
use super::submit::seconds;
use super::{App, op};

/// `taffrail rebuild`
#[derive(Debug, Args)]
pub struct RebuildArgs {
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

/// Does it; the bar shows how far the operation is.
pub async fn run(app: &App, args: RebuildArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let answer = client.rebuild(&args.model).await?;
    op::conclude(app, &client, answer, !args.no_wait, args.timeout).await
}
