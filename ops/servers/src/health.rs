//! What readiness asks about the servers.

/// How one supervised server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// Answers.
    Running,
    /// Its child ended unasked and is being started again.
    Restarting,
    /// Given up after too many ends in a row; the reason is the last one.
    Failed(String),
    /// Stopped because it was asked to.
    Stopped,
}

/// Both servers' states at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// PostgreSQL.
    pub postgres: ServerState,
    /// nats-server.
    pub nats: ServerState,
}

impl Health {
    /// Whether both servers answer.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.postgres == ServerState::Running && self.nats == ServerState::Running
    }

    /// Whether a server was given up, so that waiting does not help.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.postgres, ServerState::Failed(_))
            || matches!(self.nats, ServerState::Failed(_))
    }
}
