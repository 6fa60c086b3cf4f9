//! `taffrail replay`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::fail::Failure;
use super::human::text;
use super::submit::seconds;
use super::{App, op};

/// `taffrail replay`
#[derive(Debug, Subcommand)]
pub enum ReplayVerb {
    /// Make every decision of the scheduler once more from the log; ends with 1 where one
    /// comes out differently
    VerifyDecisions(VerifyArgs),
}

/// `taffrail replay verify-decisions`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// At most so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// Does it.
pub async fn run(app: &App, verb: ReplayVerb) -> Result<(), Failure> {
    let ReplayVerb::VerifyDecisions(args) = verb;
    let client = app.client()?;
    let answer = client.verify_decisions().await?;
    let operation = op::ended(app, &client, &answer, args.timeout).await?;
    let report = &operation["result"];
    app.out.show(report, |out| {
        let counts = ["decisions", "identical", "different", "unknown"];
        let counts = counts.map(|name| (name, report[name].to_string().into()));
        let faults = report["faults"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut shown = out.fields(&counts);
        for fault in faults {
            let (position, what) = (&fault["position"], text(fault, "what"));
            shown.push_str(&format!("position {position}: {what}\n"));
        }
        shown
    })?;
    match report["different"].as_u64() {
        Some(0) => Ok(()),
        different => {
            let different = different.unwrap_or_default();
            let first = report.pointer("/faults/0/position").and_then(Value::as_u64);
            let first = first.map(|at| format!(", first at position {at}")).unwrap_or_default();
            Err(Failure::BadEnd(format!("{different} decisions come out differently{first}")))
        }
    }
}
