//! What can go wrong between us and the log.

/// A failed dealing with the log.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or the connection broke.
    #[error("the database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// No connection could be had.
    #[error("no database connection: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// Another process holds the right to append: stop, do not retry.
    #[error("the lease to append is lost")]
    LeaseLost,
    /// A position is missing in what was read: an alarm, never something to skip.
    #[error("the log has a hole: position {expected} expected, {found} found")]
    Hole {
        /// What should have come next.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A row does not have the shape that this release writes.
    #[error("row at position {position}: {reason}")]
    Row {
        /// Where it stands.
        position: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// The server or its settings cannot carry the promises; says what to change.
    #[error("{0}")]
    Unfit(String),
}

impl StoreError {
    /// Whether a unique key refused the append: somebody else wrote, or a repeat.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(error)
            if error.code() == Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION))
    }

    /// Whether the server or the way to it failed, not the content: the same append may
    /// pass later, be it after somebody repaired something. To blame are classes 22 (data),
    /// 23 (integrity), 54 (limits) and XX (a page that cannot be read); PostgreSQL manual,
    /// appendix A.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => error.code().is_none_or(|state| {
                let code = state.code();
                !["22", "23", "54", "XX"].iter().any(|class| code.starts_with(class))
            }),
            Self::Pool(_) => true,
            Self::LeaseLost | Self::Hole { .. } | Self::Row { .. } | Self::Unfit(_) => false,
        }
    }
}
