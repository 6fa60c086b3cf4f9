//! A queue as it is shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::Json;
use domain::queue::{QueuePolicy, QueueState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::metrics::{Counters, RatesView};

/// A queue as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Tasks that wait in it.
    pub depth: u64,
    /// The waiting ones by priority; every priority is named.
    pub by_priority: BTreeMap<String, u64>,
    /// The open, failed and dead ones by state; states without a task are left out.
    pub by_state: BTreeMap<String, u64>,
    /// Since when the oldest one waits.
    pub oldest_queued_at: Option<DateTime<Utc>>,
    /// Means over the last five whole minutes of the log.
    pub per_minute: RatesView,
    /// Since the log's first event.
    pub counters: Counters,
    /// What the waiting ones wait for, as the scheduler has it now; only where it was asked
    /// for (`standing=true`), and not from a process without the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<QueueStanding>,
    /// Whether it gives tasks out.
    pub state: QueueState,
    /// Why, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Since when; absent where it was always so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since: Option<DateTime<Utc>>,
    /// How it gives tasks out; the default where nothing was set.
    #[schema(value_type = QueuePolicy)]
    pub policy: Json,
    /// Of its stream: 0 where nothing was ever decided about it.
    pub version: u64,
}

/// The open tasks of a queue by what they wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueStanding {
    /// For an agent alone: they could be given out now.
    pub ready: u64,
    /// For a time or a backoff.
    pub timed: u64,
    /// For other tasks.
    pub dependent: u64,
    /// For nothing: agents have them.
    pub held: u64,
}
