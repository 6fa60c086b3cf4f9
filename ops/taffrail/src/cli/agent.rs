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
    Run(Box<RunArgs>),
    /// List agents
    List(Box<ListArgs>),
    /// Show an agent
    Get {
        /// Its id or name
        agent: String,
    },
    /// Describe an agent that a node is to start; `deploy` starts it
    Create(Box<CreateArgs>),
    /// Have a node start it, and wait until it is ready
    Deploy(Command),
    /// No new work; what it has it finishes, then it ends
    Drain {
        #[command(flatten)]
        command: Command,
        /// Seconds its tasks are waited for before they are handed back
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Put it to sleep; its workspace stays
    Hibernate(Command),
    /// Wake it up
    Wake(Command),
    /// Start it again
    Restart(Command),
    /// Have it look for work now, as a round that is recorded
    Round(Command),
    /// Start many again, a few at a time
    RestartAll(Box<RestartAllArgs>),
    /// End it at once
    Stop(Command),
    /// The health of all of them
    Health,
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

/// A new agent.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: String,
    /// The name of a profile, or a file with one (YAML or JSON)
    #[arg(long)]
    profile: String,
    /// What it is for
    #[arg(long)]
    role: Option<String>,
    /// Something it can do
    #[arg(long, value_name = "CAPABILITY")]
    capability: Vec<String>,
    /// Tasks it holds at once
    #[arg(long)]
    slots: Option<u32>,
    /// Have it started at once
    #[arg(long)]
    deploy: bool,
}

/// Which agents to start again.
#[derive(Debug, Args)]
pub struct RestartAllArgs {
    /// Those with this label
    #[arg(long)]
    label: Option<String>,
    /// Those started with this profile
    #[arg(long)]
    profile: Option<String>,
    /// Those of this role
    #[arg(long)]
    role: Option<String>,
    /// Those on this node, by id
    #[arg(long, value_name = "ID")]
    node: Option<Uuid>,
    /// How many may be on their way at once
    #[arg(long, value_name = "N")]
    at_once: Option<u32>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Do not wait for the operation's end
    #[arg(long)]
    no_wait: bool,
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
        AgentVerb::Run(args) => super::sidecar::run(app, *args).await,
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
        AgentVerb::Create(args) => create(app, *args).await,
        AgentVerb::Deploy(command) => send(app, "deploy", command).await,
        AgentVerb::Drain { command, timeout } => {
            let more = timeout.map(|s| json!({ "timeout_ms": s.saturating_mul(1_000) }));
            send_with(app, "drain", command, more.unwrap_or(json!({}))).await
        }
        AgentVerb::Hibernate(command) => send(app, "hibernate", command).await,
        AgentVerb::Wake(command) => send(app, "wake", command).await,
        AgentVerb::Round(command) => {
            let client = app.client()?;
            let id = find(&client, &command.agent).await?;
            let body = json!({ "reason": command.reason });
            let answer = client.command_agent(id, "begin_round", &body).await?;
            let name = printable(&command.agent, false);
            app.out.show(&answer, |_| format!("a round of {name} has begun\n"))
        }
        AgentVerb::Stop(command) => send(app, "force_stop", command).await,
        AgentVerb::RestartAll(args) => restart_all(app, *args).await,
        AgentVerb::Health => health(app).await,
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

async fn create(app: &App, args: CreateArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let mut body = json!({
        "name": args.name,
        "capabilities": args.capability,
        "profile": super::profile::given(&args.profile)?,
    });
    if let Some(role) = args.role {
        body["role"] = role.into();
    }
    if let Some(slots) = args.slots {
        body["slots"] = slots.into();
    }
    let made = client.register_agent(&body).await?;
    let id: Option<Uuid> = made["id"].as_str().and_then(|id| id.parse().ok());
    match id.filter(|_| args.deploy) {
        Some(id) => {
            let answer = client.command_agent(id, "deploy", &json!({})).await?;
            op::conclude(app, &client, answer, true, None).await
        }
        None => app.out.show(&made, |_| {
            let name = printable(&args.name, false);
            format!(
                "{}  {name} is known; start it with `taffrail agent deploy {name}`\n",
                text(&made, "id")
            )
        }),
    }
}

async fn restart_all(app: &App, args: RestartAllArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let mut body = json!({});
    let words = [
        ("label", args.label),
        ("profile", args.profile),
        ("role", args.role),
        ("node_id", args.node.map(|id| id.to_string())),
        ("reason", args.reason),
    ];
    for (name, value) in words {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    if let Some(at_once) = args.at_once {
        body["max_unavailable"] = at_once.into();
    }
    let answer = client.restart_fleet(&body).await?;
    op::conclude(app, &client, answer, !args.no_wait, None).await
}

async fn health(app: &App) -> Result<(), Failure> {
    let fleet = app.client()?.fleet().await?;
    app.out.show(&fleet, |out| {
        let states = |of: &Value| {
            let states = of["by_state"].as_object().into_iter().flatten();
            states.map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ")
        };
        let mut rows: Vec<(&str, Cell)> = vec![
            ("status", Cell::state(&text(&fleet, "status"))),
            ("agents", text(&fleet, "total").into()),
            ("states", states(&fleet).into()),
        ];
        for (kind, of) in [("node", "nodes"), ("crew", "crews")] {
            for (id, health) in fleet[of].as_object().into_iter().flatten() {
                let words = format!("{id}: {} ({})", text(health, "status"), states(health));
                rows.push((kind, words.into()));
            }
        }
        out.fields(&rows)
    })
}

async fn send(app: &App, name: &str, command: Command) -> Result<(), Failure> {
    send_with(app, name, command, json!({})).await
}

async fn send_with(
    app: &App,
    name: &str,
    command: Command,
    mut body: Value,
) -> Result<(), Failure> {
    let client = app.client()?;
    let id = find(&client, &command.agent).await?;
    if let Some(reason) = command.reason {
        body["reason"] = reason.into();
    }
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
