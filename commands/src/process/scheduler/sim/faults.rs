//! Faults that are seeded to see whether the checks find them. The product is left as it
//! is: what it is told, or what it says, is bent on the way.

use std::sync::Arc;

use domain::agent::AgentEvent;
use domain::queue::{QueueEvent, Weights};
use domain::task::TaskEvent;
use domain::{Event, Recorded};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Whatever token is shown, it counts as the right one.
    IgnoresTokens,
    /// The scheduler believes that every agent has a thousand slots.
    DropsSlots,
    /// The scheduler does not hear that attempts fail.
    ForgetsRetries,
    /// The scheduler hears of failures without the time of the next attempt.
    SkipsBackoff,
    /// Tasks on their way to an agent stand in the queue all the same.
    ReservesNothing,
    /// The scheduler hears of no policy.
    ForgetsLimits,
    /// The processor takes the commands of whichever scheduler.
    ForgetsFence,
    /// Nobody hears that a lease began.
    ForgetsLeases,
    /// The scheduler serves the most urgent class alone.
    Starves,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::IgnoresTokens,
        Self::DropsSlots,
        Self::ForgetsRetries,
        Self::SkipsBackoff,
        Self::ReservesNothing,
        Self::ForgetsLimits,
        Self::ForgetsFence,
        Self::ForgetsLeases,
        Self::Starves,
    ];

    /// What the scheduler is told of an event; `None` where it is not told.
    pub fn told(self, event: &Arc<Recorded>) -> Option<Arc<Recorded>> {
        let Ok(happened) = event.event() else { return Some(event.clone()) };
        let mut happened = happened.clone();
        match (self, &mut happened) {
            (Self::DropsSlots, Event::Agent(AgentEvent::Registered(said)))
            | (Self::DropsSlots, Event::Agent(AgentEvent::Reconnected(said))) => said.slots = 1_000,
            (Self::ForgetsRetries, Event::Task(TaskEvent::AttemptFailed(_))) => return None,
            (Self::ForgetsLimits, Event::Queue(QueueEvent::Configured(new))) => {
                new.policy.limits.clear();
            }
            (Self::SkipsBackoff, Event::Task(TaskEvent::AttemptFailed(by))) => by.retry_at = None,
            (Self::Starves, Event::Queue(QueueEvent::Configured(new))) => {
                new.policy.weights = Weights { critical: 10_000, ..Weights::default() };
            }
            _ => return Some(event.clone()),
        }
        let told =
            Recorded { decoded: std::sync::OnceLock::from(Ok(happened)), ..(**event).clone() };
        Some(Arc::new(told))
    }
}
