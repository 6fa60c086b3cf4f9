//! Why a daemon cannot go on.

use std::path::PathBuf;

use domain::Problem;
use uuid::Uuid;

/// Why a daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the data folder cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon runs on the data folder.
    #[error("{} is in use by another node; stop it first or choose another --data-dir", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
    },
    /// NATS is there and does not let us in.
    #[error("cannot connect to NATS at {url}")]
    Connect {
        /// Where; without user and password.
        url: String,
        /// What the client said.
        #[source]
        source: async_nats::ConnectError,
    },
    /// A subscription was not taken.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// To what.
        subject: String,
        /// What the client said.
        #[source]
        source: async_nats::SubscribeError,
    },
    /// Another node has the name.
    #[error("the name {name} belongs to another node{}; choose another with --name",
        holder.map(|id| format!(" ({id})")).unwrap_or_default())]
    NameTaken {
        /// The name.
        name: String,
        /// The node that has it.
        holder: Option<Uuid>,
    },
    /// The node was retired, which is for good.
    #[error("node {id} was retired; to make this host a new node, remove {}", file.display())]
    Retired {
        /// The node.
        id: Uuid,
        /// The file that holds its id.
        file: PathBuf,
    },
    /// The node is not taken for another reason.
    #[error("the registration was refused: {}: {}", problem.title, problem.detail)]
    Refused {
        /// Why.
        problem: Box<Problem>,
    },
    /// No isolation at all can be had, so nothing could be started.
    #[error("agents cannot be isolated on this host: {reason}")]
    NoDriver {
        /// Why.
        reason: String,
    },
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { path: path.into(), source }
    }
}
