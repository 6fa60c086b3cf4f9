//! What can be asked of a queue.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::policy::QueuePolicy;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::Check;

commands! {
    /// The commands of a queue.
    QueueCommand {
        /// Sets its policy.
        Configure(ConfigureQueue) = "configure",
        /// Nothing is given out until it is resumed.
        Pause(ChangeQueue) = "pause",
        /// Tasks are given out again.
        Resume(ChangeQueue) = "resume",
        /// What waits is given out, what comes later waits until it is resumed.
        Drain(ChangeQueue) = "drain",
    }
}

/// Sets the policy of a queue as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigureQueue {
    /// The queue's name.
    pub queue: String,
    /// What holds from now on; what is left out is the default.
    #[serde(default)]
    pub policy: QueuePolicy,
}

impl Body for ConfigureQueue {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        self.policy.faults(Check::default().token("queue", &self.queue), "policy/").done()
    }
}

/// Changes whether a queue gives tasks out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeQueue {
    /// The queue's name.
    pub queue: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ChangeQueue {
    /// A change without a reason.
    pub fn of(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), reason: None }
    }
}

impl Body for ChangeQueue {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let check = Check::default().token("queue", &self.queue);
        check.maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

impl QueueCommand {
    /// The queue that it names.
    pub fn queue(&self) -> &str {
        match self {
            Self::Configure(body) => &body.queue,
            Self::Pause(body) | Self::Resume(body) | Self::Drain(body) => &body.queue,
        }
    }
}
