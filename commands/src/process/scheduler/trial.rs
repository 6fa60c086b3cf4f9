//! The scheduler without hands: fed with events, it decides, and carries nothing out.

use std::time::Instant;

use domain::{AgentId, Recorded, TenantId, Timestamp};
use tokio::sync::oneshot;

use super::core::{Hand, Scheduler};
use super::waiters::{Terms, Waiter};
use crate::CommandEnvelope;

/// A scheduler that only decides, for measurements and what-if questions.
#[derive(Debug, Default)]
pub struct Trial(Scheduler);

impl Trial {
    /// Folds one event.
    pub fn apply(&mut self, event: &Recorded) {
        self.0.apply(event);
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Timestamp) {
        self.0.advance(now);
    }

    /// An agent listens for pushed tasks.
    pub fn listen(&mut self, agent: AgentId, now: Instant) {
        self.0.heard(agent, true, now);
    }

    /// What is given out of itself: the assignments of pushes.
    pub fn decide(&mut self) -> Vec<CommandEnvelope> {
        self.commands()
    }

    /// An agent asks for work and does not wait for it: the assignments that it gets.
    pub fn claim(
        &mut self,
        tenant: &TenantId,
        queue: &str,
        agent: AgentId,
        max: usize,
    ) -> Vec<CommandEnvelope> {
        let (answer, _nobody_waits) = oneshot::channel();
        let (tenant, queue, terms) = (tenant.clone(), queue.to_owned(), Terms::default());
        let id = self.0.wait(Waiter { tenant, queue, agent, max, terms, answer });
        let commands = self.commands();
        if let Some(id) = id {
            self.0.withdraw(id);
        }
        commands
    }

    fn commands(&mut self) -> Vec<CommandEnvelope> {
        let picks = self.0.serve().into_iter().flat_map(|hand| match hand {
            Hand::Claim(_, picks) => picks,
            Hand::Push(pick) => vec![*pick],
        });
        picks.filter_map(|pick| pick.assign).collect()
    }
}
