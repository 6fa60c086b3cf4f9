//! Questions of one agent, asked until they are answered.

use std::sync::Arc;
use std::time::Duration;

use domain::frame::{CommandFrame, Listen};
use domain::task::{ClaimTasks, Claimed};
use domain::{AgentId, Json, Outcome, Problem, Status, StreamType};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::Error;
use crate::transport::{Failed, Heard, Link, Said, Transport};

/// One try of a command; a commit takes milliseconds, a take-over a few seconds.
const ONE_TRY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the scheduler's connection may take to come back after ours: a claim that comes
/// before it waits for nothing.
const SCHEDULER_TOO: Duration = Duration::from_secs(1);
/// On top of what a claim waits for.
const CLAIM_SLACK: Duration = Duration::from_secs(4);
/// Words of the server that wait to be dealt with; whoever has more to say waits.
const HEARD: usize = 256;

/// A command that an agent sends.
#[derive(Debug)]
pub(crate) struct Ask<'a, B> {
    pub kind: StreamType,
    pub id: Uuid,
    pub command: &'static str,
    pub command_id: Uuid,
    pub body: &'a B,
    /// W3C trace context of what it belongs to.
    pub traceparent: Option<&'a str>,
    /// How long it is tried for.
    pub patience: Duration,
}

impl<B: Serialize> Ask<'_, B> {
    /// As it goes out.
    pub(crate) fn frame(&self) -> CommandFrame {
        CommandFrame {
            kind: self.kind,
            id: self.id,
            command: self.command.into(),
            command_id: self.command_id,
            body: Json::of(self.body),
            traceparent: self.traceparent.map(Into::into),
        }
    }
}

/// The way of one agent to the server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    transport: Arc<dyn Transport>,
    agent: AgentId,
}

impl Wire {
    pub(crate) fn new(transport: Arc<dyn Transport>, agent: AgentId) -> Self {
        Self { transport, agent }
    }

    /// What becomes of the connection.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.transport.link()
    }

    pub(crate) fn agent(&self) -> AgentId {
        self.agent
    }

    /// Speaks for the agent from now on; whether another process answers for it.
    pub(crate) async fn attach(&self) -> Result<bool, Error> {
        self.transport.attach(self.agent).await
    }

    pub(crate) async fn listen(&self, to: Vec<Listen>) -> Result<mpsc::Receiver<Heard>, Error> {
        let (sender, heard) = mpsc::channel(HEARD);
        self.transport.listen(self.agent, to, sender).await?;
        Ok(heard)
    }

    /// Says something that may be lost; nothing is kept for a server that is away.
    pub(crate) async fn say(&self, said: Said) {
        self.transport.say(self.agent, said).await;
    }

    /// Lets what was said reach the server before the process ends.
    pub(crate) async fn flush(&self) {
        self.transport.flush().await;
    }

    /// A command, repeated under the same id until its outcome is known.
    pub(crate) async fn ask<B: Serialize>(&self, ask: &Ask<'_, B>) -> Result<Outcome, Error> {
        self.deliver(&ask.frame(), ask.patience).await
    }

    /// The same, of a command that is ready to go.
    pub(crate) async fn deliver(
        &self,
        command: &CommandFrame,
        patience: Duration,
    ) -> Result<Outcome, Error> {
        let what = format!("{} {}", command.kind, command.command);
        let (bytes, limit) = (command.body.as_str().len(), self.transport.limit());
        if bytes > limit {
            return Err(Error::TooLarge { what, bytes, limit });
        }
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let one_try = ONE_TRY.min(patience);
            let last = match self.transport.ask(self.agent, command, one_try).await {
                Ok(outcome) if outcome.status != Status::Busy => return Ok(outcome),
                Ok(busy) => {
                    let wish = busy.retry_after_ms.map(Duration::from_millis);
                    pause = wish.unwrap_or(pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    "the server is at its limit".to_owned()
                }
                Err(Failed::Passing(why)) => why,
                Err(Failed::Malformed(reason)) => return Err(Error::Malformed { what, reason }),
            };
            if begin.elapsed() + pause >= patience {
                return Err(Error::Unanswered { what, seconds: patience.as_secs(), last });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One long poll for tasks of a queue; none when the connection was made anew meanwhile.
    ///
    /// The claim or its answer may have gone with the old connection, and its time may be
    /// long: it is given up, and the scheduler keeps what it would have given.
    pub(crate) async fn claim(&self, queue: &str, claim: &ClaimTasks) -> Result<Claimed, Error> {
        let what = || format!("the claim on queue {queue}");
        let within = Duration::from_millis(claim.wait_ms) + CLAIM_SLACK;
        let mut link = self.link();
        let made = link.borrow_and_update().made;
        let anew = async {
            let made_anew = link.wait_for(|link| link.made != made).await.is_ok();
            if !made_anew {
                return std::future::pending().await;
            }
            // The scheduler's own connection may come back a little later than ours.
            sleep(SCHEDULER_TOO).await;
        };
        let answer = tokio::select! {
            biased;
            answer = self.transport.claim(queue, claim, within) => answer,
            () = anew => return Ok(Claimed::default()),
        };
        match answer {
            Ok(claimed) => match claimed.problem {
                Some(problem) if claimed.tasks.is_empty() => {
                    Err(Error::Refused { what: what(), problem: Box::new(problem) })
                }
                Some(_) | None => Ok(Claimed { tasks: claimed.tasks }),
            },
            Err(Failed::Passing(last)) => {
                Err(Error::Unanswered { what: what(), seconds: within.as_secs(), last })
            }
            Err(Failed::Malformed(reason)) => Err(Error::Malformed { what: what(), reason }),
        }
    }
}

/// The decision behind an outcome, as a result.
pub(crate) fn accepted(what: &str, outcome: Outcome) -> Result<Outcome, Error> {
    let decision = outcome.decision();
    match decision.status {
        Status::Accepted | Status::Duplicate => Ok(outcome),
        Status::Refused | Status::Invalid | Status::Busy => {
            let problem = decision.problem.clone().unwrap_or_else(|| {
                Problem::new(domain::Code::Internal, "the refusal gave no reason")
            });
            Err(Error::Refused { what: what.to_owned(), problem: Box::new(problem) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_counts_as_what_was_decided_first() {
        let outcome = |status, problem| Outcome {
            status,
            command_id: Uuid::nil(),
            stream_id: Uuid::nil(),
            version: 1,
            position: 1,
            events: vec![],
            problem,
            original: None,
            retry_after_ms: None,
        };
        let first = outcome(Status::Accepted, None);
        assert!(accepted("x", Outcome::duplicate_of(first)).is_ok());
        let stale = Problem::new(domain::Code::StaleLease, "");
        let first = outcome(Status::Refused, Some(stale));
        let refused = accepted("x", Outcome::duplicate_of(first)).unwrap_err();
        assert!(refused.to_string().contains("x was refused: The lease is no longer held"));
    }
}
