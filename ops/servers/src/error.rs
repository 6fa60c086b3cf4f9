//! Why a server could not be started.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// A server that did not come up; the text names the server and what was seen.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or folder of the server could not be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was attempted, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program could not be started at all.
    #[error("cannot start {program}")]
    Spawn {
        /// Which program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program ended before it was ready.
    #[error("{server} ended before it was ready ({status}){}", tail(log))]
    Ended {
        /// Which server or tool.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it logged.
        log: String,
    },
    /// The program runs but did not become ready in time.
    #[error("{server} was not ready after {waited:?}{}", tail(log))]
    NotReady {
        /// Which server.
        server: &'static str,
        /// How long it was given.
        waited: Duration,
        /// The last lines it logged.
        log: String,
    },
    /// The data folder was made by another major version.
    #[error(
        "{} was made by PostgreSQL {found}, the program at hand is PostgreSQL {program}: point \
         TAFFRAIL_POSTGRES_BIN_DIR at PostgreSQL {found}, or export from the old one and start on an empty folder",
        path.display()
    )]
    OtherMajor {
        /// The cluster's folder.
        path: PathBuf,
        /// Major version of the data.
        found: String,
        /// Major version of the program.
        program: String,
    },
    /// A previous server still runs on the folder and does not leave.
    #[error("{server} (pid {pid}) still runs on {} and does not stop", path.display())]
    StillRunning {
        /// Which server.
        server: &'static str,
        /// Its process id.
        pid: u32,
        /// The folder it uses.
        path: PathBuf,
    },
    /// The server answered the first statement with an error.
    #[error("PostgreSQL does not answer as expected while {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The server's or the client's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Our own machinery broke off, for instance because the runtime is shutting down.
    #[error("the supervisor of {server} stopped while {doing}")]
    Interrupted {
        /// Which server.
        server: &'static str,
        /// What was being done.
        doing: &'static str,
    },
}

impl StartError {
    /// Whether the same start may succeed when tried again shortly.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Spawn { .. } | Self::Ended { .. } | Self::NotReady { .. } | Self::Sql { .. } => {
                true
            }
            Self::File { .. }
            | Self::OtherMajor { .. }
            | Self::StillRunning { .. }
            | Self::Interrupted { .. } => false,
        }
    }

    /// The wrapper for `map_err` on file operations.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its last words:\n{log}") }
}
