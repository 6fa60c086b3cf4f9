//! What can go wrong between us and the server.

use std::time::Duration;

use domain::Problem;

/// Why a call gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base address is no HTTP address.
    #[error("`{0}` is not an http:// or https:// address")]
    Address(String),
    /// The token has characters that no header may carry.
    #[error("the token has characters that an HTTP header cannot carry")]
    Token,
    /// No answer came.
    #[error("cannot reach {url}")]
    Unreachable {
        /// Where it was asked for.
        url: String,
        /// What the transport said.
        #[source]
        source: reqwest::Error,
    },
    /// The server said no, and why.
    #[error("{}: {}", .0.title, .0.detail)]
    Refused(Box<Problem>),
    /// The answer is not one of this API.
    #[error("{url} answered {status}, which is not an answer of Taffrail: {excerpt}")]
    Unexpected {
        /// Where it was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How the body begins.
        excerpt: String,
    },
    /// A stream sent more in one piece than this client keeps.
    #[error("the stream sent a frame of more than {0} bytes")]
    FrameTooLong(usize),
    /// It did not happen in time.
    #[error("{what} took longer than {} s", .after.as_secs_f32())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
}

impl Error {
    /// Whether the same call may succeed a little later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => matches!(problem.status, 429 | 502..=504),
            Self::Unexpected { status, .. } => matches!(status, 429 | 502..=504),
            Self::Address(_) | Self::Token | Self::FrameTooLong(_) | Self::TimedOut { .. } => false,
        }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::Unexpected { status, .. } => Some(*status),
            Self::Unreachable { .. }
            | Self::Address(_)
            | Self::Token
            | Self::FrameTooLong(_)
            | Self::TimedOut { .. } => None,
        }
    }
}
