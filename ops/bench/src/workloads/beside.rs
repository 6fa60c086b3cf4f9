//! W1's load as the companion of another workload: commands over NATS requests, one in
//! eight for a new stream, the others for streams that are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::commands::Ids;
use anyhow::Context as _;
use async_nats::{Client as Nats, HeaderMap, Request};
use broker::subject;
use domain::{Outcome, StreamType, TenantId};
use uuid::Uuid;

use super::{many, w1a};
use crate::cell::Budget;
use crate::commands::{submit_body, tenant, update_body};
use crate::counters::Probe;
use crate::load::{Client, Reply, Samples, closed};
use crate::nats::PATIENCE;
use crate::target::Target;

/// Streams that are changed: enough that two commands for one seldom meet in a batch.
const STREAMS: u64 = 2_000;
/// Commands per new stream.
const PER_STREAM: u64 = 8;
/// Connections that the load goes over.
const CONNECTIONS: usize = 4;
/// Clients that find out the capacity.
pub const CLIENTS: usize = 64;

/// A part of a cell's time, for what is measured on the way.
pub fn part(budget: &Budget, share: f64) -> Budget {
    let at_least = Duration::from_millis(500);
    Budget {
        warm: budget.warm.mul_f64(share).max(at_least / 2),
        measure: budget.measure.mul_f64(share).max(at_least),
        probe: Probe::new(None, [None; 3]),
        seed: budget.seed,
    }
}

/// The same time without a window of its own.
pub fn unprobed(budget: &Budget) -> Budget {
    Budget { probe: Probe::new(None, [None; 3]), ..budget.clone() }
}

/// W1's commands over NATS.
#[derive(Clone)]
pub struct Load(Arc<Inner>);

struct Inner {
    clients: Vec<Nats>,
    tenant: TenantId,
    streams: Vec<Uuid>,
    next: AtomicU64,
    /// Of the streams made beforehand.
    acknowledged: u64,
}

impl Load {
    /// Connects, and makes the streams that are changed later on.
    pub async fn prepare(target: &Target) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(target.nats().await?);
        }
        let streams = many::submit(&clients[0], "beside", (0, STREAMS)).await?;
        let (next, tenant) = (AtomicU64::new(0), tenant());
        let acknowledged = streams.len() as u64;
        Ok(Self(Arc::new(Inner { clients, tenant, streams, next, acknowledged })))
    }

    /// Commands that were acknowledged while it was prepared.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged
    }

    /// The next command; its outcome.
    pub async fn command(&self) -> anyhow::Result<Outcome> {
        let inner = &self.0;
        let n = inner.next.fetch_add(1, Ordering::Relaxed);
        let (id, command, body) = if n.is_multiple_of(PER_STREAM) {
            (Ids.fresh(), "submit", submit_body(n))
        } else {
            let stream = inner.streams[n as usize % inner.streams.len()];
            (stream, "update", update_body(n))
        };
        let subject = subject::request(&inner.tenant, StreamType::Task, id, command);
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", Ids.fresh().to_string());
        let request = Request::new().headers(headers).payload(body).timeout(Some(PATIENCE));
        let client = &inner.clients[n as usize % inner.clients.len()];
        let answer = client.send_request(subject, request).await?;
        serde_json::from_slice(&answer.payload).context("an outcome")
    }

    /// What so many clients get through in a closed loop.
    pub async fn capacity(&self, budget: &Budget, clients: usize) -> anyhow::Result<Samples> {
        let clients = (0..clients).map(|_| Caller(self.clone())).collect();
        closed(budget, clients).await
    }
}

struct Caller(Load);

impl Client for Caller {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        w1a::reply(&self.0.command().await?)
    }
}

/// Adds what companions acknowledged, so that the log can be counted.
pub fn acknowledge(samples: &mut Samples, companions: &[&Samples], beforehand: u64) {
    samples.acknowledged += beforehand;
    for companion in companions {
        samples.acknowledged += companion.acknowledged;
        samples.unknown += companion.unknown;
        if samples.error.is_none() {
            samples.error.clone_from(&companion.error);
        }
    }
}
