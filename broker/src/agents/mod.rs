//! The agents' wire: heartbeats in, assignments and control words out, over core NATS.
//!
//! Invariant 12: nothing here is an event. What a heartbeat changes, others decide.

mod heartbeat;
pub(crate) mod interest;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use commands::{AgentWire, Boxed, Clock, Holding, Observation};
use domain::task::Assignment;
use domain::{AgentId, TenantId};
use futures::StreamExt;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use heartbeat::{Heartbeat, HeartbeatReply, HeldTask};

use crate::consume::TenantCheck;
use crate::envelope::{JSON, header};
use crate::error::During;
use crate::subject::{self, AgentWord, NodeWord, Subject};
use crate::{BrokerError, consume};
use interest::Interest;

/// Agents whose last heartbeat is kept; beyond it the ones silent the longest are forgotten.
const MAX_AGENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);

/// Tells what an agent should be, for the answer to its heartbeat.
pub type DesiredState = Arc<dyn Fn(&TenantId, AgentId) -> Option<String> + Send + Sync>;

/// What is known of the agents from their own wire, and the way to them.
#[derive(Clone)]
pub struct Presence(Arc<Inner>);

struct Inner {
    client: Client,
    clock: Clock,
    tenants: TenantCheck,
    desired: Option<DesiredState>,
    observed: Mutex<LruCache<(TenantId, AgentId), Observation>>,
    /// What agents said that they work on and nobody looked at yet, the last word of each.
    held: Mutex<LruCache<(TenantId, AgentId), Holding>>,
    interest: Interest,
    heartbeats: AtomicU64,
    dropped: AtomicU64,
}

impl Presence {
    /// A presence that listens only; nobody is told a desired state.
    pub fn new(client: Client, clock: Clock, tenants: TenantCheck) -> Self {
        Self::with(client, clock, tenants, None)
    }

    /// A presence that also answers heartbeats; one process does, the managers'.
    pub fn answering(
        client: Client,
        clock: Clock,
        tenants: TenantCheck,
        desired: DesiredState,
    ) -> Self {
        Self::with(client, clock, tenants, Some(desired))
    }

    fn with(
        client: Client,
        clock: Clock,
        tenants: TenantCheck,
        desired: Option<DesiredState>,
    ) -> Self {
        Self(Arc::new(Inner {
            interest: Interest::new(client.clone()),
            client,
            clock,
            tenants,
            desired,
            observed: Mutex::new(LruCache::new(MAX_AGENTS)),
            held: Mutex::new(LruCache::new(MAX_AGENTS)),
            heartbeats: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Takes heartbeats in until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let interest = self.0.interest.run(cancel.clone());
        let heartbeats = async {
            while !cancel.is_cancelled() {
                if let Err(error) = self.listen(&cancel).await {
                    tracing::warn!(%error, "heartbeats cannot be heard; trying again");
                    let _ = timeout(PAUSE, cancel.cancelled()).await;
                }
            }
        };
        tokio::join!(interest, heartbeats);
    }

    async fn listen(&self, cancel: &CancellationToken) -> Result<(), BrokerError> {
        let subscribed = self.0.client.subscribe(subject::ALL_HEARTBEATS).await;
        let mut heartbeats = subscribed.during("subscribing to heartbeats")?;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                message = heartbeats.next() => match message {
                    Some(message) => self.take(&message).await,
                    None => return Err(BrokerError::nats("hearing heartbeats", "it ended")),
                },
            }
        }
    }

    /// A heartbeat that is malformed is dropped and counted: the agent's silence tells.
    async fn take(&self, message: &Message) {
        let inner = &self.0;
        let Ok(Subject::Agent { tenant, agent, word: AgentWord::Heartbeat }) =
            subject::parse(&message.subject)
        else {
            return self.drop_one("subject");
        };
        if !(inner.tenants)(&tenant) {
            return self.drop_one("tenant");
        }
        let reply = message.reply.as_deref().filter(|reply| consume::is_reply(reply));
        let heartbeat = Heartbeat::read(&message.payload);
        if let (Some(reply), Some(desired)) = (reply, &inner.desired) {
            let answer = HeartbeatReply {
                ok: heartbeat.is_ok(),
                desired_state: desired(&tenant, agent),
                problem: heartbeat.as_ref().err().cloned(),
            };
            self.send(reply.to_owned(), &answer).await;
        }
        match heartbeat {
            Ok(heartbeat) => self.observe(tenant, agent, heartbeat),
            Err(problem) => self.drop_one(&problem.detail),
        }
    }

    fn drop_one(&self, why: &str) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(why, "a heartbeat was dropped");
    }

    fn observe(&self, tenant: TenantId, agent: AgentId, heartbeat: Heartbeat) {
        let received = Instant::now();
        // Only managers look at them, who are the ones to answer.
        if !heartbeat.tasks.is_empty() && self.0.desired.is_some() {
            let tasks = heartbeat.tasks.iter().map(|held| (held.task_id, held.lease_token));
            let (tenant, tasks) = (tenant.clone(), tasks.collect());
            let holding = Holding { tenant: tenant.clone(), agent, received, tasks };
            self.0.held.lock().put((tenant, agent), holding);
        }
        let observation = Observation {
            received,
            at: self.0.clock.now(),
            observed_state: heartbeat.observed_state,
            slots_free: heartbeat.slots_free,
            load: heartbeat.load,
            progress_seq: heartbeat.progress_seq,
        };
        self.0.heartbeats.fetch_add(1, Ordering::Relaxed);
        self.0.observed.lock().put((tenant, agent), observation);
    }

    /// Heartbeats taken in and dropped since the start.
    pub fn counted(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.0.heartbeats), count(&self.0.dropped))
    }

    /// Every agent that was heard, for gauges.
    pub fn agents(&self) -> usize {
        self.0.observed.lock().len()
    }

    async fn send<T: Serialize>(&self, subject: String, body: &T) {
        let body = serde_json::to_vec(body).unwrap_or_default();
        if let Err(error) = self.0.client.publish(subject, body.into()).await {
            tracing::debug!(%error, "nothing was sent to an agent");
        }
    }
}

impl AgentWire for Presence {
    /// Asks with an empty message that carries `Taffrail-Probe: interest`; agents ignore it.
    fn listens(&self, tenant: TenantId, agent: AgentId) -> Boxed<bool> {
        let presence = self.clone();
        Box::pin(async move {
            let subject = subject::agent(&tenant, agent, AgentWord::Tasks);
            let mut headers = HeaderMap::new();
            headers.insert(header::PROBE, "interest");
            presence.0.interest.ask(subject, headers, Bytes::new()).await
        })
    }

    fn push(&self, tenant: TenantId, agent: AgentId, assignment: Assignment) -> Boxed<bool> {
        let presence = self.clone();
        Box::pin(async move {
            let subject = subject::agent(&tenant, agent, AgentWord::Tasks);
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, JSON);
            if let Some(trace) = &assignment.traceparent
                && let Ok(trace) = trace.parse::<async_nats::HeaderValue>()
            {
                headers.insert(header::TRACEPARENT, trace);
            }
            let body = serde_json::to_vec(&assignment).unwrap_or_default();
            presence.0.interest.ask(subject, headers, body.into()).await
        })
    }

    fn control(&self, tenant: TenantId, agent: AgentId, word: &'static str) -> Boxed<()> {
        let presence = self.clone();
        Box::pin(async move {
            let subject = subject::agent(&tenant, agent, AgentWord::Control);
            presence.send(subject, &Control { command: word }).await;
        })
    }

    fn call_node(&self, tenant: TenantId, node: Uuid) -> Boxed<()> {
        let presence = self.clone();
        Box::pin(async move {
            let subject = subject::node(&tenant, node, NodeWord::Control);
            presence.send(subject, &Control { command: "sync" }).await;
        })
    }

    fn observed(&self, tenant: &TenantId, agent: AgentId) -> Option<Observation> {
        self.0.observed.lock().peek(&(tenant.clone(), agent)).cloned()
    }

    fn holdings(&self) -> Vec<Holding> {
        let mut held = self.0.held.lock();
        std::iter::from_fn(|| held.pop_lru().map(|(_, holding)| holding)).collect()
    }
}

/// A control word on its way to an agent.
#[derive(Serialize)]
struct Control {
    command: &'static str,
}
