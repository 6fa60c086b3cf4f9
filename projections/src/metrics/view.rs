//! Metrics as they are shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counters, LatencyHistogram, MetricsRow, Minute};

/// Whole minutes that a rate is the mean of.
const RATE_MINUTES: i64 = 5;

/// A tenant's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsView {
    /// All queues together.
    pub total: QueueMetrics,
    /// Each queue.
    pub queues: BTreeMap<String, QueueMetrics>,
    /// Tasks by state, archived ones left out.
    pub tasks_by_state: BTreeMap<String, u64>,
    /// Agents by state.
    pub agents_by_state: BTreeMap<String, u64>,
}

/// Counters, latencies and rates of one queue, or of all together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueMetrics {
    /// Since the log's first event.
    pub counters: Counters,
    /// From submission to start.
    pub submit_to_start_ms: LatencyView,
    /// From start to completion.
    pub start_to_done_ms: LatencyView,
    /// Lately.
    pub per_minute: RatesView,
}

/// A latency's distribution, in milliseconds, to one percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names of percentiles")]
pub struct LatencyView {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

impl From<&LatencyHistogram> for LatencyView {
    fn from(histogram: &LatencyHistogram) -> Self {
        Self {
            count: histogram.count(),
            mean: (histogram.mean() * 100.0).round() / 100.0,
            p50: histogram.at(0.50),
            p90: histogram.at(0.90),
            p95: histogram.at(0.95),
            p99: histogram.at(0.99),
            max: histogram.max(),
        }
    }
}

/// Means over the five whole minutes before the one in which the last event of the log was
/// recorded: the log's clock, so that an answer follows from its position alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RatesView {
    /// Tasks created.
    pub submitted: f64,
    /// Attempts begun.
    pub started: f64,
    /// Tasks done.
    pub completed: f64,
    /// Attempts that ended in an error.
    pub attempts_failed: f64,
    /// Where these minutes end.
    pub until: DateTime<Utc>,
}

impl RatesView {
    /// The rates at an instant, in minutes since 1970; the running minute is left out.
    pub fn at(minute: i64, minutes: &BTreeMap<i64, Minute>) -> Self {
        let mut sum = Minute::default();
        for (_, counted) in minutes.range(minute - RATE_MINUTES..minute) {
            sum.add(counted);
        }
        let mean = |count: u64| count as f64 / RATE_MINUTES as f64;
        Self {
            submitted: mean(sum.submitted),
            started: mean(sum.started),
            completed: mean(sum.completed),
            attempts_failed: mean(sum.attempts_failed),
            until: DateTime::from_timestamp(minute * 60, 0).unwrap_or_default(),
        }
    }
}

impl QueueMetrics {
    /// A row as it is shown at an instant, in minutes since 1970.
    pub fn of(row: &MetricsRow, minute: i64) -> Self {
        Self {
            counters: row.counters,
            submit_to_start_ms: (&row.waited).into(),
            start_to_done_ms: (&row.ran).into(),
            per_minute: RatesView::at(minute, &row.minutes),
        }
    }
}

impl MetricsRow {
    /// Adds another queue's numbers.
    pub fn merge(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.waited.merge(&other.waited);
        self.ran.merge(&other.ran);
        for (minute, counted) in &other.minutes {
            self.minutes.entry(*minute).or_default().add(counted);
        }
    }
}
