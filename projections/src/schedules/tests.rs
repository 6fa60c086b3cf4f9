use domain::schedule::ScheduleState;
use domain::{StreamType, TenantId};

use super::*;
use crate::schedules::ScheduleView;
use crate::testing::{History, command};

/// Time in a history: a second per event, from 1970 on.
const CREATE: &str = r#"{"name":"s","interval_ms":1000,"task":{"title":"t","payload":{"a":1.0}}}"#;

fn after(commands: &[(&str, &str)]) -> Option<ScheduleRow> {
    let mut history = History::default();
    history.decide(3, command(StreamType::Schedule, "create", CREATE));
    // Some seconds pass.
    for n in 0..9 {
        history.decide(100 + n, crate::testing::task("submit", r#"{"title":"t"}"#));
    }
    for (name, body) in commands {
        assert!(history.decide(3, command(StreamType::Schedule, name, body)) > 0, "{name}");
    }
    history.world(Schedules).get(&TenantId::default_tenant(), &Uuid::from_u128(3)).cloned()
}

#[test]
fn a_schedule_shows_what_it_says_and_what_came_of_it() {
    let view = ScheduleView::of(ScheduleId::nth(3), after(&[]).unwrap());
    assert_eq!((view.interval_ms, view.fired, view.state), (Some(1_000), 0, ScheduleState::Active));
    assert_eq!(view.next_run_at.map(|at| at.timestamp()), Some(1));
    let fired = ("fire", r#"{"slot_at":"1970-01-01T00:00:03Z"}"#);
    let skipped = ("skip", r#"{"slot_at":"1970-01-01T00:00:05Z","reason":"misfire"}"#);
    let late = ("skip", r#"{"slot_at":"1970-01-01T00:00:06Z","reason":"overlap"}"#);
    let view = ScheduleView::of(ScheduleId::nth(3), after(&[fired, skipped, late]).unwrap());
    assert_eq!((view.fired, view.misfires, view.skipped), (1, 4, 3));
    assert_eq!(view.last_task_id, Some(task_of(ScheduleId::nth(3), 1)));
    assert_eq!(view.next_run_at.map(|at| at.timestamp()), Some(7));
}

#[test]
fn a_paused_one_has_no_next_run_and_a_deleted_one_no_row() {
    let row = after(&[("pause", "{}")]).unwrap();
    let now = Timestamp::UNIX_EPOCH + chrono::Duration::milliseconds(20_500);
    let upcoming: Vec<i64> = row.upcoming(now, 2).iter().map(|at| at.timestamp()).collect();
    assert_eq!(upcoming, [21, 22], "what would come if it were resumed");
    let view = ScheduleView::of(ScheduleId::nth(3), row);
    assert_eq!((view.next_run_at, view.state), (None, ScheduleState::Paused));
    assert_eq!(after(&[("pause", "{}"), ("delete", "{}")]), None);
}

#[test]
fn a_firing_without_a_task_shows_why() {
    let problem = serde_json::to_string(&Problem::new(domain::Code::InvalidBody, "no")).unwrap();
    let body = format!(r#"{{"run":1,"problem":{problem}}}"#);
    let row = after(&[("trigger", "{}"), ("report_failure", &body)]).unwrap();
    assert_eq!((row.failed, row.last_problem.unwrap().detail.as_str()), (1, "no"));
}
