//! Every command in every state: the transition table, once more and independently.

use domain::task::*;
use domain::{Code, Json};

use crate::support::{at, code, decide};
use crate::task::*;

/// `state | command=events…`; whatever a row does not name is refused there.
const TABLE: &str = "
inbox       | mark_overdue=overdue update=updated assign=assigned requeue=requeued cancel=cancelled archive=archived
queued      | mark_overdue=overdue escalate=escalated update=updated assign=assigned cancel=cancelled archive=archived
assigned    | mark_overdue=overdue update=updated assign= start=started progress=started+progressed block=started+blocked
assigned    | submit_for_review=started+review_requested complete=started+completed
assigned    | fail=attempt_failed extend=lease_extended release=released unassign=unassigned
assigned    | reassign=unassigned+assigned cancel=cancelled expire_lease=lease_expired
in_progress | mark_overdue=overdue update=updated start= progress=progressed block=blocked
in_progress | submit_for_review=review_requested complete=completed fail=attempt_failed
in_progress | extend=lease_extended release=released unassign=unassigned
in_progress | reassign=unassigned+assigned cancel=cancelled expire_lease=lease_expired
blocked     | mark_overdue=overdue escalate=escalated update=updated unblock=unblocked complete=completed fail=attempt_failed
blocked     | extend=lease_extended release=released unassign=unassigned
blocked     | reassign=unassigned+assigned cancel=cancelled expire_lease=lease_expired
review      | mark_overdue=overdue update=updated approve=approved+completed reject=rejected cancel=cancelled
done        | archive=archived
failed      | requeue=requeued discard=archived archive=archived
dead        | requeue=requeued discard=archived archive=archived
cancelled   | archive=archived
";

/// A history that leaves a task in a state, its time passed.
fn history(state: TaskState) -> Vec<E> {
    let mut events = history_on_time(state);
    if let Some(E::Submitted(new)) = events.first_mut() {
        new.due_at = Some(at(1));
    }
    events
}

fn history_on_time(state: TaskState) -> Vec<E> {
    use TaskState as S;
    let (queue, error) = ("default".to_owned(), Json::null());
    let held = [submitted(), assigned(1, 1)];
    let with = |event| [held.to_vec(), vec![started(1), event]].concat();
    match state {
        S::Inbox => {
            let E::Submitted(new) = submitted() else { panic!("it was submitted") };
            vec![E::Submitted(TaskSubmitted { triage: true, ..new })]
        }
        S::Queued => vec![submitted()],
        S::Assigned => held.to_vec(),
        S::InProgress => [held.to_vec(), vec![started(1)]].concat(),
        S::Blocked => with(E::Blocked(TaskBlocked { reason: "r".into(), lifted_by: vec![] })),
        S::Review => with(E::ReviewRequested(TaskReviewRequested { result: Json::null() })),
        S::Done => with(E::Completed(TaskCompleted {
            agent_id: None,
            result: Json::null(),
            queue,
            ran_ms: 0,
        })),
        S::Failed => with(E::Failed(TaskFailed { error, queue })),
        S::Dead => with(E::DeadLettered(TaskDeadLettered { attempts: 1, error, queue })),
        S::Cancelled => with(E::Cancelled(cancelled())),
    }
}

/// A body that the command takes; where a lease stands, with its token.
fn body(name: &str, token: u64) -> String {
    match name {
        "submit" => r#"{"title":"t"}"#.into(),
        "update" => r#"{"title":"u"}"#.into(),
        "assign" | "reassign" => format!(r#"{{"agent_id":"{}"}}"#, domain::AgentId::nth(1)),
        "block" => r#"{"reason":"r"}"#.into(),
        "escalate" => format!(
            r#"{{"since":"{0}","due_at":"{0}","path":["{1}"]}}"#,
            at(1).to_rfc3339(),
            domain::TaskId::nth(1)
        ),
        "start" | "progress" | "complete" | "fail" | "extend" | "release" | "expire_lease" => {
            format!(r#"{{"lease_token":{token}}}"#)
        }
        _ => "{}".into(),
    }
}

fn row(state: TaskState, command: &str) -> Option<Vec<&'static str>> {
    TABLE
        .lines()
        .filter_map(|line| line.split_once('|'))
        .filter(|(word, _)| word.trim() == state.as_str())
        .flat_map(|(_, cells)| cells.split_whitespace())
        .filter_map(|cell| cell.split_once('='))
        .find(|(name, _)| *name == command)
        .map(|(_, events)| events.split('+').filter(|name| !name.is_empty()).collect())
}

#[test]
fn every_command_in_every_state_does_what_the_table_says() {
    for state in TaskState::ALL {
        let given = history(state);
        let mut folded = Task::default();
        given.iter().for_each(|event| folded.apply(event));
        assert_eq!(folded.state, Some(state));
        // A token of a future lease: without one, only the state can refuse.
        let token = folded.lease.map_or(99, |lease| lease.token);
        for name in C::NAMES.iter().copied() {
            let parsed = C::parse(name, body(name, token).as_bytes());
            let command = parsed.expect("well formed").expect("known");
            let result = decide::<Task, C>(&given, command, at(60_000));
            match row(state, name) {
                Some(events) => {
                    let found = result.expect("accepted");
                    let found: Vec<_> = found.iter().map(E::name).collect();
                    assert_eq!(found, events, "{name} in {state:?}");
                }
                None if name == "submit" => assert_eq!(code(result), Code::AlreadyExists),
                None => {
                    let refusal = result.expect_err("refused");
                    assert_eq!(refusal.code, Code::IllegalTransition, "{name} in {state:?}");
                    assert_eq!(refusal.state.as_deref(), Some(state.as_str()));
                    assert_eq!(refusal.allowed, state.allowed());
                }
            }
        }
    }
}

#[test]
fn the_documented_table_is_the_one_that_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tasks.md");
    let text = std::fs::read_to_string(path).expect("docs/tasks.md");
    assert!(text.contains(TABLE.trim_start()), "docs/tasks.md shows another table");
}

#[test]
fn a_refusal_lists_exactly_what_would_have_an_effect() {
    for state in TaskState::ALL {
        // What comes due is the managers' to record, a repeat is no step.
        let effective = |name: &&'static str| {
            !["expire_lease", "mark_overdue", "escalate"].contains(name)
                && row(state, name).is_some_and(|events| !events.is_empty())
        };
        let mut expected: Vec<&str> = C::NAMES.iter().copied().filter(effective).collect();
        let mut listed = state.allowed().to_vec();
        expected.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, expected, "{state:?}");
    }
}
