//! `taffrail node`: its flags alone. The settings behind them come from flag, environment and
//! file in this order, so no flag here has a built-in value.

use clap::Args;

/// `taffrail node`
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
The daemon keeps its id, its record of the agents and their workspaces in the folder `node` of
the data folder. Agents go on running when it ends, however it ends; the next daemon on the
folder takes them over.")]
pub struct NodeArgs {
    /// Unique among the nodes [env: TAFFRAIL_NODE_NAME] [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Cores for agents, such as 2 or 0.5 [env: TAFFRAIL_NODE_CPU] [default: all]
    #[arg(long, value_name = "CORES")]
    pub cpu: Option<String>,
    /// Memory for agents, such as 512MiB or 4GiB [env: TAFFRAIL_NODE_MEMORY] [default: all]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Agents at once [env: TAFFRAIL_NODE_SLOTS] [default: 50]
    #[arg(long, value_name = "N")]
    pub slots: Option<String>,
    /// A label that profiles may ask for, NAME or NAME=VALUE; may be given several times
    /// [env: TAFFRAIL_NODE_LABELS, separated by commas]
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// The folder below which profiles' secrets of kind `file` lie [env: TAFFRAIL_NODE_SECRETS_DIR]
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<String>,
    /// Between two exchanges with the managers, in milliseconds
    /// [env: TAFFRAIL_NODE_SYNC_EVERY_MS] [default: 5000]
    #[arg(long, value_name = "MS")]
    pub sync_every: Option<String>,
    /// End the agents with the daemon
    #[arg(long)]
    pub stop_agents: bool,
    /// Whose agents it runs
    #[arg(long, default_value = "default", env = "TAFFRAIL_TENANT")]
    pub tenant: String,
    /// The settings file [default: taffrail.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

impl NodeArgs {
    /// The settings among the flags, by name.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let labels = (!self.labels.is_empty()).then(|| self.labels.join(","));
        [
            ("node_name", self.name.clone()),
            ("node_cpu", self.cpu.clone()),
            ("node_memory", self.memory.clone()),
            ("node_slots", self.slots.clone()),
            ("node_labels", labels),
            ("node_secrets_dir", self.secrets_dir.clone()),
            ("node_sync_every_ms", self.sync_every.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}
