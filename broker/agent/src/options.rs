//! What an agent is and how it works.

use std::time::Duration;

use domain::TenantId;
use domain::agent::RegisterAgent;

/// What an agent is called, can do, and takes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose agent it is.
    pub tenant: TenantId,
    /// What the registry shows of it; `slots` is the number of tasks at once.
    pub description: RegisterAgent,
    /// The queues it claims from. None: it claims from `default` and also takes what is
    /// pushed to it from any queue.
    pub queues: Vec<String>,
    /// How long a lease runs without a word from us.
    pub lease: Duration,
    /// How long one claim waits for a task; at most 30 s.
    pub claim_wait: Duration,
    /// How long running tasks may go on after the process was told to end.
    pub drain: Duration,
    /// How long the first connection is tried for.
    pub connect: Duration,
}

impl Options {
    /// An agent of the default tenant with one slot.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            description: RegisterAgent::named(name),
            queues: Vec::new(),
            // Long enough for a server's restart (under 3 s), short enough that the tasks
            // of a killed agent are soon with another.
            lease: Duration::from_secs(10),
            // A scheduler that dies with our claim in its hands never answers: after this and
            // a little more the claim is repeated, which R21 wants within 15 s.
            claim_wait: Duration::from_secs(6),
            drain: Duration::from_secs(30),
            connect: Duration::from_secs(15),
        }
    }

    pub(crate) fn slots(&self) -> usize {
        (self.description.slots as usize).max(1)
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        (self.lease.as_millis() as u64)
            .clamp(domain::task::MIN_LEASE_MS, domain::task::MAX_LEASE_MS)
    }
}
