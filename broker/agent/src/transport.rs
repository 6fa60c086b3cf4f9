//! What every way to the server can do: NATS, the gateway's WebSocket, a node's socket.

use std::fmt::Debug;
use std::time::Duration;

use domain::frame::{ClaimedFrame, CommandFrame, Listen};
use domain::task::{Assignment, ClaimTasks};
use domain::{AgentId, Json, Outcome};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::control::Word;

/// What became of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// It is there.
    pub up: bool,
    /// How often it was made.
    pub made: u64,
}

/// What the server says of its own accord.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A task that is ours now: pushed, or the answer to a claim that we gave up.
    Task(Box<Assignment>),
    /// A control word.
    Word(Word),
}

/// What an agent says without wanting an answer.
#[derive(Debug)]
pub(crate) enum Said {
    /// A sign of life.
    Heartbeat(Json),
    /// A log line.
    Log(Json),
}

/// Why one try got no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nobody answered; another try may do better.
    Passing(String),
    /// The answer has no shape that we know.
    Malformed(String),
}

/// A way to the server for one agent. It mends itself; whoever asks repeats.
pub(crate) trait Transport: Debug + Send + Sync + 'static {
    /// Speaks for this agent from now on; tells whether another process answers for it.
    fn attach(&self, agent: AgentId) -> BoxFuture<'_, Result<bool, Error>>;

    /// Hands over what is said to the agent, as long as somebody takes it.
    fn listen(
        &self,
        agent: AgentId,
        listen: Vec<Listen>,
        heard: mpsc::Sender<Heard>,
    ) -> BoxFuture<'_, Result<(), Error>>;

    /// One try of a command.
    fn ask<'a>(
        &'a self,
        agent: AgentId,
        command: &'a CommandFrame,
        within: Duration,
    ) -> BoxFuture<'a, Result<Outcome, Failed>>;

    /// One long poll. Dropping the future gives the claim up.
    fn claim<'a>(
        &'a self,
        queue: &'a str,
        claim: &'a ClaimTasks,
        within: Duration,
    ) -> BoxFuture<'a, Result<ClaimedFrame, Failed>>;

    /// Says something that may be lost; nothing is kept for a server that is away.
    fn say(&self, agent: AgentId, said: Said) -> BoxFuture<'_, ()>;

    /// What becomes of the connection.
    fn link(&self) -> watch::Receiver<Link>;

    /// Largest body of a command, in bytes.
    fn limit(&self) -> usize;

    /// Lets what was said reach the server before the process ends.
    fn flush(&self) -> BoxFuture<'_, ()>;
}

/// What is wrong with an answer.
pub(crate) fn malformed(error: &serde_json::Error) -> Failed {
    Failed::Malformed(error.to_string())
}

/// Tells of a task or a word; whether anybody takes it.
pub(crate) async fn tell(heard: &mpsc::Sender<Heard>, what: Heard) -> bool {
    heard.send(what).await.is_ok()
}
