use domain::TaskId;
use proptest::prelude::*;

use super::*;
use crate::tasks::{Part, TaskText, TaskView};
use crate::testing::{History, any_history, task};

fn after(commands: &[(&str, &str)]) -> TaskRow {
    let mut history = History::default();
    for (name, body) in commands {
        assert!(history.decide(1, task(name, body)) > 0, "{name} was refused");
    }
    history
        .world(Tasks)
        .get(&domain::TenantId::default_tenant(), &Uuid::from_u128(1))
        .unwrap()
        .clone()
}

const SUBMIT: (&str, &str) =
    ("submit", r#"{"title":"T","queue":"q","payload":{"b":1,"a":1.50},"labels":{"zone":"eu"}}"#);
const AGENT: &str = "00000000-0000-0000-0000-000000000007";
const ASSIGN: (&str, &str) = ("assign", r#"{"agent_id":"00000000-0000-0000-0000-000000000007"}"#);
const START: (&str, &str) = ("start", r#"{"lease_token":1}"#);

#[test]
fn a_submitted_task_waits_and_keeps_its_payload_to_the_letter() {
    let row = after(&[SUBMIT]);
    assert_eq!(row.state, TaskState::Queued);
    assert_eq!(row.payload.as_str(), r#"{"b":1,"a":1.50}"#);
    assert_eq!((row.created, row.position, row.version), (1, 1, 1));
    assert_eq!(row.created_by, "tester");
    let cells = Tasks::index(&Uuid::nil(), &row);
    assert_eq!(cells.len(), Tasks::COLUMNS.len());
    assert!(cells.contains(&Cell::Words(vec!["zone".into(), "zone=eu".into()])));
}

#[test]
fn a_held_task_names_its_holder_and_the_end_of_its_lease() {
    let row = after(&[SUBMIT, ASSIGN, START]);
    assert_eq!(row.state, TaskState::InProgress);
    assert_eq!(row.agent_id.unwrap().to_string(), AGENT);
    assert!(row.lease_expires_at.is_some() && row.is_held());
    assert_eq!(row.attempt, 1);
}

#[test]
fn a_done_task_still_names_who_did_it_but_nobody_holds_it() {
    let complete = ("complete", r#"{"lease_token":1,"result":{"n":1}}"#);
    let row = after(&[SUBMIT, ASSIGN, complete]);
    assert_eq!(row.state, TaskState::Done);
    assert!(row.agent_id.is_some() && !row.is_held() && row.lease_expires_at.is_none());
    assert_eq!(row.result.as_str(), r#"{"n":1}"#);
    let holder = Tasks::COLUMNS.iter().position(|column| column.name == "holder").unwrap();
    assert_eq!(Tasks::index(&Uuid::nil(), &row)[holder], Cell::Uuid(None));
}

#[test]
fn a_failed_attempt_waits_again_without_an_agent_and_shows_the_error() {
    let fail = ("fail", r#"{"lease_token":1,"error":"no disk"}"#);
    let row = after(&[SUBMIT, ASSIGN, fail]);
    assert_eq!(row.state, TaskState::Queued);
    assert_eq!((row.agent_id, row.attempt), (None, 1));
    assert_eq!(row.error.as_str(), r#""no disk""#);
}

#[test]
fn an_error_past_mending_leaves_it_failed_with_who_had_it_and_requeue_wipes_it() {
    let fail = ("fail", r#"{"lease_token":1,"error":"bad input","retryable":false}"#);
    let row = after(&[SUBMIT, ASSIGN, fail]);
    assert_eq!(row.state, TaskState::Failed);
    assert!(row.agent_id.is_some());
    let row = after(&[SUBMIT, ASSIGN, fail, ("requeue", "{}")]);
    assert_eq!((row.state, row.attempt, row.agent_id), (TaskState::Queued, 0, None));
    assert!(row.error.is_null());
}

#[test]
fn a_task_handed_back_did_not_use_an_attempt() {
    let row = after(&[SUBMIT, ASSIGN, ("release", r#"{"lease_token":1}"#)]);
    assert_eq!((row.state, row.attempt), (TaskState::Queued, 0));
}

#[test]
fn an_update_changes_what_it_names_and_clears_what_it_nulls() {
    let update = ("update", r#"{"title":"U","labels":["x"],"due_at":"2030-01-01T00:00:00Z"}"#);
    let row = after(&[SUBMIT, update]);
    assert_eq!((row.title.as_str(), row.queue.as_str()), ("U", "q"));
    assert!(row.due_at.is_some());
    let row = after(&[SUBMIT, update, ("update", r#"{"due_at":null}"#)]);
    assert_eq!((row.title.as_str(), row.due_at), ("U", None));
}

#[test]
fn an_escalation_is_shown_until_the_task_moves() {
    let escalate = (
        "escalate",
        r#"{"since":"1970-01-01T00:00:00Z","due_at":"1970-01-01T00:00:00Z",
        "head_state":"blocked","path":["00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000002"]}"#,
    );
    let row = after(&[SUBMIT, escalate]);
    let said = row.escalation.clone().unwrap();
    assert_eq!((said.head, said.head_state), (TaskId::nth(2), Some(TaskState::Blocked)));
    let column = Tasks::COLUMNS.iter().position(|column| column.name == "escalated_at").unwrap();
    assert_eq!(Tasks::index(&Uuid::nil(), &row)[column], Cell::instant(Some(said.at)));
    assert_eq!(after(&[SUBMIT, escalate, ASSIGN]).escalation, None);
    let other = ("update", r#"{"depends_on":[]}"#);
    assert_eq!(after(&[SUBMIT, escalate, other]).escalation, None);
    let block = ("block", r#"{"reason":"r"}"#);
    let blocked = [SUBMIT, ASSIGN, START, block, escalate];
    assert!(after(&blocked).escalation.is_some());
    assert_eq!(after(&[&blocked[..], &[("unblock", "{}")]].concat()).escalation, None);
}

#[test]
fn how_far_a_task_is_counts_for_its_parent_while_an_agent_is_at_it() {
    let progress = ("progress", r#"{"lease_token":1,"percent":41.9}"#);
    assert_eq!(after(&[SUBMIT, ASSIGN, START, progress]).percent, Some(41));
    let release = ("release", r#"{"lease_token":1}"#);
    assert_eq!(after(&[SUBMIT, ASSIGN, START, progress, release]).percent, None);
}

#[test]
fn an_archived_task_keeps_its_state() {
    let row = after(&[SUBMIT, ("cancel", "{}"), ("archive", "{}")]);
    assert_eq!(row.state, TaskState::Cancelled);
    assert!(row.archived_at.is_some());
}

#[test]
fn nobody_learns_the_lease_token_from_the_view() {
    let row = after(&[SUBMIT, ASSIGN]);
    let shown = serde_json::to_string(&TaskView::of(TaskId::nth(1), row, &[])).unwrap();
    assert!(!shown.contains("token"), "{shown}");
}

#[test]
fn the_view_has_the_fields_of_the_contract() {
    let row = after(&[SUBMIT]);
    let shown = serde_json::to_value(TaskView::of(TaskId::nth(1), row, &[])).unwrap();
    for field in "id title description type queue payload priority state capabilities labels \
                  assignees agent_id attempt max_attempts lease_expires_at parent_id depends_on \
                  children created_by created_at updated_at due_at progress result error version \
                  position archived_at"
        .split_whitespace()
    {
        assert!(shown.get(field).is_some(), "{field} is missing");
    }
}

/// What is sent for a row: carried over as text, and as the view would write it.
fn sent(row: &TaskRow, children: &[u128]) -> (String, String) {
    let doc = serde_json::to_string(row).unwrap();
    let part = |n: &u128| Part { id: TaskId::nth(*n), state: TaskState::Done, percent: 100 };
    let parts: Vec<Part> = children.iter().map(part).collect();
    let text = TaskText::of(Uuid::from_u128(1), &doc, &parts).unwrap();
    assert_eq!((text.version, text.position), (row.version, row.position));
    let view = TaskView::of(TaskId(Uuid::from_u128(1)), row.clone(), &parts);
    assert_eq!(text.view().unwrap(), view);
    (serde_json::to_string(&text).unwrap(), serde_json::to_string(&view).unwrap())
}

proptest! {
    #[test]
    fn the_text_of_a_task_is_the_one_that_its_view_writes(history in any_history()) {
        for (_, _, row) in history.world(Tasks).rows() {
            let (text, view) = sent(row, &[]);
            prop_assert_eq!(text, view);
        }
    }
}

#[test]
fn the_text_of_a_task_with_every_field_is_the_one_that_its_view_writes() {
    let submit = r#"{"title":"T \"x\"","description":"D","type":"k","queue":"q","priority":"high",
        "payload":{"b":1,"a":1.50},"labels":["x","y"],"capabilities":["gpu"],"assignees":["a"],
        "parent_id":"00000000-0000-0000-0000-000000000009",
        "depends_on":["00000000-0000-0000-0000-000000000008"],"dependency":{"need":"any"},
        "due_at":"2030-01-01T00:00:00.5Z","run_at":"1970-01-01T00:00:00Z"}"#;
    let progress = ("progress", r#"{"lease_token":1,"percent":50,"message":"half","data":[1.0]}"#);
    for steps in [
        &[("submit", submit)][..],
        &[("submit", submit), ASSIGN, START, progress],
        &[("submit", submit), ASSIGN, START, ("complete", r#"{"lease_token":1,"result":[1e3]}"#)],
        &[
            ("submit", submit),
            ASSIGN,
            ("fail", r#"{"lease_token":1,"error":"x","retryable":false}"#),
        ],
        &[("submit", submit), ("cancel", "{}"), ("archive", "{}")],
        &[
            ("submit", submit),
            (
                "escalate",
                r#"{"since":"1970-01-01T00:00:00.25Z","due_at":"1970-01-01T00:00:00Z",
                "path":["00000000-0000-0000-0000-000000000001"]}"#,
            ),
        ],
    ] {
        let (text, view) = sent(&after(steps), &[5, 6]);
        assert_eq!(text, view);
    }
}
