//! Commands that come over NATS: durable ones, requests, and claims.
//!
//! Invariant: nothing is acknowledged before its outcome is committed, and nothing malformed
//! reaches a handler: it is answered, recorded on `dead`, and terminated.

mod batch;
mod budget;
mod claims;
mod dead;
mod durable;
mod intake;
mod nodes;
mod pull;
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use commands::{Executor, Ids};
use domain::TenantId;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Streams;

pub use batch::MAX_BATCH;
pub(crate) use claims::ClaimReply;
pub use claims::serve_claims;
pub(crate) use intake::{is_actor, is_reply};
pub use nodes::serve_nodes;

use dead::DeadLetters;

/// Tells whether a tenant exists.
pub type TenantCheck = Arc<dyn Fn(&TenantId) -> bool + Send + Sync>;

/// How long a drain waits for what is in flight (reliability D42).
const DRAIN: Duration = Duration::from_secs(8);
/// How long the last acks may take to leave.
const FLUSH: Duration = Duration::from_secs(1);
/// How soon a sender should try again when all places are taken.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the consumers counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages taken from the stream of commands.
    pub durable: AtomicU64,
    /// Requests taken.
    pub requests: AtomicU64,
    /// Messages that were malformed.
    pub malformed: AtomicU64,
    /// Times that pulling durable commands failed and began anew.
    pub pull_failures: AtomicU64,
    /// Requests answered `busy` because all places were taken, and durable commands put back.
    pub busy: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Hands commands from NATS to the processor in this process.
///
/// Run only by the holder of the processor's lease.
#[derive(Clone)]
pub struct Consumer {
    client: Client,
    executor: Arc<dyn Executor>,
    tenants: TenantCheck,
    dead: DeadLetters,
    counters: Arc<Counters>,
    ids: Ids,
    streams: Streams,
}

impl Consumer {
    /// A consumer of a connection's commands; `tenants` tells which tenants exist.
    pub fn new(client: Client, executor: Arc<dyn Executor>, tenants: TenantCheck) -> Self {
        let dead = DeadLetters::new(client.clone(), tenants.clone());
        let streams = Streams::new(client.clone());
        Self { client, executor, tenants, dead, counters: Arc::default(), ids: Ids, streams }
    }

    /// The same, looking after these streams.
    pub fn with_streams(self, streams: Streams) -> Self {
        Self { streams, ..self }
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Serves durable commands and requests until cancelled, then drains for at most 8 s.
    ///
    /// Every failure of NATS is waited out; streams and consumers that vanish are made again.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::join!(
            self.streams.keep(cancel.clone()),
            durable::run(self, cancel.clone()),
            requests::run(self, cancel.clone()),
        );
        // The last acks and answers must not die in the client's queue with the process.
        if timeout(FLUSH, self.client.flush()).await.is_err() {
            tracing::debug!("NATS is away; what was not acknowledged will come again");
        }
    }

    /// Serves whenever this process is the one that decides: starts with the lease, drains
    /// when it is lost, and so on until cancelled.
    pub async fn run_while(&self, mut active: watch::Receiver<bool>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                leads = active.wait_for(|active| *active) => if leads.is_err() { return },
            }
            let term = cancel.child_token();
            let ended = async {
                // An error means that the processor is gone, which ends the term as well.
                let _ = active.wait_for(|active| !*active).await;
                term.cancel();
            };
            // The drain must not be cut short by the lease coming back meanwhile.
            tokio::join!(self.run(term.clone()), async {
                tokio::select! {
                    () = ended => {}
                    () = term.cancelled() => {}
                }
            });
        }
    }
}
