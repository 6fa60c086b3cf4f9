//! Counters and latencies per queue.
//!
//! Latencies are HdrHistograms, so percentiles of many queues can be had by adding
//! histograms up; percentiles themselves can't be added and are never stored.

mod fold;
mod histogram;
mod numbers;
mod query;
mod view;

pub use fold::{ALL_QUEUES, Counters, Metrics, MetricsRow, Minute};
pub use histogram::LatencyHistogram;
pub(crate) use numbers::Numbers;
pub use query::MetricsFilter;
pub use view::{LatencyView, MetricsView, QueueMetrics, RatesView};
