//! A queue as it is shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
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
    /// How long that is.
    pub oldest_age_ms: Option<u64>,
    /// Means over the last five whole minutes.
    pub per_minute: RatesView,
    /// Since the log's first event.
    pub counters: Counters,
}
