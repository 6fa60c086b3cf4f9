//! Questions over NATS, asked until they are answered.

use std::fmt::Display;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request};
use domain::task::{ClaimTasks, Claimed};
use domain::{AgentId, Outcome, Problem, Status, StreamType, TenantId};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::Error;
use crate::options::Options;

/// One try of a command; a commit takes milliseconds, a take-over a few seconds.
const ONE_TRY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an agent of the same name may take to say that it is there.
const TWIN_WAIT: Duration = Duration::from_secs(1);
/// How often a silent server is asked whether it is there; the connection is given up at the
/// third time, so one that hangs is noticed within 5 s (reliability R21).
const PING: Duration = Duration::from_millis(1_500);
/// How long the scheduler's connection may take to come back after ours: a claim that comes
/// before it waits for nothing.
const SCHEDULER_TOO: Duration = Duration::from_secs(1);
/// On top of what a claim waits for.
const CLAIM_SLACK: Duration = Duration::from_secs(4);

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

/// What became of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// It is there.
    pub up: bool,
    /// How often it was made.
    pub made: u64,
}

/// The connection of one agent. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    nats: Client,
    link: watch::Receiver<Link>,
    tenant: TenantId,
    agent: AgentId,
}

impl Wire {
    /// Connects; tries again while the server is away, not when it refuses us.
    pub(crate) async fn connect(
        url: &str,
        token: Option<&str>,
        options: &Options,
    ) -> Result<(Client, watch::Receiver<Link>), Error> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let link = watch::Sender::new(Link { up: true, made: 0 });
        let seen = link.subscribe();
        loop {
            let link = link.clone();
            let mut connect = ConnectOptions::new()
                .name(format!("taffrail-agent {}", options.description.name))
                .ping_interval(PING)
                .event_callback(move |event| {
                    note(&link, &event);
                    async {}
                })
                .max_reconnects(None)
                .reconnect_delay_callback(|tries| {
                    LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.saturating_pow(tries.min(6) as u32))
                });
            if let Some(token) = token {
                connect = connect.token(token.to_owned());
            }
            let source = match connect.connect(url).await {
                Ok(client) => return Ok((client, seen)),
                Err(source) => source,
            };
            let passing = match source.kind() {
                ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns => true,
                ConnectErrorKind::ServerParse
                | ConnectErrorKind::Authentication
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::Tls
                | ConnectErrorKind::MaxReconnects => false,
            };
            if !passing || begin.elapsed() >= options.connect {
                return Err(Error::Connect { url: without_secrets(url), source });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) fn new(
        (nats, link): (Client, watch::Receiver<Link>),
        tenant: TenantId,
        agent: AgentId,
    ) -> Self {
        Self { nats, link, tenant, agent }
    }

    /// What becomes of the connection.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    pub(crate) fn agent(&self) -> AgentId {
        self.agent
    }

    /// One of the agent's own subjects: heartbeat, tasks, control, log.
    pub(crate) fn own(&self, kind: impl Display) -> String {
        format!("taffrail.{}.agent.{}.{kind}", self.tenant, self.agent)
    }

    pub(crate) async fn subscribe(&self, kind: &str) -> Result<async_nats::Subscriber, Error> {
        let subject = self.own(kind);
        let subscribed = self.nats.subscribe(subject.clone()).await;
        subscribed.map_err(|source| Error::Subscribe { subject, source })
    }

    /// Says something that may be lost; nothing is kept for a server that is away.
    pub(crate) async fn say<B: Serialize>(&self, kind: &str, body: &B) {
        if self.nats.connection_state() == State::Connected
            && let Ok(bytes) = serde_json::to_vec(body)
        {
            let _ = self.nats.publish(self.own(kind), bytes.into()).await;
        }
    }

    /// Whether another process runs this agent and is well enough to answer: an empty
    /// control word is a question. Nobody's answer says so at once; one who hangs is not
    /// waited for.
    pub(crate) async fn is_answered(&self) -> bool {
        let ask = Request::new().payload(Default::default()).timeout(Some(TWIN_WAIT));
        self.nats.send_request(self.own("control"), ask).await.is_ok()
    }

    /// Answers such a question.
    pub(crate) async fn answer(&self, asker: async_nats::Subject) {
        let _ = self.nats.publish(asker, Default::default()).await;
    }

    /// Lets what was said reach the server before the process ends.
    pub(crate) async fn flush(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.nats.flush()).await;
    }

    /// A command, repeated under the same id until its outcome is known.
    pub(crate) async fn ask<B: Serialize>(&self, ask: &Ask<'_, B>) -> Result<Outcome, Error> {
        let what = format!("{} {}", ask.kind, ask.command);
        let body = encode(&what, ask.body)?;
        let limit = self.nats.max_payload();
        if body.len() > limit {
            return Err(Error::TooLarge { what, bytes: body.len(), limit });
        }
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", ask.command_id.to_string());
        if let Some(trace) = ask.traceparent.filter(|t| t.bytes().all(|b| b.is_ascii_graphic())) {
            headers.insert("traceparent", trace);
        }
        let subject = self.own(format_args!("req.{}.{}.{}", ask.kind, ask.id, ask.command));
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let request = Request::new()
                .payload(body.clone().into())
                .headers(headers.clone())
                .timeout(Some(ONE_TRY));
            let last = match self.nats.send_request(subject.clone(), request).await {
                Ok(reply) => {
                    let outcome: Outcome = decode(&what, &reply.payload)?;
                    if outcome.status != Status::Busy {
                        return Ok(outcome);
                    }
                    let wish = outcome.retry_after_ms.map(Duration::from_millis);
                    pause = wish.unwrap_or(pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    "the server is at its limit".to_owned()
                }
                Err(error) => error.to_string(),
            };
            if begin.elapsed() + pause >= ask.patience {
                return Err(Error::Unanswered { what, seconds: ask.patience.as_secs(), last });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One long poll for tasks of a queue; none when the connection was made anew meanwhile.
    ///
    /// The claim or its answer may have gone with the old connection, and its time may be
    /// long: it is given up. Its inbox is its own, so the scheduler sees that nobody listens
    /// any more and keeps what it would have given.
    pub(crate) async fn claim(&self, queue: &str, claim: &ClaimTasks) -> Result<Claimed, Error> {
        let what = format!("the claim on queue {queue}");
        let subject = self.own(format_args!("req.queue.{queue}.claim"));
        let within = Duration::from_millis(claim.wait_ms) + CLAIM_SLACK;
        let request = Request::new()
            .payload(encode(&what, claim)?.into())
            .inbox(self.nats.new_inbox())
            .timeout(Some(within));
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
        let reply = tokio::select! {
            biased;
            reply = self.nats.send_request(subject, request) => reply,
            () = anew => return Ok(Claimed::default()),
        };
        let reply = reply.map_err(|error| {
            let seconds = within.as_secs();
            Error::Unanswered { what: what.clone(), seconds, last: error.to_string() }
        })?;
        #[derive(serde::Deserialize)]
        struct Answer {
            tasks: Option<Vec<domain::task::Assignment>>,
            problem: Option<Problem>,
        }
        let answer: Answer = decode(&what, &reply.payload)?;
        match answer {
            Answer { tasks: Some(tasks), .. } => Ok(Claimed { tasks }),
            Answer { problem: Some(problem), .. } => {
                Err(Error::Refused { what, problem: Box::new(problem) })
            }
            // A bare problem document.
            Answer { .. } => {
                let problem = Box::new(decode(&what, &reply.payload)?);
                Err(Error::Refused { what, problem })
            }
        }
    }
}

fn note(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => link.send_modify(|link| *link = Link { up: true, made: link.made + 1 }),
        Event::Disconnected => {
            tracing::warn!("the connection to NATS is gone");
            link.send_modify(|link| link.up = false);
        }
        Event::SlowConsumer(_) => tracing::warn!("messages of the server were dropped"),
        Event::ServerError(error) => tracing::debug!(%error, "NATS reports an error"),
        Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
        Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

fn encode<B: Serialize>(what: &str, body: &B) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|error| malformed(what, &error))
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| malformed(what, &error))
}

fn malformed(what: &str, error: &serde_json::Error) -> Error {
    Error::Malformed { what: what.to_owned(), reason: error.to_string() }
}

/// An address fit for a log: user, password and token before the `@` are left out.
fn without_secrets(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
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
    fn an_address_in_a_message_has_no_secrets() {
        assert_eq!(without_secrets("nats://u:p@h:4222"), "nats://h:4222");
        assert_eq!(without_secrets("token@h:4222"), "h:4222");
        assert_eq!(without_secrets("nats://h:4222"), "nats://h:4222");
    }

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
