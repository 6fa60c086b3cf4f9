//! Verbs that run servers: their flags alone. The settings behind them come from flag,
//! environment and file in this order, so no flag here has a built-in value.

use clap::{Args, Subcommand, ValueEnum};

/// `taffrail up`
#[derive(Debug, Clone, Default, Args)]
pub struct UpArgs {
    /// Where HTTP listens; port 0 picks a free one [env: TAFFRAIL_HTTP_ADDR] [default: 127.0.0.1:7117]
    #[arg(long, value_name = "ADDR")]
    pub http_addr: Option<String>,
    /// Keep nothing: a data folder of its own that goes with the process
    #[arg(long, conflicts_with = "data_dir")]
    pub ephemeral: bool,
    /// Never fetch server programs; use what is there
    #[arg(long)]
    pub offline: bool,
    /// Run agents here, too: a node with all that this machine has, which ends its agents with it
    #[arg(long)]
    pub node: bool,
    /// Use this PostgreSQL instead of an own one [env: TAFFRAIL_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The settings file [default: taffrail.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

/// `taffrail serve`
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// A role to run; may be given several times
    #[arg(long = "role", value_enum, required = true, value_delimiter = ',')]
    pub roles: Vec<Role>,
    /// Where HTTP listens [env: TAFFRAIL_HTTP_ADDR] [default: 127.0.0.1:7117]
    #[arg(long, value_name = "ADDR")]
    pub http_addr: Option<String>,
    /// The PostgreSQL server [env: TAFFRAIL_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The settings file [default: taffrail.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

/// A part of the system that a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Role {
    /// HTTP, live streams, WebSocket
    Gateway,
    /// Decides and commits commands
    Processor,
    /// Publishes the log to JetStream
    Relay,
    /// Keeps the read models
    Projector,
    /// Scheduler, lease watcher, timers, operations
    Managers,
    /// Signs what the log is, and publishes that outside the database
    Sealer,
}

impl Role {
    /// Every role, in the order of the documents.
    pub const ALL: [Self; 6] = [
        Self::Gateway,
        Self::Processor,
        Self::Relay,
        Self::Projector,
        Self::Managers,
        Self::Sealer,
    ];
}

/// `taffrail migrate`
#[derive(Debug, Clone, Default, Args)]
pub struct MigrateArgs {
    /// The PostgreSQL server, as the schema's owner [env: TAFFRAIL_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The settings file [default: taffrail.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

/// `taffrail doctor`
#[derive(Debug, Clone, Default, Args)]
pub struct DoctorArgs {
    /// The PostgreSQL server to look at [env: TAFFRAIL_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Never fetch server programs; use what is there
    #[arg(long)]
    pub offline: bool,
}

/// `taffrail servers`
#[derive(Debug, Clone, Args)]
pub struct ServersArgs {
    /// What about them
    #[command(subcommand)]
    pub verb: ServersVerb,
}

/// What can be done about the server programs.
#[derive(Debug, Clone, Subcommand)]
pub enum ServersVerb {
    /// Find PostgreSQL and nats-server, or fetch them into the cache
    Fetch {
        /// Only look; fetch nothing
        #[arg(long)]
        offline: bool,
    },
}

/// `taffrail config`
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// What about them
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// What can be done about the settings.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigVerb {
    /// Print the settings in force
    Show {
        /// With the source of each: flag, environment, file or built-in
        #[arg(long)]
        origin: bool,
        /// The settings file [default: taffrail.toml, where there is one]
        #[arg(long, value_name = "FILE")]
        config: Option<std::path::PathBuf>,
    },
}
