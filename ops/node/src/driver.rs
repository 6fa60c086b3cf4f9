//! What processes are started in.
//!
//! A driver starts a run and finds it again after the daemon's own restart; a run is one
//! process with everything it started. Dropping a [`Run`] leaves the process alone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::AgentId;
use domain::agent::Exit;
use domain::node::Launch;
use domain::profile::{CommandLine, Level, Runtime};
use futures::future::BoxFuture;

mod process;

pub(crate) use process::{ProcessDriver, SOCKET, TOKEN_FILE};

/// What is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub agent: AgentId,
    pub launch: Box<Launch>,
    /// Beside those of the profile, and before them.
    pub env: BTreeMap<String, String>,
    /// File name to content.
    pub secrets: BTreeMap<String, String>,
    /// What belongs to this process alone; it need not exist.
    pub dir: PathBuf,
    /// What it may write to; it exists.
    pub workspace: PathBuf,
    /// With the agent's Unix socket.
    pub sockets: Option<PathBuf>,
    /// Standard input; nothing when absent.
    pub input: Option<Vec<u8>>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct NotStarted {
    pub reason: String,
    /// No restart will help.
    pub permanent: bool,
}

/// What became of a run while the daemon was away.
pub(crate) enum Found {
    /// It goes on.
    Running(Arc<dyn Run>),
    /// It is over.
    Over(Ending),
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The word on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of output.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// Where it begins: later than asked for where that is no longer kept.
    pub at: u64,
    pub bytes: Vec<u8>,
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// `None`: nobody knows.
    pub exit: Option<Exit>,
    /// What the exit does not say.
    pub note: Option<String>,
}

/// How a program that was asked for its word ended.
#[derive(Debug)]
pub(crate) struct Word {
    pub success: bool,
    /// For people: code or signal, and the end of what it wrote.
    pub detail: String,
}

/// Where processes are started.
pub(crate) trait Driver: Send + Sync {
    /// The profile's word for it.
    fn runtime(&self) -> Runtime;

    /// The strongest isolation that it enforces here.
    fn level(&self) -> Level;

    /// Starts a run; when it yields, the program was executed.
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Arc<dyn Run>, NotStarted>>;

    /// Looks for a run that another daemon started.
    fn adopt(&self, job: Job) -> BoxFuture<'_, Found>;

    /// A run that is over, for what it wrote.
    fn remains(&self, job: &Job) -> Option<Arc<dyn Run>>;
}

/// A process with all that it started.
pub(crate) trait Run: Send + Sync {
    /// As the host numbers it.
    fn pid(&self) -> Option<u32>;

    /// Asks it to end.
    fn terminate(&self) -> BoxFuture<'_, ()>;

    /// Ends everything in it.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Waits for its end.
    fn wait(&self) -> BoxFuture<'_, Ending>;

    /// Runs another program in the same isolation and workspace.
    fn exec<'a>(
        &'a self,
        command: &'a CommandLine,
        within: Duration,
    ) -> BoxFuture<'a, io::Result<Word>>;

    /// Output from an offset on; empty when there is none yet.
    fn output(&self, stream: Stream, from: u64, most: usize) -> io::Result<Piece>;

    /// The daemon ends: what cannot go on without it is handed back.
    fn let_go(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
