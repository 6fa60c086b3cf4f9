//! The command line: what can be typed, and the verbs that are clients of a server.
//!
//! Verbs that run servers ([`Verb::Up`] and its neighbours) are taken apart here and done
//! by the binary's own modules; [`run`] does all others.

mod agent;
mod as_of;
mod at;
mod audit;
mod batch;
mod bench;
mod dead;
mod diff;
mod discover;
mod events;
mod exec;
mod exit;
mod fail;
mod fork;
mod host;
mod human;
mod logs;
mod node;
mod nodes;
mod op;
mod out;
mod profile;
mod progress;
mod queue;
mod rebuild;
mod replay;
mod schedule;
mod seal;
mod sidecar;
mod submit;
mod table;
mod task;
mod top;
mod transfer;
mod verify;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, CommandFactory, Parser, Subcommand};
use client::Client;
use serde_json::{Value, json};

pub use as_of::refusal as no_past;
pub use bench::{BenchArgs, BenchVerb, PlanArgs, ReportArgs};
pub use discover::{RUNTIME_FILE, Runtime, default_data_dir, nats as nats_server};
pub use exit::Exit;
pub use fail::Failure;
pub use host::{
    ConfigArgs, ConfigVerb, DoctorArgs, MigrateArgs, Role, ServeArgs, ServersArgs, ServersVerb,
    UpArgs,
};
pub use node::NodeArgs;
pub use out::{Output, Printer};

static AFTER_HELP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\nEnvironment:\n  TAFFRAIL_URL, TAFFRAIL_TOKEN            the HTTP server and our token\n  \
         TAFFRAIL_NATS_URL, TAFFRAIL_NATS_TOKEN  the NATS server, for agents\n  \
         TAFFRAIL_DATA_DIR                       where a local `taffrail up` is looked for\n  \
         NO_COLOR                                no colours\n\
         A flag outweighs the environment. Without either, the local `taffrail up` is used.",
        Exit::table()
    )
});

/// Event-sourced orchestration of agents.
#[derive(Debug, Parser)]
#[command(name = "taffrail", version, propagate_version = true, after_help = AFTER_HELP.as_str())]
pub struct Cli {
    /// Flags that stand before or behind any verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb knows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The server's HTTP address [env: TAFFRAIL_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// The bearer token; the environment keeps it out of `ps` [env: TAFFRAIL_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The NATS address [env: TAFFRAIL_NATS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// The NATS token [env: TAFFRAIL_NATS_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub nats_token: Option<String>,
    /// The data folder [env: TAFFRAIL_DATA_DIR] [default: $XDG_DATA_HOME/taffrail]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Output,
    /// As it was then, for verbs that list or show: a position, or an instant such as
    /// 2026-01-31T12:00:00Z
    #[arg(long, global = true, value_name = "POSITION|TIME", allow_negative_numbers = true)]
    pub as_of: Option<String>,
    /// No colours [env: NO_COLOR]
    #[arg(long, global = true)]
    pub no_color: bool,
    /// No progress and no hints
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Globals {
    /// Where answers go.
    pub fn printer(&self) -> Printer {
        Printer::new(self.output, self.no_color, self.quiet)
    }
}

/// All verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start everything on this machine, PostgreSQL and NATS included
    Up(UpArgs),
    /// Run some roles against shared servers
    Serve(ServeArgs),
    /// Run agents on this host, as the control plane wants them
    Node(NodeArgs),
    /// Bring the database to this release's schema
    Migrate(MigrateArgs),
    /// Check what Taffrail needs of this machine
    Doctor(DoctorArgs),
    /// The server programs that `up` runs
    Servers(ServersArgs),
    /// The settings and where they come from
    Config(ConfigArgs),
    /// Measure how much work this machine does, beside what it could do at all
    Bench(BenchArgs),
    /// The verbs of [`run`]
    #[command(flatten)]
    Client(ClientVerb),
}

/// The verbs that need nothing but a server.
#[derive(Debug, Subcommand)]
pub enum ClientVerb {
    /// Submit tasks and see what becomes of them
    #[command(subcommand)]
    Task(task::TaskVerb),
    /// See queues and their depths
    #[command(subcommand)]
    Queue(queue::QueueVerb),
    /// Tasks that failed or whose attempts are used up
    #[command(subcommand)]
    Dead(dead::DeadVerb),
    /// Tasks that are submitted at a time or on an event
    #[command(subcommand)]
    Schedule(schedule::ScheduleVerb),
    /// Run agents and look after them
    #[command(subcommand)]
    Agent(agent::AgentVerb),
    /// What an agent and its tasks print
    Logs(logs::LogsArgs),
    /// How agents of a kind are started, watched and stopped
    #[command(subcommand)]
    Profile(profile::ProfileVerb),
    /// The hosts that start agents
    #[command(subcommand)]
    Nodes(nodes::NodesVerb),
    /// Long-running operations
    #[command(subcommand)]
    Op(op::OpVerb),
    /// What goes on, live: queues, agents, operations
    Top(top::TopArgs),
    /// The log of events
    Events(events::EventsArgs),
    /// Who did what and why, refusals included
    Audit(audit::AuditArgs),
    /// What appeared, vanished and changed between two moments
    Diff(diff::DiffArgs),
    /// The first position at which something was true, by halving
    Bisect(diff::BisectArgs),
    /// Step through the log, with the rows before and after each event
    At(at::AtArgs),
    /// Because of what something happened, and what came of it
    Why(why::WhyArgs),
    /// The seals of the log, and proofs that it was not changed
    #[command(subcommand)]
    Seal(seal::SealVerb),
    /// Write the log, or a stretch of it, into a file that proves itself
    Export(transfer::ExportArgs),
    /// Bring an export into an empty instance
    Import(transfer::ImportArgs),
    /// Check an export, or the live database, against the seals of the log
    Verify(verify::VerifyArgs),
    /// Build a read model anew from the log
    Rebuild(rebuild::RebuildArgs),
    /// What would have happened, had something been different
    Fork(fork::ForkArgs),
    /// Publish past events once more, to subjects of their own; or go through the log again
    Replay(replay::ReplayArgs),
    /// The version of this program and of the server
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Become a command that ends with its agent
    #[command(name = exec::VERB, hide = true)]
    Exec(exec::ExecArgs),
}

/// What a verb works with.
pub(crate) struct App {
    globals: Globals,
    out: Printer,
}

impl App {
    fn client(&self) -> Result<Client, Failure> {
        let server = discover::http(&self.globals)?;
        let client = Client::new(&server.url, server.token.as_deref())?;
        Ok(match &self.globals.as_of {
            Some(moment) => client.as_of(moment),
            None => client,
        })
    }

    /// The data folder that is meant.
    fn data_dir(&self) -> PathBuf {
        self.globals.data_dir.clone().unwrap_or_else(default_data_dir)
    }
}

/// Does a verb of a client and says how it went.
pub async fn run(globals: Globals, verb: ClientVerb) -> ExitCode {
    let app = App { out: globals.printer(), globals };
    if let Err(refusal) = as_of::check(&app, &verb) {
        refusal.report(app.out.output);
        return refusal.exit().into();
    }
    // Some end by themselves when interrupted: an agent's tasks first.
    let done = if let ClientVerb::Agent(agent::AgentVerb::Run(args)) = verb {
        sidecar::run(&app, *args).await
    } else if let ClientVerb::Replay(args) = &verb
        && args.takes_interrupts()
    {
        dispatch(&app, verb).await
    } else {
        interruptible(dispatch(&app, verb)).await
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            failure.report(app.out.output);
            failure.exit().into()
        }
    }
}

async fn interruptible(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    }
}

async fn dispatch(app: &App, verb: ClientVerb) -> Result<(), Failure> {
    match verb {
        ClientVerb::Task(verb) => task::run(app, verb).await,
        ClientVerb::Queue(verb) => queue::run(app, verb).await,
        ClientVerb::Dead(verb) => dead::run(app, verb).await,
        ClientVerb::Schedule(verb) => schedule::run(app, verb).await,
        ClientVerb::Agent(verb) => agent::run(app, verb).await,
        ClientVerb::Logs(args) => logs::run(app, args).await,
        ClientVerb::Profile(verb) => profile::run(app, verb).await,
        ClientVerb::Nodes(verb) => nodes::run(app, verb).await,
        ClientVerb::Op(verb) => op::run(app, verb).await,
        ClientVerb::Top(args) => top::run(app, args).await,
        ClientVerb::Events(args) => events::run(app, args).await,
        ClientVerb::Audit(args) => audit::run(app, args).await,
        ClientVerb::Diff(args) => diff::diff(app, args).await,
        ClientVerb::Bisect(args) => diff::bisect(app, args).await,
        ClientVerb::At(args) => at::run(app, args).await,
        ClientVerb::Why(args) => why::run(app, args).await,
        ClientVerb::Seal(verb) => seal::run(app, verb).await,
        ClientVerb::Export(args) => transfer::export(app, args).await,
        ClientVerb::Import(args) => transfer::import(app, args).await,
        ClientVerb::Verify(args) => verify::run(app, args).await,
        ClientVerb::Rebuild(args) => rebuild::run(app, args).await,
        ClientVerb::Fork(args) => fork::run(app, args).await,
        ClientVerb::Replay(args) => replay::run(app, args).await,
        ClientVerb::Version => version(app).await,
        ClientVerb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "taffrail", &mut script);
            app.out.text(&String::from_utf8_lossy(&script))
        }
        ClientVerb::Exec(args) => Err(exec::run(args)),
    }
}

async fn version(app: &App) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    // The program's own version needs no server.
    let server = match app.client() {
        Ok(client) => client.version().await.unwrap_or(Value::Null),
        Err(_) => Value::Null,
    };
    app.out.show(&json!({ "version": own, "server": server }), |_| {
        match server["version"].as_str() {
            Some(theirs) => format!("taffrail {own} (server {theirs})\n"),
            None => format!("taffrail {own}\n"),
        }
    })
}

#[cfg(test)]
mod tests;
