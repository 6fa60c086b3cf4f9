//! What can go wrong between an agent and the server.

use domain::{AgentId, Problem};

/// Why an agent cannot go on, or a message got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or does not let us in.
    #[error("cannot connect to NATS at {url}")]
    Connect {
        /// Where; without user and password.
        url: String,
        /// What the client said.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The gateway or the node's socket cannot be reached.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// Where; without user and password.
        url: String,
        /// What the last try met.
        reason: String,
    },
    /// The gateway or the node's socket does not let us in.
    #[error("{url} does not let us in: {reason}")]
    Denied {
        /// Where; without user and password.
        url: String,
        /// What it said.
        reason: String,
    },
    /// A file of ours cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A variable of the environment makes no sense.
    #[error("{name}: `{value}` {expected}")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
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
    /// Nobody answered, however often it was asked.
    #[error("no answer to {what} within {seconds} s: {last}")]
    Unanswered {
        /// What was asked.
        what: String,
        /// How long.
        seconds: u64,
        /// What the last try met.
        last: String,
    },
    /// The message is larger than the server takes.
    #[error("{what} is larger ({bytes} bytes) than the server takes ({limit})")]
    TooLarge {
        /// What was to be sent.
        what: String,
        /// Its size.
        bytes: usize,
        /// The server's limit.
        limit: usize,
    },
    /// The answer has no shape that we know.
    #[error("the answer to {what} cannot be read: {reason}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What the decoder said.
        reason: String,
    },
    /// Another process speaks for this agent, and answers.
    #[error("an agent named {name} is running already ({id}); stop it first or take another name")]
    Running {
        /// Its name.
        name: String,
        /// Its id.
        id: AgentId,
    },
    /// The server said no, and why.
    #[error("{what} was refused: {}: {}", problem.title, problem.detail)]
    Refused {
        /// What was asked.
        what: String,
        /// The server's word.
        problem: Box<Problem>,
    },
}
