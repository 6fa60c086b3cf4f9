//! `taffrail bench`: its flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `taffrail bench`
#[derive(Debug, Clone, Args)]
#[command(
    long_about = "Measure how much work this machine does, beside what it could do at all.\n\n\
                  Starts servers of its own below the data folder (so that the disk is the one \
                  that will be used), measures, and removes them. Without a verb: the main cells \
                  and their limits, in a minute or two."
)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub verb: Option<BenchVerb>,
}

/// What can be measured.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchVerb {
    /// Workloads by name: W1a W1b W1c W2a … W7, S1 (scheduler decisions), L1 … L3 (agents), V1
    /// (checking an export), V2 (what sealing costs), or all
    Run(Selection),
    /// What the machine could do at all: disk, PostgreSQL, NATS, HTTP without the product
    Limits(PlanArgs),
    /// W1a, W1c: commands through the library call
    Append(PlanArgs),
    /// W1b: commands over HTTP
    Http(PlanArgs),
    /// W1b: commands over NATS
    Nats(PlanArgs),
    /// W2: lives of tasks
    Tasks(PlanArgs),
    /// W3: from submit to the handler's start
    Latency(PlanArgs),
    /// W4: read models rebuilt, their lag, streams read back
    Rebuild(PlanArgs),
    /// W5: subscribers of the live stream
    Fanout(PlanArgs),
    /// W6: HTTP queries
    Query(PlanArgs),
    /// W7: from the start to the first accepted command, and memory
    Restart(PlanArgs),
    /// T1: questions about the past of a long log
    Time(PlanArgs),
    /// L1: starts in a sandbox, beside bare ones
    Spawn(PlanArgs),
    /// L2: from deploy to ready, through a node
    Deploy(PlanArgs),
    /// L3: 10,000 agents that send heartbeats, and the watchdog's look at them
    Fleet(PlanArgs),
    /// Write a report from lines of JSON: targets, limits, cells, plots
    Report(ReportArgs),
}

/// `taffrail bench report`
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Lines of `bench limits --out`
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
    /// Lines of `bench run --out`; may be given several times
    #[arg(long, value_name = "FILE")]
    pub cells: Vec<PathBuf>,
    /// Lines of the reference limits program, measured beside them
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// The report; plots go into the folder of its name, `notes.md` there is taken in
    #[arg(long, default_value = "docs/performance.md", value_name = "FILE")]
    pub out: PathBuf,
}

/// `taffrail bench run`
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Names of workloads, or the beginning of names (`W2` is W2a to W2c)
    #[arg(value_name = "WORKLOAD", required = true)]
    pub workloads: Vec<String>,
    /// How long and how often
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// How long and how often.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Seconds that each cell is measured; a quarter of it goes before, to warm up
    #[arg(long, default_value_t = 5.0, value_name = "S", value_parser = seconds)]
    pub seconds: f64,
    /// Rounds of all cells; a figure is the median over the rounds
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,
    /// One round of one second: a look, no measurement
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    pub quick: bool,
    /// Only cells with so many clients (connections, workers, subscribers)
    #[arg(long, value_name = "N")]
    pub clients: Option<u64>,
    /// Only cells whose parameters contain this text, such as `via=http`
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Without the limit cells beside the workloads
    #[arg(long)]
    pub no_limits: bool,
    /// Appends one JSON line per cell to this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0.1 to 3600".into())
    }
}
