//! The way over NATS: the subjects of docs/agents.md.

use std::fmt::Display;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request, Subscriber,
};
use domain::frame::{ClaimedFrame, CommandFrame, Listen, MAX_FRAME_BYTES};
use domain::task::{Assignment, ClaimTasks};
use domain::{AgentId, Outcome, Problem, TenantId};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::control::Word;
use crate::transport::{Failed, Heard, Link, Said, Transport, malformed, tell};
use crate::{Error, Options};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an agent of the same name may take to say that it is there.
const TWIN_WAIT: Duration = Duration::from_secs(1);
/// How often a silent server is asked whether it is there; the connection is given up at the
/// third time, so one that hangs is noticed within 5 s (reliability R21).
const PING: Duration = Duration::from_millis(1_500);
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// A connection to NATS.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    client: Client,
    link: watch::Receiver<Link>,
    tenant: TenantId,
}

impl Nats {
    /// Connects; tries again while the server is away, not when it refuses us.
    pub(crate) async fn connect(
        url: &str,
        token: Option<&str>,
        options: &Options,
    ) -> Result<Self, Error> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let source = match Self::once(url, token, options, false).await {
                Ok(nats) => return Ok(nats),
                Err(source) => source,
            };
            if !is_passing(&source) || begin.elapsed() >= options.connect {
                return Err(Error::Connect { url: without_secrets(url), source });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection that may come later, or never.
    pub(crate) async fn in_time(
        url: &str,
        token: Option<&str>,
        options: &Options,
    ) -> Result<Self, Error> {
        let nats = Self::once(url, token, options, true).await;
        nats.map_err(|source| Error::Connect { url: without_secrets(url), source })
    }

    async fn once(
        url: &str,
        token: Option<&str>,
        options: &Options,
        later: bool,
    ) -> Result<Self, ConnectError> {
        let link = watch::Sender::new(Link { up: !later, made: 0 });
        let seen = link.subscribe();
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
        if later {
            connect = connect.retry_on_initial_connect();
        }
        if let Some(token) = token {
            connect = connect.token(token.to_owned());
        }
        let client = connect.connect(url).await?;
        Ok(Self { client, link: seen, tenant: options.tenant.clone() })
    }

    fn own(&self, agent: AgentId, kind: impl Display) -> String {
        own(&self.tenant, agent, kind)
    }

    async fn subscribe(&self, agent: AgentId, kind: &str) -> Result<Subscriber, Error> {
        let subject = self.own(agent, kind);
        let subscribed = self.client.subscribe(subject.clone()).await;
        subscribed.map_err(|source| Error::Subscribe { subject, source })
    }
}

impl Transport for Nats {
    /// An empty control word is a question. Nobody's answer says so at once; one who hangs
    /// is not waited for.
    fn attach(&self, agent: AgentId) -> BoxFuture<'_, Result<bool, Error>> {
        async move {
            let ask = Request::new().payload(Default::default()).timeout(Some(TWIN_WAIT));
            Ok(self.client.send_request(self.own(agent, "control"), ask).await.is_ok())
        }
        .boxed()
    }

    fn listen(
        &self,
        agent: AgentId,
        listen: Vec<Listen>,
        heard: mpsc::Sender<Heard>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            for what in listen {
                let heard = heard.clone();
                match what {
                    Listen::Tasks => {
                        let tasks = self.subscribe(agent, "tasks").await?;
                        tokio::spawn(while_taken(heard.clone(), pushes(tasks, heard)));
                    }
                    Listen::Control => {
                        let words = self.subscribe(agent, "control").await?;
                        let words = control(self.client.clone(), words, heard.clone());
                        tokio::spawn(while_taken(heard, words));
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn ask<'a>(
        &'a self,
        agent: AgentId,
        command: &'a CommandFrame,
        within: Duration,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        async move {
            let subject = command_subject(&self.tenant, agent, command);
            let request = Request::new()
                .payload(command.body.as_str().to_owned().into())
                .headers(headers(command))
                .timeout(Some(within));
            let reply = self.client.send_request(subject, request).await;
            let reply = reply.map_err(|error| Failed::Passing(error.to_string()))?;
            serde_json::from_slice(&reply.payload).map_err(|error| malformed(&error))
        }
        .boxed()
    }

    /// Its inbox is its own, so the scheduler sees when nobody listens any more and keeps
    /// what it would have given.
    fn claim<'a>(
        &'a self,
        queue: &'a str,
        claim: &'a ClaimTasks,
        within: Duration,
    ) -> BoxFuture<'a, Result<ClaimedFrame, Failed>> {
        async move {
            let subject = claim_subject(&self.tenant, claim.agent_id, queue);
            let body = serde_json::to_vec(claim).map_err(|error| malformed(&error))?;
            let request = Request::new()
                .payload(body.into())
                .inbox(self.client.new_inbox())
                .timeout(Some(within));
            let reply = self.client.send_request(subject, request).await;
            let reply = reply.map_err(|error| Failed::Passing(error.to_string()))?;
            claimed(&reply.payload)
        }
        .boxed()
    }

    fn say(&self, agent: AgentId, said: Said) -> BoxFuture<'_, ()> {
        async move {
            if self.client.connection_state() != State::Connected {
                return;
            }
            let (kind, body) = match said {
                Said::Heartbeat(body) => ("heartbeat", body),
                Said::Log(body) => ("log", body),
            };
            let subject = self.own(agent, kind);
            let _ = self.client.publish(subject, body.as_str().to_owned().into()).await;
        }
        .boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn limit(&self) -> usize {
        // Zero before the first connection.
        match self.client.max_payload() {
            0 => MAX_FRAME_BYTES,
            limit => limit,
        }
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        async move {
            let _ = tokio::time::timeout(LAST_FLUSH, self.client.flush()).await;
        }
        .boxed()
    }
}

/// One of an agent's own subjects.
pub(crate) fn own(tenant: &TenantId, agent: AgentId, kind: impl Display) -> String {
    format!("taffrail.{tenant}.agent.{agent}.{kind}")
}

/// Where an agent's command goes.
pub(crate) fn command_subject(tenant: &TenantId, agent: AgentId, of: &CommandFrame) -> String {
    own(tenant, agent, format_args!("req.{}.{}.{}", of.kind, of.id, of.command))
}

/// Where an agent's claim goes.
pub(crate) fn claim_subject(tenant: &TenantId, agent: AgentId, queue: &str) -> String {
    own(tenant, agent, format_args!("req.queue.{queue}.claim"))
}

/// What goes with a command.
pub(crate) fn headers(command: &CommandFrame) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Taffrail-Command-Id", command.command_id.to_string());
    let trace = command.traceparent.as_deref();
    if let Some(trace) = trace.filter(|trace| trace.bytes().all(|b| b.is_ascii_graphic())) {
        headers.insert("traceparent", trace);
    }
    headers
}

/// The answer to a claim: tasks, a problem beside an empty list, or a bare problem.
pub(crate) fn claimed(payload: &[u8]) -> Result<ClaimedFrame, Failed> {
    #[derive(serde::Deserialize)]
    struct Answer {
        tasks: Option<Vec<Assignment>>,
        problem: Option<Problem>,
    }
    let answer: Answer = serde_json::from_slice(payload).map_err(|error| malformed(&error))?;
    let (tasks, problem) = match answer {
        Answer { tasks: Some(tasks), problem } => (tasks, problem),
        Answer { tasks: None, problem: Some(problem) } => (vec![], Some(problem)),
        Answer { tasks: None, problem: None } => {
            let bare = serde_json::from_slice(payload).map_err(|error| malformed(&error))?;
            (vec![], Some(bare))
        }
    };
    Ok(ClaimedFrame { reference: 0, tasks, problem })
}

async fn while_taken(heard: mpsc::Sender<Heard>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = heard.closed() => {}
        () = work => {}
    }
}

async fn pushes(mut pushes: Subscriber, heard: mpsc::Sender<Heard>) {
    while let Some(message) = pushes.next().await {
        // The server's question whether anybody listens.
        if message.payload.is_empty() {
            continue;
        }
        match serde_json::from_slice(&message.payload) {
            Ok(task) => {
                tell(&heard, Heard::Task(task)).await;
            }
            Err(error) => tracing::warn!(%error, "a pushed task cannot be read"),
        }
    }
}

async fn control(client: Client, mut words: Subscriber, heard: mpsc::Sender<Heard>) {
    while let Some(message) = words.next().await {
        match (Word::parse(&message.payload), message.reply) {
            (Some(word), _) => {
                tell(&heard, Heard::Word(word)).await;
            }
            // Another process of this name asks whether we are still there.
            (None, Some(asker)) if message.payload.is_empty() => {
                let _ = client.publish(asker, Default::default()).await;
            }
            (None, _) => tracing::warn!("an unknown control word is passed over"),
        }
    }
}

fn is_passing(error: &ConnectError) -> bool {
    match error.kind() {
        ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns => true,
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Tls
        | ConnectErrorKind::MaxReconnects => false,
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

/// An address fit for a log: user, password and token before the `@` are left out.
pub(crate) fn without_secrets(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
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
    fn a_claims_answer_is_tasks_or_a_problem() {
        assert_eq!(claimed(br#"{"tasks":[]}"#).unwrap(), ClaimedFrame::default());
        let problem = Problem::new(domain::Code::NotFound, "no agent");
        let beside = serde_json::json!({ "tasks": [], "problem": problem }).to_string();
        assert_eq!(claimed(beside.as_bytes()).unwrap().problem, Some(problem.clone()));
        let bare = serde_json::to_string(&problem).unwrap();
        assert_eq!(claimed(bare.as_bytes()).unwrap().problem, Some(problem));
        assert!(claimed(b"{}").is_err());
    }
}
