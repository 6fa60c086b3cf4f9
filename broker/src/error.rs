//! What can go wrong between us and NATS.

use std::fmt::Display;

/// A failed dealing with NATS, or with the log on its behalf.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No server could be reached under the address.
    #[error("no connection to NATS at {url}: {reason}")]
    Connect {
        /// Where it was tried.
        url: String,
        /// What the client said.
        reason: String,
    },
    /// The server cannot carry our promises; says what to change.
    #[error("{0}")]
    Unfit(String),
    /// A request to the server failed; the same may pass later.
    #[error("NATS, {what}: {reason}")]
    Nats {
        /// What was attempted.
        what: &'static str,
        /// What came back.
        reason: String,
    },
    /// The log could not be read.
    #[error("the log: {0}")]
    Store(#[from] store::StoreError),
}

impl BrokerError {
    /// A failure of a request, with what it was for.
    pub(crate) fn nats(what: &'static str, reason: impl Display) -> Self {
        Self::Nats { what, reason: reason.to_string() }
    }
}

/// Names the attempt that an error of the client belongs to.
pub(crate) trait During<T> {
    /// Turns the client's error into ours.
    fn during(self, what: &'static str) -> Result<T, BrokerError>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, what: &'static str) -> Result<T, BrokerError> {
        self.map_err(|error| BrokerError::nats(what, error))
    }
}
