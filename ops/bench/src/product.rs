//! What the benchmark needs of the program that it is a part of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use commands::Executor;
use futures::future::BoxFuture;

/// Settings of a hosted product that a cell changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Live aggregates kept in memory; the shipped number where absent.
    pub cache: Option<usize>,
    /// Without the sealer.
    pub unsealed: bool,
}

/// The program around us.
pub trait Product: Send + Sync + 'static {
    /// The program's own file, which starts as a server.
    fn program(&self) -> &Path;

    /// Where the private servers' programs come from.
    fn servers(&self) -> servers::Options;

    /// Starts servers on a folder and all roles inside this process.
    fn host(&self, folder: PathBuf, tuning: Tuning) -> BoxFuture<'static, anyhow::Result<Hosted>>;
}

/// A product that runs inside this process.
pub struct Hosted {
    /// `http://127.0.0.1:…`
    pub http: String,
    /// The first admin token.
    pub token: String,
    /// `nats://…`
    pub nats_url: String,
    /// NATS's token.
    pub nats_token: Option<String>,
    /// PostgreSQL as its owner.
    pub database_url: String,
    /// The postmaster.
    pub postgres_pid: Option<u32>,
    /// nats-server.
    pub nats_pid: Option<u32>,
    /// The library call.
    pub executor: Arc<dyn Executor>,
    /// Ends roles and servers.
    pub stop: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send + Sync>,
}
