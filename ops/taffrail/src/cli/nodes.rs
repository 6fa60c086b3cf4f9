//! `taffrail nodes`

use clap::{Args, Subcommand};
use client::Client;
use serde_json::{Value, json};

use super::fail::Failure;
use super::human::text;
use super::table::{Cell, printable};
use super::task::Page;
use super::{App, op};

/// What can be done about nodes.
#[derive(Debug, Subcommand)]
pub enum NodesVerb {
    /// List nodes
    List {
        /// online, draining, offline, retired
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show a node with its agents
    Get {
        /// Its id or name
        node: String,
    },
    /// Place nothing new on it and move its agents, a few at a time
    Drain {
        #[command(flatten)]
        named: Named,
        /// How many agents may be on their way at once
        #[arg(long, value_name = "N")]
        at_once: Option<u32>,
        /// Do not wait for the operation's end
        #[arg(long)]
        no_wait: bool,
    },
    /// Give it agents again
    Resume(Named),
    /// Gone for good; its name is free again
    Retire(Named),
}

/// A node, and why.
#[derive(Debug, Args)]
pub struct Named {
    /// Its id or name
    node: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// Does it.
pub async fn run(app: &App, verb: NodesVerb) -> Result<(), Failure> {
    let client = app.client()?;
    let (named, name, done) = match verb {
        NodesVerb::List { state, page } => {
            let answer = client.nodes(&page.with(vec![("state", state)])).await?;
            let headers = ["ID", "NAME", "STATE", "AGENTS", "CPU", "MEMORY", "LEVEL"];
            return app.out.list(&answer, &headers, row);
        }
        NodesVerb::Get { node } => {
            let id = find(&client, &node).await?;
            let node = client.node(&id).await?;
            return app.out.show(&node, |out| {
                let fields = node.as_object().into_iter().flatten();
                let rows: Vec<(&str, Cell)> = fields
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, _)| match name.as_str() {
                        "state" => ("state", Cell::state(&text(&node, "state"))),
                        name => (name, text(&node, name).into()),
                    })
                    .collect();
                out.fields(&rows)
            });
        }
        NodesVerb::Drain { named, at_once, no_wait } => {
            let id = find(&client, &named.node).await?;
            let body = json!({ "reason": named.reason, "max_unavailable": at_once });
            let answer = client.command_node(&id, "drain", &body).await?;
            return op::conclude(app, &client, answer, !no_wait, None).await;
        }
        NodesVerb::Resume(named) => (named, "resume", "takes agents again"),
        NodesVerb::Retire(named) => (named, "retire", "is retired"),
    };
    let id = find(&client, &named.node).await?;
    let body = named.reason.map_or(json!({}), |reason| json!({ "reason": reason }));
    let answer = client.command_node(&id, name, &body).await?;
    app.out.show(&answer, |_| format!("node {} {done}\n", printable(&named.node, false)))
}

/// The id of a node, by id or by name.
async fn find(client: &Client, named: &str) -> Result<String, Failure> {
    if uuid::Uuid::parse_str(named).is_ok() {
        return Ok(named.to_owned());
    }
    let page = client.nodes(&[("name", named.to_owned())]).await?;
    let found = page["items"].as_array().and_then(|items| items.first()?["id"].as_str());
    found.map(str::to_owned).ok_or_else(|| {
        let detail = format!("there is no node named `{}`", printable(named, false));
        let problem = domain::Problem::new(domain::Code::NotFound, detail);
        client::Error::Refused(Box::new(problem)).into()
    })
}

fn row(node: &Value) -> Vec<Cell> {
    let part = |of: &str, unit: f64, word: &str| {
        let number = |which: &str| node[which][of].as_f64().unwrap_or_default() / unit;
        format!("{:.1} of {:.1} {word}", number("used"), number("capacity"))
    };
    let slots = node["capacity"]["slots"].as_u64().unwrap_or_default();
    let taken = node["used"]["slots"].as_u64().unwrap_or_default();
    vec![
        text(node, "id").into(),
        text(node, "name").into(),
        Cell::state(&text(node, "state")),
        format!("{taken} of {slots}").into(),
        part("cpu_millis", 1_000.0, "cores").into(),
        part("memory_bytes", f64::from(1 << 30), "GiB").into(),
        text(node, "level").into(),
    ]
}
