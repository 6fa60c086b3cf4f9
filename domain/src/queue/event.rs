//! What can have happened to a queue.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::policy::QueuePolicy;
use super::upcast::UPCASTS;

events! {
    /// The events of a queue.
    QueueEvent of "queue" upcast UPCASTS;
    {
        /// Its policy was set.
        Configured(QueueConfigured) = "configured" v 1,
        /// Nothing is given out any more.
        Paused(QueueChanged) = "paused" v 1,
        /// Tasks are given out again.
        Resumed(QueueChanged) = "resumed" v 1,
        /// What was submitted after this event waits until the queue is resumed.
        Draining(QueueChanged) = "draining" v 1,
    }
}

/// Its policy, as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueConfigured {
    /// The queue's name.
    pub queue: String,
    /// What holds from here on.
    pub policy: QueuePolicy,
}

/// Whether it gives tasks out has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueChanged {
    /// The queue's name.
    pub queue: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl QueueEvent {
    /// The queue that it names.
    pub fn queue(&self) -> &str {
        match self {
            Self::Configured(body) => &body.queue,
            Self::Paused(body) | Self::Resumed(body) | Self::Draining(body) => &body.queue,
        }
    }
}
