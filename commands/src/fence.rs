//! Keeps managers that lost their lease out.
//!
//! Leases are judged by time, so two schedulers can overlap for a moment; each decides
//! by its own fold, and together they could give out more than a limit or an agent's
//! slots allow. Hence every command of a manager carries the token of its lease, the
//! processor knows the newest token from the database, and refuses older ones. A token
//! that it does not know yet it asks the database for before it takes the command: a
//! made-up one achieves nothing.
//!
//! A new scheduler sends a first command under its token ([`barrier`]) and folds the log
//! up to that command's outcome before it decides anything. Once the processor has taken
//! that command, it takes none of the scheduler before; whatever of that one was taken
//! stands in the log before the outcome. (M. Kleppmann, "Designing Data-Intensive
//! Applications", 2017, chapter 8: fencing tokens.)

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use domain::task::{Reason, TaskCommand};
use domain::{Code, Refusal, TenantId};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::CommandEnvelope;

/// The role whose commands are fenced.
pub const MANAGERS: &str = "managers";

/// The newest token of the managers' lease, as far as the processor knows it.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    known: Arc<AtomicI64>,
    asked: Arc<Notify>,
}

/// How a command stands to the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not a manager's, or the present one's.
    Good,
    /// Of a manager that another has followed.
    Stale,
    /// Of one that the processor has not heard of yet.
    Unknown,
}

impl Fence {
    /// The database says so.
    pub(crate) fn learn(&self, token: i64) {
        self.known.fetch_max(token, Ordering::SeqCst);
    }

    pub(crate) fn standing(&self, command: &CommandEnvelope) -> Standing {
        let known = self.known.load(Ordering::SeqCst);
        match command.fence {
            Some(token) if token < known => Standing::Stale,
            Some(token) if token > known => Standing::Unknown,
            Some(_) | None => Standing::Good,
        }
    }

    /// Has the database asked soon.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Ready when somebody asks.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// Why a command of an earlier holder is refused.
pub(crate) fn stale() -> Refusal {
    Refusal::new(Code::StaleLease, "another process manages by now")
}

/// The first command of a manager: it changes nothing (no stream has that version), and
/// its outcome tells a position behind which nothing of an earlier manager comes.
pub(crate) fn barrier(token: i64) -> CommandEnvelope {
    let command = TaskCommand::Archive(Reason { reason: Some("a scheduler begins".into()) });
    let id = Uuid::new_v5(&Uuid::nil(), format!("manager:scheduler:barrier:{token}").as_bytes());
    let tenant = TenantId::default_tenant();
    CommandEnvelope {
        expected_version: Some(i64::MAX as u64),
        fence: Some(token),
        ..CommandEnvelope::new(tenant, Uuid::nil(), command, id, "manager:scheduler")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_token_that_the_database_told_is_good() {
        let fence = Fence::default();
        assert_eq!(fence.standing(&barrier(7)), Standing::Unknown);
        fence.learn(7);
        assert_eq!(fence.standing(&barrier(7)), Standing::Good);
        fence.learn(8);
        assert_eq!(fence.standing(&barrier(7)), Standing::Stale);
        fence.learn(7);
        assert_eq!(fence.standing(&barrier(8)), Standing::Good, "it never goes back");
        let unfenced = CommandEnvelope { fence: None, ..barrier(1) };
        assert_eq!(fence.standing(&unfenced), Standing::Good);
    }
}
