use domain::TenantId;

use super::*;
use crate::metrics::{QueueMetrics, RatesView};
use crate::testing::{History, task};

fn row(history: &History, queue: &str) -> MetricsRow {
    let world = history.world(Metrics);
    world.get(&TenantId::default_tenant(), &queue.to_owned()).unwrap().clone()
}

#[test]
fn a_task_counts_in_its_queue_from_submission_to_completion() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"t","queue":"q"}"#));
    let assign = format!(r#"{{"agent_id":"{}"}}"#, domain::AgentId::nth(7));
    history.decide(1, task("assign", &assign));
    history.decide(1, task("start", r#"{"lease_token":1}"#));
    history.decide(1, task("complete", r#"{"lease_token":1}"#));
    let row = row(&history, "q");
    let counters = row.counters;
    assert_eq!(
        (counters.submitted, counters.assigned, counters.started, counters.completed),
        (1, 1, 1, 1)
    );
    assert_eq!((row.waited.count(), row.ran.count()), (1, 1));
    let shown = QueueMetrics::of(&row, 1);
    assert_eq!(shown.per_minute.submitted, 1.0 / 5.0);
    assert!(shown.submit_to_start_ms.p99 >= 1_000);
}

#[test]
fn what_does_not_name_its_queue_counts_for_all_of_them() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"t","queue":"q"}"#));
    let assign = format!(r#"{{"agent_id":"{}"}}"#, domain::AgentId::nth(7));
    history.decide(1, task("assign", &assign));
    history.decide(1, task("release", r#"{"lease_token":1}"#));
    assert_eq!(row(&history, ALL_QUEUES).counters.released, 1);
}

#[test]
fn only_the_last_hour_is_kept_by_minutes() {
    let mut history = History::default();
    for n in 0..8_000 {
        history.decide(n, task("submit", r#"{"title":"t"}"#));
    }
    let row = row(&history, "default");
    assert_eq!(row.counters.submitted, 8_000);
    assert!(row.minutes.len() as i64 <= KEPT_MINUTES + 1);
    let (last, _) = row.minutes.last_key_value().unwrap();
    assert_eq!(RatesView::at(*last, &row.minutes).submitted, 60.0);
}
