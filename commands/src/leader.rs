//! Running a role in one process at a time, with the others standing by.

use std::future::Future;
use std::time::Duration;

use store::{Lease, Leases};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A dead holder's lease ends after this.
const LEASE: Duration = Duration::from_millis(2_000);
/// How often the holder renews.
const RENEW: Duration = Duration::from_millis(500);
/// How often a standby asks.
const STANDBY: Duration = Duration::from_millis(250);

/// Runs `work` whenever this process holds the role's lease, until cancelled.
///
/// `work` is given the lease's token and another that is cancelled when the lease is lost or the process
/// leaves; it is waited for before the lease is given back. `force` takes the lease from
/// a holder that is known to be dead. What `work` writes must be harmless when two
/// holders overlap for a moment: leases are judged by time, only tokens fence.
pub async fn while_leading<W, F>(
    leases: Leases,
    role: &str,
    holder: &str,
    mut force: bool,
    cancel: CancellationToken,
    mut work: W,
) where
    W: FnMut(i64, CancellationToken) -> F,
    F: Future<Output = ()>,
{
    while !cancel.is_cancelled() {
        match leases.acquire(role, holder, LEASE, force).await {
            Ok(Some(lease)) => {
                force = false;
                tracing::info!(role, token = lease.token, "role taken");
                let child = cancel.child_token();
                let renewal = renew(leases.clone(), lease.clone(), child.clone());
                // Ends with the work even if that panics.
                let renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
                work(lease.token, child.clone()).await;
                drop(renewal);
                let lost = child.is_cancelled() && !cancel.is_cancelled();
                if lost {
                    tracing::warn!(role, "role lost");
                } else if let Err(error) = leases.release(&lease).await {
                    tracing::debug!(role, %error, "the lease runs out by itself");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(role, %error, "the lease could not be asked for"),
        }
        tokio::select! {
            () = tokio::time::sleep(STANDBY) => {}
            () = cancel.cancelled() => {}
        }
    }
}

async fn renew(leases: Leases, lease: Lease, lost: CancellationToken) {
    let mut ends = Instant::now() + LEASE;
    loop {
        tokio::time::sleep(RENEW).await;
        let asked = Instant::now();
        // While the database is away nobody else can take the role either; but once the
        // time is over, somebody may the moment it returns.
        match timeout_at(ends, leases.renew(&lease, LEASE)).await {
            Ok(Ok(Some(_))) => ends = asked + LEASE,
            Ok(Ok(None)) => return lost.cancel(),
            // The work may hang on the same database, so this is said here and at once.
            Err(_) => {
                tracing::warn!(role = lease.role, "no answer to the renewal of the role's lease");
                return lost.cancel();
            }
            Ok(Err(error)) => tracing::debug!(role = lease.role, %error, "not renewed yet"),
        }
    }
}
