//! What each event adds to the counters of its queue.

use std::collections::BTreeMap;

use domain::task::TaskEvent;
use domain::{Event, Recorded};
use serde::{Deserialize, Serialize};

use super::LatencyHistogram;
use crate::engine::{Cell, Column, Projection};

/// The row of events that do not name their queue: it counts for the tenant's total.
pub const ALL_QUEUES: &str = "*";
/// Minutes that rates are told from.
const KEPT_MINUTES: i64 = 60;

/// The read model of counters and latencies.
#[derive(Debug, Clone, Copy)]
pub struct Metrics;

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Counters {
    /// Tasks created.
    pub submitted: u64,
    /// Tasks given to an agent.
    pub assigned: u64,
    /// Attempts begun.
    pub started: u64,
    /// Tasks done.
    pub completed: u64,
    /// Attempts that ended in an error.
    pub attempts_failed: u64,
    /// Tasks ended by an error that no further attempt would mend.
    pub failed: u64,
    /// Tasks whose attempts are used up.
    pub dead: u64,
    /// Tasks that nobody is to do any more.
    pub cancelled: u64,
    /// Tasks handed back undone; counted for the tenant, not per queue.
    pub released: u64,
    /// Leases that ran out.
    pub lease_expired: u64,
    /// Tasks put back into their queue by somebody.
    pub requeued: u64,
    /// Tasks that were not done in time.
    pub overdue: u64,
    /// Tasks that stood still for too long.
    pub escalated: u64,
}

impl Counters {
    /// Adds another one's counts.
    pub fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.assigned += other.assigned;
        self.started += other.started;
        self.completed += other.completed;
        self.attempts_failed += other.attempts_failed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.released += other.released;
        self.lease_expired += other.lease_expired;
        self.requeued += other.requeued;
        self.overdue += other.overdue;
        self.escalated += other.escalated;
    }
}

/// What happened within a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in Counters")]
pub struct Minute {
    #[serde(rename = "s")]
    pub submitted: u64,
    #[serde(rename = "b")]
    pub started: u64,
    #[serde(rename = "c")]
    pub completed: u64,
    #[serde(rename = "f")]
    pub attempts_failed: u64,
}

impl Minute {
    /// Adds another one's counts.
    pub fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.started += other.started;
        self.completed += other.completed;
        self.attempts_failed += other.attempts_failed;
    }
}

/// The counters and latencies of a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsRow {
    /// Since the log's first event.
    pub counters: Counters,
    /// From submission to the first start, in milliseconds.
    pub waited: LatencyHistogram,
    /// From an attempt's start to the task's completion, in milliseconds.
    pub ran: LatencyHistogram,
    /// The last hour, by minutes since 1970.
    pub minutes: BTreeMap<i64, Minute>,
}

impl Projection for Metrics {
    const NAME: &'static str = "metrics";
    const COLUMNS: &'static [Column] = &[];
    /// The queue.
    type Key = String;
    type Row = MetricsRow;

    fn keys(_: &Recorded, event: &Event) -> Vec<String> {
        let Event::Task(event) = event else { return Vec::new() };
        queue_of(event).into_iter().map(str::to_owned).collect()
    }

    fn fold(
        &self,
        _: &String,
        row: Option<MetricsRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<MetricsRow> {
        use TaskEvent as E;
        let Event::Task(event) = event else { return row };
        let mut row = row.unwrap_or_default();
        let minute = recorded.recorded_at.timestamp().div_euclid(60);
        let mut recent = Minute::default();
        let counters = &mut row.counters;
        match event {
            E::Submitted(_) => {
                counters.submitted += 1;
                recent.submitted += 1;
            }
            E::Assigned(_) => counters.assigned += 1,
            E::Started(start) => {
                counters.started += 1;
                recent.started += 1;
                row.waited.record(start.waited_ms);
            }
            E::Completed(done) => {
                counters.completed += 1;
                recent.completed += 1;
                row.ran.record(done.ran_ms);
            }
            E::AttemptFailed(_) => {
                counters.attempts_failed += 1;
                recent.attempts_failed += 1;
            }
            E::Failed(_) => counters.failed += 1,
            E::DeadLettered(_) => counters.dead += 1,
            E::Cancelled(_) => counters.cancelled += 1,
            E::Released(_) => counters.released += 1,
            E::LeaseExpired(_) => counters.lease_expired += 1,
            E::Requeued(_) => counters.requeued += 1,
            E::Overdue(_) => counters.overdue += 1,
            E::Escalated(_) => counters.escalated += 1,
            E::Updated(_)
            | E::Unassigned(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::ReviewRequested(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::LeaseExtended(_)
            | E::Archived(_) => {}
        }
        if recent != Minute::default() {
            row.minutes.entry(minute).or_default().add(&recent);
            row.minutes = row.minutes.split_off(&(minute - KEPT_MINUTES));
        }
        Some(row)
    }

    fn shown(_key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::QueueMetrics::of(&row, 0)).unwrap_or_default()
    }

    fn index(_: &String, _: &MetricsRow) -> Vec<Cell> {
        Vec::new()
    }
}

/// The row that an event counts for.
fn queue_of(event: &TaskEvent) -> Option<&str> {
    use TaskEvent as E;
    match event {
        E::Submitted(new) => Some(&new.queue),
        E::Assigned(to) => Some(&to.queue),
        E::Started(start) => Some(&start.queue),
        E::Completed(done) => Some(&done.queue),
        E::AttemptFailed(failed) => Some(&failed.queue),
        E::Failed(failed) => Some(&failed.queue),
        E::DeadLettered(dead) => Some(&dead.queue),
        E::Cancelled(ended) => Some(&ended.queue),
        E::Requeued(ended) => Some(&ended.queue),
        E::LeaseExpired(expired) => Some(&expired.queue),
        E::Overdue(late) => Some(&late.queue),
        E::Escalated(said) => Some(&said.queue),
        E::Released(_) => Some(ALL_QUEUES),
        E::Updated(_)
        | E::Unassigned(_)
        | E::Progressed(_)
        | E::Blocked(_)
        | E::Unblocked(_)
        | E::ReviewRequested(_)
        | E::Approved(_)
        | E::Rejected(_)
        | E::LeaseExtended(_)
        | E::Archived(_) => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
