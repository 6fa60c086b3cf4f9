//! `taffrail replay`

use std::time::Duration;

use clap::{Args, Subcommand};
use client::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fail::Failure;
use super::human::text;
use super::queue::token;
use super::submit::seconds;
use super::{App, op};

/// `taffrail replay`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ReplayArgs {
    /// What else can be done with the log
    #[command(subcommand)]
    verb: Option<ReplayVerb>,
    /// Which events, and how fast
    #[command(flatten)]
    publish: Option<PublishArgs>,
}

impl ReplayArgs {
    /// Whether Ctrl-C is for the verb: it stops the replay, not only this program.
    pub fn takes_interrupts(&self) -> bool {
        self.verb.is_none()
    }
}

/// What can be done with the log.
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

/// `taffrail replay --from N`
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The first position to publish
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// The last one; without it the end of the log
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// How fast: 1x as it happened, 10x, 0.5x, or max
    #[arg(long, value_name = "SPEED", default_value = "1x")]
    speed: String,
    /// Wait no longer than so many seconds of recorded time between two events
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    skip_idle: Option<Duration>,
    /// The word in the subject, taffrail.<tenant>.replay.<NAME>.>; without it the operation's id
    #[arg(long, value_parser = token)]
    name: Option<String>,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

/// Does it.
pub async fn run(app: &App, args: ReplayArgs) -> Result<(), Failure> {
    match (args.verb, args.publish) {
        (Some(ReplayVerb::VerifyDecisions(args)), _) => verify(app, args).await,
        (None, Some(args)) => publish(app, args).await,
        (None, None) => Err(Failure::Usage("say which events: --from POSITION".into())),
    }
}

async fn publish(app: &App, args: PublishArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let mut body = json!({ "from": args.from, "speed": args.speed });
    let idle = args.skip_idle.map(|idle| json!(idle.as_millis() as u64));
    let more = [
        ("to", args.to.map(Value::from)),
        ("skip_idle_ms", idle),
        ("name", args.name.clone().map(Value::from)),
    ];
    for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        body[name] = value;
    }
    let answer = client.replay(&body).await?;
    let id = answer["operation_id"].as_str().unwrap_or_default().to_owned();
    let name = args.name.unwrap_or_else(|| id.clone());
    app.out.hint(&format!("publishing to taffrail.*.replay.{name}.>"));
    tokio::select! {
        done = op::conclude(app, &client, answer, !args.no_wait, None) => done,
        _ = tokio::signal::ctrl_c() => stop(app, &client, &id).await,
    }
}

/// Stops it and says how to go on: the log is the same tomorrow.
async fn stop(app: &App, client: &Client, id: &str) -> Result<(), Failure> {
    if let Ok(id) = id.parse::<Uuid>() {
        let reason = json!({ "reason": "interrupted at the command line" });
        client.cancel_operation(id, &reason).await?;
        let operation = client.operation(id).await?;
        let message = text(&operation, "/progress/message");
        app.out.hint(&format!("stopped: {message}; go on with --from behind that position"));
    }
    Err(Failure::Interrupted)
}

async fn verify(app: &App, args: VerifyArgs) -> Result<(), Failure> {
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
