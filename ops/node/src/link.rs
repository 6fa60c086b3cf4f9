//! The connection to NATS, and what is asked over it.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request};
use bytes::Bytes;
use domain::agent::ObserveAgent;
use domain::node::{RegisterNode, SyncReply, SyncRequest};
use domain::{AgentId, Outcome, Problem, TenantId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{Error, Options};

/// A commit takes milliseconds, a take-over a few seconds.
const ONE_TRY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that hangs is given up at the third of these without an answer.
const PING: Duration = Duration::from_millis(1_500);
/// How long the first connection is waited for before we go on without.
const FIRST: Duration = Duration::from_secs(3);

/// The connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub client: Client,
    tenant: TenantId,
    node: Uuid,
    /// How often the connection was made.
    made: watch::Receiver<u64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    #[error("NATS cannot be reached")]
    Disconnected,
    #[error("{0}")]
    Unanswered(async_nats::RequestError),
    #[error("the answer cannot be read: {0}")]
    Malformed(serde_json::Error),
}

impl Link {
    /// Connects, or begins to: a server that is away is waited for in the background.
    ///
    /// # Errors
    /// When the server is there and does not let us in, or the address is none.
    pub(crate) async fn open(options: &Options, node: Uuid) -> Result<Self, Error> {
        let made = watch::Sender::new(0);
        let seen = made.subscribe();
        let connect = || {
            let made = made.clone();
            let connect = ConnectOptions::new()
                .name(format!("taffrail-node {}", options.name))
                .ping_interval(PING)
                .max_reconnects(None)
                .reconnect_delay_callback(|tries| {
                    LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.saturating_pow(tries.min(6) as u32))
                })
                .event_callback(move |event| {
                    note(&made, &event);
                    async {}
                });
            match &options.nats_token {
                Some(token) => connect.token(token.clone()),
                None => connect,
            }
        };
        let failed = |source| Error::Connect { url: without_secrets(&options.nats_url), source };
        let client = match timeout(FIRST, connect().connect(&options.nats_url)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if !is_passing(error.kind()) => return Err(failed(error)),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("NATS cannot be reached; what runs here goes on meanwhile");
                let later = connect().retry_on_initial_connect();
                later.connect(&options.nats_url).await.map_err(failed)?
            }
        };
        Ok(Self { client, tenant: options.tenant.clone(), node, made: seen })
    }

    /// Changes whenever the connection is made.
    pub(crate) fn made(&self) -> watch::Receiver<u64> {
        self.made.clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The subject of control words.
    pub(crate) fn control(&self) -> String {
        format!("taffrail.{}.node.{}.control", self.tenant, self.node)
    }

    /// One try to register.
    pub(crate) async fn register(
        &self,
        node: &RegisterNode,
        command_id: Uuid,
    ) -> Result<Outcome, Silence> {
        let subject = format!("taffrail.{}.req.node.{}.register", self.tenant, self.node);
        self.ask(subject, self.headers(command_id), node).await
    }

    /// One exchange with the managers.
    pub(crate) async fn sync(&self, request: &SyncRequest) -> Result<SyncReply, Silence> {
        let subject = format!("taffrail.{}.node.{}.sync", self.tenant, self.node);
        self.ask(subject, HeaderMap::new(), request).await
    }

    /// One try to tell what was seen of an agent.
    pub(crate) async fn observe(
        &self,
        agent: AgentId,
        seen: &ObserveAgent,
    ) -> Result<Outcome, Silence> {
        let subject = format!("taffrail.{}.req.agent.{agent}.observe", self.tenant);
        self.ask(subject, self.headers(observation_id(agent, seen)), seen).await
    }

    /// Whether the agent answers on its control subject: an empty message is a question.
    pub(crate) async fn answers(&self, agent: AgentId, within: Duration) -> Result<(), Silence> {
        self.raw(self.own(agent, "control"), HeaderMap::new(), Bytes::new(), within)
            .await
            .map(|_| ())
    }

    /// The value of a secret.
    pub(crate) async fn secret(&self, name: &str) -> Result<Bytes, Silence> {
        let subject = format!("taffrail.{}.secret.{name}", self.tenant);
        self.raw(subject, HeaderMap::new(), Bytes::new(), ONE_TRY).await
    }

    /// Publishes a line of an agent's output.
    pub(crate) async fn log<B: Serialize>(&self, agent: AgentId, line: &B) {
        if let Ok(bytes) = serde_json::to_vec(line) {
            let _ = self.client.publish(self.own(agent, "log"), bytes.into()).await;
        }
    }

    /// Lets what was said reach the server before the process ends.
    pub(crate) async fn flush(&self) {
        let _ = timeout(Duration::from_secs(2), self.client.flush()).await;
    }

    fn own(&self, agent: AgentId, kind: &str) -> String {
        format!("taffrail.{}.agent.{agent}.{kind}", self.tenant)
    }

    fn headers(&self, command_id: Uuid) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", command_id.to_string());
        headers.insert("Taffrail-Actor", format!("node:{}", self.node));
        headers
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        subject: String,
        headers: HeaderMap,
        body: &B,
    ) -> Result<T, Silence> {
        let body = serde_json::to_vec(body).map_err(Silence::Malformed)?;
        let reply = self.raw(subject, headers, body.into(), ONE_TRY).await?;
        serde_json::from_slice(&reply).map_err(Silence::Malformed)
    }

    /// Nothing is kept for a server that is away: it would come in a heap afterwards.
    async fn raw(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, Silence> {
        if !self.is_up() {
            return Err(Silence::Disconnected);
        }
        let request = Request::new().payload(body).headers(headers).timeout(Some(within));
        let reply = self.client.send_request(subject, request).await;
        reply.map(|reply| reply.payload).map_err(Silence::Unanswered)
    }
}

/// The same for every repeat of one observation, and for no other.
fn observation_id(agent: AgentId, seen: &ObserveAgent) -> Uuid {
    let text = format!("{agent}:{}:{}", seen.generation, seen.seq);
    Uuid::new_v5(&seen.node_id, text.as_bytes())
}

fn note(made: &watch::Sender<u64>, event: &Event) {
    match event {
        Event::Connected => made.send_modify(|made| *made += 1),
        Event::Disconnected => tracing::warn!("the connection to NATS is gone"),
        Event::SlowConsumer(_) => tracing::warn!("messages of the server were dropped"),
        Event::ServerError(error) => tracing::warn!(%error, "NATS reports an error"),
        Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
        Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

fn is_passing(kind: ConnectErrorKind) -> bool {
    match kind {
        ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns => true,
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Tls
        | ConnectErrorKind::MaxReconnects => false,
    }
}

/// An address fit for a log: user, password and token before the `@` are left out.
fn without_secrets(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
    }
}

/// For logs.
pub(crate) fn words(problem: Option<&Problem>) -> String {
    problem.map_or_else(|| "no reason was given".into(), |p| format!("{}: {}", p.title, p.detail))
}

#[cfg(test)]
mod tests {
    use domain::agent::Phase;

    use super::*;

    #[test]
    fn a_repeat_has_the_same_id_and_everything_else_another() {
        let seen = |node: u128, generation, seq| ObserveAgent {
            node_id: Uuid::from_u128(node),
            generation,
            seq,
            phase: Phase::Ready,
            pid: None,
            exit: None,
            permanent: false,
            detail: None,
        };
        let id = observation_id(AgentId::nth(1), &seen(1, 1, 1));
        assert_eq!(id, observation_id(AgentId::nth(1), &seen(1, 1, 1)));
        for other in [seen(2, 1, 1), seen(1, 2, 1), seen(1, 1, 2)] {
            assert_ne!(id, observation_id(AgentId::nth(1), &other));
        }
        assert_ne!(id, observation_id(AgentId::nth(2), &seen(1, 1, 1)));
    }
}
