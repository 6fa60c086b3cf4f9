use domain::task::TaskNumber;

use super::*;
use crate::testing::{History, task};

const SUBMIT: &str = r#"{"title":"T","queue":"q","type":"k","retry":{"max_attempts":1}}"#;
const ASSIGN: &str = r#"{"agent_id":"00000000-0000-0000-0000-000000000007"}"#;
const FAIL: &str = r#"{"lease_token":1,"error":"No \"disk\"","class":"io"}"#;

/// A dead letter of ours, the second task of its tenant, that ended at second 5.
fn dead() -> TaskRow {
    let mut history = History::default();
    history.decide(9, task("submit", SUBMIT));
    for (name, body) in [("submit", SUBMIT), ("assign", ASSIGN), ("fail", FAIL)] {
        assert!(history.decide(1, task(name, body)) > 0, "{name} was refused");
    }
    let world = history.world(Tasks);
    let row = world.get(&TenantId::default_tenant(), &uuid::Uuid::from_u128(1)).unwrap().clone();
    assert_eq!((row.state, row.number), (TaskState::Dead, TaskNumber(2)));
    row
}

fn takes(filter: &str) -> bool {
    let filter: DeadFilter = serde_json::from_str(filter).unwrap();
    assert_eq!(filter.faults(), []);
    filter.takes(TaskId::nth(1), &dead())
}

#[test]
fn a_filter_takes_what_has_all_that_it_names() {
    let ended = dead().updated_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    for yes in [
        "{}".to_owned(),
        r#"{"queue":"q","type":"k","class":"io","state":"dead"}"#.into(),
        r#"{"error":"NO \"DISK"}"#.into(),
        r#"{"ids":["task-2"]}"#.into(),
        r#"{"ids":["TASK-1","00000000-0000-0000-0000-000000000001"]}"#.into(),
        format!(r#"{{"dead_after":"{ended}"}}"#),
        r#"{"dead_before":"1971-01-01T00:00:00Z"}"#.into(),
    ] {
        assert!(takes(&yes), "{yes}");
    }
    for no in [
        r#"{"queue":"p"}"#.to_owned(),
        r#"{"type":"j"}"#.into(),
        r#"{"class":"net"}"#.into(),
        r#"{"state":"failed"}"#.into(),
        r#"{"error":"memory"}"#.into(),
        r#"{"ids":["TASK-1"]}"#.into(),
        format!(r#"{{"dead_before":"{ended}"}}"#),
        r#"{"dead_after":"1971-01-01T00:00:00Z"}"#.into(),
        r#"{"queue":"q","class":"net"}"#.into(),
    ] {
        assert!(!takes(&no), "{no}");
    }
}

#[test]
fn a_lost_lease_is_no_error_of_the_class_before_it() {
    let mut row = dead();
    assert_eq!(row.error_class.as_deref(), Some("io"));
    let mut history = History::default();
    let twice = SUBMIT.replace("\"max_attempts\":1", "\"max_attempts\":2,\"backoff_ms\":0");
    let again = FAIL.replace("\"lease_token\":1", "\"lease_token\":1,\"retry_after_ms\":0");
    let expire = r#"{"lease_token":2}"#;
    let assign = ASSIGN.replace('}', ",\"lease_ms\":1000}");
    history.decide(1, task("submit", &twice));
    history.decide(1, task("assign", ASSIGN));
    history.decide(1, task("fail", &again));
    history.decide(1, task("assign", &assign));
    for _ in 0..5 {
        history.decide(2, task("submit", SUBMIT));
        history.decide(2, task("cancel", "{}"));
        history.decide(2, task("archive", "{}"));
    }
    assert_eq!(history.decide(1, task("expire_lease", expire)), 2);
    let world = history.world(Tasks);
    let tenant = TenantId::default_tenant();
    row.clone_from(world.get(&tenant, &uuid::Uuid::from_u128(1)).unwrap());
    assert_eq!((row.state, row.error_class), (TaskState::Dead, None));
}

#[test]
fn a_filter_that_can_take_nothing_is_a_fault() {
    for (filter, place) in [
        (r#"{"state":"done"}"#.to_owned(), "/filter/state"),
        (format!(r#"{{"error":"{}"}}"#, "x".repeat(1_025)), "/filter/error"),
        (r#"{"queue":"a\u0000"}"#.into(), "/filter/queue"),
        (format!(r#"{{"ids":[{}"TASK-1"]}}"#, "\"TASK-1\",".repeat(1_000)), "/filter/ids"),
        (
            r#"{"dead_after":"2026-01-01T00:00:00Z","dead_before":"2026-01-01T00:00:00Z"}"#.into(),
            "/filter/dead_before",
        ),
    ] {
        let filter: DeadFilter = serde_json::from_str(&filter).unwrap();
        let faults: Vec<_> = filter.faults().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(faults, [place]);
    }
}

#[test]
fn the_work_is_stored_and_read_back_and_makes_the_body_of_each_command() {
    let given = r#"{"filter":{"queue":"q"},"reason":"mended","changes":{"payload":{"n":1.50}}}"#;
    let work: DeadLetterWork = serde_json::from_str(given).unwrap();
    let stored = serde_json::to_string(&work).unwrap();
    assert_eq!(serde_json::from_str::<DeadLetterWork>(&stored).unwrap(), work);
    let command =
        domain::Command::parse(domain::StreamType::Task, "requeue", work.body().as_bytes());
    assert!(command.is_ok(), "{command:?}");
    assert_eq!(DeadLetterWork::default().body(), "{}");
}
