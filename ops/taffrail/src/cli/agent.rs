//! `taffrail agent`

use clap::{Args, Subcommand};
use client::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fail::Failure;
use super::human::{age, text};
use super::sidecar::RunArgs;
use super::table::{Cell, printable};
use super::task::Page;
use super::{App, op};

/// What can be done about agents.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// Make any executable an agent: one run of the command per task
    Run(RunArgs),
    /// List agents
    List(Box<ListArgs>),
    /// Show an agent
    Get {
        /// Its id or name
        agent: String,
    },
    /// No new work; what it has it finishes, then it ends
    Drain(Command),
    /// Start it again
    Restart(Command),
    /// Gone for good; its name is free again
    Retire(Command),
    /// What it and its tasks print
    Logs(super::logs::LogsArgs),
}

/// Filters of a list of agents.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// ready, busy, offline, …
    #[arg(long)]
    state: Option<String>,
    /// Its role
    #[arg(long)]
    role: Option<String>,
    /// Something it can do
    #[arg(long)]
    capability: Option<String>,
    /// A label
    #[arg(long)]
    label: Option<String>,
    /// Words in the name
    #[arg(short = 's', long = "search", value_name = "TEXT")]
    q: Option<String>,
    #[command(flatten)]
    page: Page,
}

/// A command to an agent.
#[derive(Debug, Args)]
pub struct Command {
    /// Its id or name
    agent: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Do not wait for the operation's end
    #[arg(long)]
    no_wait: bool,
}

/// Does it.
pub async fn run(app: &App, verb: AgentVerb) -> Result<(), Failure> {
    match verb {
        AgentVerb::Run(args) => super::sidecar::run(app, args).await,
        AgentVerb::List(args) => {
            let filter = vec![
                ("state", args.state),
                ("role", args.role),
                ("capability", args.capability),
                ("label", args.label),
                ("q", args.q),
            ];
            let answer = app.client()?.agents(&args.page.with(filter)).await?;
            let headers = ["ID", "NAME", "STATE", "SLOTS", "TASKS", "HEARTBEAT", "CAPABILITIES"];
            app.out.list(&answer, &headers, row)
        }
        AgentVerb::Get { agent } => {
            let client = app.client()?;
            let agent = client.agent(find(&client, &agent).await?).await?;
            app.out.show(&agent, |out| {
                let rows: Vec<(&str, Cell)> = agent
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, _)| (name.as_str(), cell(name, &agent)))
                    .collect();
                out.fields(&rows)
            })
        }
        AgentVerb::Drain(command) => send(app, "drain", command).await,
        AgentVerb::Restart(command) => send(app, "restart", command).await,
        AgentVerb::Retire(command) => send(app, "retire", command).await,
        AgentVerb::Logs(args) => super::logs::run(app, args).await,
    }
}

/// The agent of an id or a name; of several lives of a name the one that is not retired.
pub(super) async fn find(client: &Client, named: &str) -> Result<Uuid, Failure> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    let query = [("q", named.to_owned()), ("limit", "200".to_owned())];
    let page = client.agents(&query).await?;
    let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut of_name: Vec<&Value> = items.iter().filter(|agent| agent["name"] == named).collect();
    of_name.sort_by_key(|agent| agent["state"] == "retired");
    let id = of_name.first().and_then(|agent| agent["id"].as_str()?.parse().ok());
    id.ok_or_else(|| {
        let detail = format!("there is no agent named `{}`", printable(named, false));
        let problem = domain::Problem::new(domain::Code::NotFound, detail);
        client::Error::Refused(Box::new(problem)).into()
    })
}

async fn send(app: &App, name: &str, command: Command) -> Result<(), Failure> {
    let client = app.client()?;
    let id = find(&client, &command.agent).await?;
    let body = command.reason.map_or(json!({}), |reason| json!({ "reason": reason }));
    let answer = client.command_agent(id, name, &body).await?;
    op::conclude(app, &client, answer, !command.no_wait, None).await
}

fn row(agent: &Value) -> Vec<Cell> {
    let tasks = &agent["tasks"];
    let tasks = tasks.as_array().map(|tasks| tasks.len() as u64).or(tasks.as_u64());
    let tasks = tasks.map(|n| n.to_string()).unwrap_or_default();
    vec![
        text(agent, "id").into(),
        text(agent, "name").into(),
        Cell::state(&text(agent, "state")),
        text(agent, "slots").into(),
        tasks.into(),
        age(&text(agent, "last_heartbeat")).into(),
        text(agent, "capabilities").into(),
    ]
}

fn cell(name: &str, agent: &Value) -> Cell {
    let value = text(agent, name);
    match name {
        "state" | "desired_state" | "observed_state" => Cell::state(&value),
        "last_heartbeat" | "created_at" | "updated_at" => {
            format!("{value} ({})", age(&value)).into()
        }
        _ => value.into(),
    }
}
