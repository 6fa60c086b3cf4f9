//! The queue's rules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::*;
use super::event::*;
use super::policy::QueuePolicy;
use crate::decide::{Facts, Refusal};

/// Whether a queue gives tasks out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    /// It does.
    #[default]
    Active,
    /// It does not.
    Paused,
    /// Only what was submitted before the drain.
    Draining,
}

impl QueueState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Active, Self::Paused, Self::Draining];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    /// The commands that this state allows.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Active => &["configure", "pause", "drain"],
            Self::Paused => &["configure", "resume", "drain"],
            Self::Draining => &["configure", "pause", "resume"],
        }
    }
}

/// What was decided about a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Whether it gives tasks out.
    pub state: QueueState,
    /// How it does so.
    pub policy: QueuePolicy,
}

impl Queue {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state is the one that is asked for already.
    pub fn decide(&self, command: &QueueCommand, _: &Facts) -> Result<Vec<QueueEvent>, Refusal> {
        use QueueCommand as C;
        use QueueEvent as E;
        use QueueState as S;
        let changed =
            |by: &ChangeQueue| QueueChanged { queue: by.queue.clone(), reason: by.reason.clone() };
        match (self.state, command) {
            (_, C::Configure(new)) => Ok(vec![E::Configured(QueueConfigured {
                queue: new.queue.clone(),
                policy: new.policy.clone(),
            })]),
            (S::Active | S::Draining, C::Pause(by)) => Ok(vec![E::Paused(changed(by))]),
            (S::Paused | S::Draining, C::Resume(by)) => Ok(vec![E::Resumed(changed(by))]),
            (S::Active | S::Paused, C::Drain(by)) => Ok(vec![E::Draining(changed(by))]),
            (S::Paused, C::Pause(_)) | (S::Active, C::Resume(_)) | (S::Draining, C::Drain(_)) => {
                Err(Refusal::illegal(command.name(), self.state.as_str(), self.state.allowed()))
            }
        }
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &QueueEvent) {
        match event {
            QueueEvent::Configured(new) => self.policy = new.policy.clone(),
            QueueEvent::Paused(_) => self.state = QueueState::Paused,
            QueueEvent::Resumed(_) => self.state = QueueState::Active,
            QueueEvent::Draining(_) => self.state = QueueState::Draining,
        }
    }
}

aggregate!(Queue, "queue", QueueCommand, QueueEvent);
