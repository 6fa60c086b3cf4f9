//! The processor as a role: one active process at a time, standbys behind it.

use std::sync::Arc;
use std::time::Duration;

use store::{Feed, Lease, Leases, Log, StoreError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::engine::{Ended, Engine};
use super::{Pending, Processor, ProcessorConfig, Stats};
use crate::clock::Clock;
use crate::fence::{Fence, MANAGERS};

/// The lease's name.
const ROLE: &str = "processor";
/// A dead holder's lease ends after this; a standby takes over within two seconds.
const LEASE: Duration = Duration::from_millis(1_500);
/// How often the holder renews.
const RENEW: Duration = Duration::from_millis(400);
/// How often a standby asks.
const STANDBY: Duration = Duration::from_millis(200);

/// Shortest time between two looks at the managers' lease.
const LEARN_EVERY: Duration = Duration::from_millis(10);

/// The running half of the processor.
#[derive(Debug)]
pub struct ProcessorRole {
    log: Log,
    feed: Feed,
    leases: Leases,
    clock: Clock,
    config: ProcessorConfig,
    queue: mpsc::Receiver<Pending>,
    active: watch::Sender<bool>,
    stats: Arc<Stats>,
    fence: Fence,
}

/// A processor: the door for callers and the role to run.
pub fn processor(
    log: Log,
    feed: Feed,
    clock: Clock,
    config: ProcessorConfig,
) -> (Processor, ProcessorRole) {
    let (sender, queue) = mpsc::channel(config.queue);
    let active = watch::Sender::new(false);
    let stats = Arc::new(Stats::default());
    let fence = Fence::default();
    let door = Processor {
        queue: sender,
        active: active.subscribe(),
        stats: stats.clone(),
        fence: fence.clone(),
    };
    let leases = Leases::new(log.pool().clone());
    (door, ProcessorRole { log, feed, leases, clock, config, queue, active, stats, fence })
}

impl ProcessorRole {
    /// Decides whenever it holds the lease; ends when cancelled, after what was taken is
    /// answered. `force` takes the lease from a holder that is known to be dead.
    pub async fn run(mut self, holder: &str, mut force: bool, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let lease = match self.leases.acquire(ROLE, holder, LEASE, force).await {
                Ok(Some(lease)) => lease,
                Ok(None) => {
                    self.stand_by(&cancel).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the processor's lease could not be asked for");
                    self.stand_by(&cancel).await;
                    continue;
                }
            };
            force = false;
            tracing::info!(token = lease.token, "deciding commands");
            self.clock.set(lease.given_at);
            match self.lead(&lease, &cancel).await {
                Ok(Ended::Drained) => break,
                Ok(Ended::LeaseLost) => {
                    self.active.send_replace(false);
                    tracing::warn!("the processor's lease was lost");
                }
                Err(error) => {
                    tracing::warn!(%error, "the processor could not begin");
                    self.give_back(&lease).await;
                    self.stand_by(&cancel).await;
                }
            }
        }
    }

    async fn give_back(&self, lease: &Lease) {
        self.active.send_replace(false);
        if let Err(error) = self.leases.release(lease).await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }

    async fn stand_by(&mut self, cancel: &CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(STANDBY) => {}
            () = cancel.cancelled() => {}
        }
        while let Ok(pending) = self.queue.try_recv() {
            pending.busy("this process does not hold the processor's lease");
        }
    }

    async fn lead(
        &mut self,
        lease: &Lease,
        cancel: &CancellationToken,
    ) -> Result<Ended, StoreError> {
        let mut engine = Engine::new(
            self.log.clone(),
            self.feed.clone(),
            self.clock.clone(),
            self.config.clone(),
            self.stats.clone(),
            self.fence.clone(),
            lease.token,
        )
        .await?;
        self.fence.learn(self.leases.token(MANAGERS).await?);
        self.feed.announce(self.log.head().await?.position);
        self.active.send_replace(true);

        let lost = CancellationToken::new();
        let renewal = renew(self.leases.clone(), lease.clone(), self.clock.clone(), lost.clone());
        // Ends with the engine even if that panics: nobody may hold the lease and not decide.
        let renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
        let learning = learn(self.leases.clone(), self.fence.clone());
        let learning = AbortOnDropHandle::new(tokio::spawn(learning));
        let ended = engine.run(&mut self.queue, cancel, &lost).await;
        drop((renewal, learning));
        if ended == Ended::Drained {
            self.give_back(lease).await;
        }
        Ok(ended)
    }
}

/// Asks for the managers' token whenever a command shows one that is not known.
async fn learn(leases: Leases, fence: Fence) {
    loop {
        fence.asked().await;
        match leases.token(MANAGERS).await {
            Ok(token) => fence.learn(token),
            Err(error) => tracing::debug!(%error, "the managers' lease could not be looked up"),
        }
        // However many made-up tokens come, the database is asked seldom.
        tokio::time::sleep(LEARN_EVERY).await;
    }
}

/// Renews until the lease is gone. While the database does not answer, the token in the
/// append statement keeps a stale holder out, so waiting for it is safe.
async fn renew(leases: Leases, lease: Lease, clock: Clock, lost: CancellationToken) {
    loop {
        tokio::time::sleep(RENEW).await;
        let renewal = leases.renew(&lease, LEASE);
        tokio::pin!(renewal);
        let renewed = match tokio::time::timeout(LEASE, &mut renewal).await {
            Ok(renewed) => renewed,
            Err(_) => {
                tracing::warn!(role = ROLE, "no answer to the renewal of the role's lease");
                renewal.await
            }
        };
        match renewed {
            Ok(Some(now)) => clock.set(now),
            Ok(None) => {
                lost.cancel();
                return;
            }
            Err(error) => tracing::debug!(%error, "the lease could not be renewed yet"),
        }
    }
}
