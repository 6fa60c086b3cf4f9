//! How a daemon is set up.

use std::path::PathBuf;
use std::time::Duration;

use domain::TenantId;
use domain::node::Capacity;
use domain::values::Labels;

/// How a daemon is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose agents it runs.
    pub tenant: TenantId,
    /// Unique among the tenant's nodes.
    pub name: String,
    /// The NATS server.
    pub nats_url: String,
    /// Its token.
    pub nats_token: Option<String>,
    /// What the daemon keeps: its id, its book, the agents' workspaces.
    pub data_dir: PathBuf,
    /// Where profiles' secrets of kind `file` lie; none can be had when absent.
    pub secrets_dir: Option<PathBuf>,
    /// What is offered to agents.
    pub capacity: Capacity,
    /// Free labels.
    pub labels: Labels,
    /// Between two exchanges with the managers.
    pub sync_every: Duration,
    /// Whether the agents end with the daemon.
    pub stop_agents: bool,
    /// How long the workspace of an agent is kept that is not placed here any more.
    pub keep_workspaces: Duration,
}

impl Options {
    /// A node of the default tenant with all that this host has.
    pub fn new(nats_url: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            name: crate::hostname(),
            nats_url: nats_url.into(),
            nats_token: None,
            data_dir: data_dir.into(),
            secrets_dir: None,
            capacity: crate::capacity(),
            labels: Labels::default(),
            // The managers take a node for gone after several of these.
            sync_every: Duration::from_secs(5),
            stop_agents: false,
            // A hibernating agent is not placed anywhere, and wants its files when it wakes.
            keep_workspaces: Duration::from_secs(30 * 86_400),
        }
    }
}
