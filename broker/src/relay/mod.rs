//! The relay: mirrors the log into JetStream, so that one number is the cursor everywhere.
//!
//! Invariant 5: the stream's sequence is the event's position. The broker itself keeps it so:
//! each publish names the sequence that must come before it, so a duplicate, a second relay
//! and a gap are refused there, whatever goes wrong here.

mod mirror;
mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, jetstream};
use store::Reader;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use session::End;

use crate::BrokerError;

/// First position that the stream holds: it mirrors the whole log.
const FIRST: u64 = 1;
/// First and longest pause after a failure or a lost race.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A session that went well for so long makes earlier trouble forgotten.
const SETTLED: Duration = Duration::from_secs(10);

/// How far the mirror has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The generation of the store that the stream carries.
    pub epoch: u64,
    /// The last position that JetStream has acknowledged.
    pub relayed: u64,
}

/// What the relay counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that JetStream acknowledged.
    pub published: AtomicU64,
    /// Sessions that ended because another relay was faster.
    pub lost_races: AtomicU64,
    /// Times that the stream was made anew.
    pub remade: AtomicU64,
}

/// Mirrors the log into the stream of events.
///
/// Two at once do no harm: the broker takes each position once, and who loses holds back.
#[derive(Debug)]
pub struct Relay {
    client: Client,
    jetstream: jetstream::Context,
    reader: Reader,
    standing: watch::Sender<Standing>,
    counters: Counters,
}

impl Relay {
    /// A relay of the whole log.
    pub fn new(client: Client, reader: Reader) -> Self {
        Self {
            jetstream: jetstream::new(client.clone()),
            client,
            reader,
            standing: watch::Sender::default(),
            counters: Counters::default(),
        }
    }

    /// How far the mirror has come, and under which epoch; wakes on every change.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Events committed and not yet relayed, as far as this process knows.
    pub fn lag(&self) -> u64 {
        self.reader.feed.head().saturating_sub(self.standing.borrow().relayed)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Mirrors until cancelled. Every failure of NATS or PostgreSQL is waited out.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        while !cancel.is_cancelled() {
            let began = Instant::now();
            let ended = self.once(&cancel, &mut failing).await;
            if began.elapsed() > SETTLED {
                backoff = BACKOFF_MIN;
            }
            match ended {
                Ok(End::Cancelled) => break,
                // The log has begun a new generation: nothing to wait for.
                Ok(End::Changed) => continue,
                Ok(End::Outrun) => {
                    self.counters.lost_races.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("another relay is at work; holding back");
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the relay was interrupted; it goes on by itself");
                        failing = true;
                    }
                }
            }
            // With equal pauses two relays would meet again and again.
            let pause = backoff.mul_f64(0.5 + rand::random::<f64>());
            backoff = (backoff * 2).min(BACKOFF_MAX);
            let _ = timeout(pause, cancel.cancelled()).await;
        }
    }

    async fn once(
        &self,
        cancel: &CancellationToken,
        failing: &mut bool,
    ) -> Result<End, BrokerError> {
        let standing = self.reconcile().await?;
        if std::mem::take(failing) {
            tracing::info!(position = standing.relayed, "the relay goes on");
        }
        session::run(self, standing, cancel).await
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|known| std::mem::replace(known, standing) != standing);
    }
}
