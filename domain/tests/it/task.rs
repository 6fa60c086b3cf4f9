//! Stories of a task: each command's happy path and what it says in its events.

use cqrs_es::test::TestFramework;
use domain::task::*;
use domain::values::Labels;
use domain::{AgentId, Code, Json, Stamped, Timestamp};

use crate::support::{at, code, decide, facts};

pub use domain::task::{TaskCommand as C, TaskEvent as E};

/// What a command leads to a second after the begin.
pub fn when(given: &[E], command: C) -> Result<Vec<E>, domain::Refusal> {
    decide::<Task, C>(given, command, at(1_000))
}

pub fn submitted_with(retry: RetryPolicy) -> E {
    let new = SubmitTask { retry: Some(retry), ..SubmitTask::titled("count the stars") };
    let events = Task::default().decide(&C::Submit(new), &facts(at(0))).expect("accepted");
    events.into_iter().next().expect("one event")
}

pub fn submitted() -> E {
    submitted_with(RetryPolicy::default())
}

/// Handed to agent 1 at the begin, for thirty seconds.
pub fn assigned(attempt: u32, lease_token: u64) -> E {
    E::Assigned(TaskAssigned {
        agent_id: AgentId::nth(1),
        attempt,
        lease_token,
        lease_expires_at: at(30_000),
        queue: "default".into(),
        reason: None,
        decision: None,
    })
}

pub fn started(attempt: u32) -> E {
    E::Started(TaskStarted {
        agent_id: AgentId::nth(1),
        attempt,
        queue: "default".into(),
        started_at: at(1_000),
        waited_ms: 1_000,
    })
}

pub fn noted() -> TaskNoted {
    TaskNoted::default()
}

pub fn ended() -> TaskEnded {
    TaskEnded { queue: "default".into(), reason: None }
}

pub fn cancelled() -> TaskCancelled {
    TaskCancelled { queue: "default".into(), reason: None, cascade: true }
}

pub fn why(text: &str) -> Reason {
    Reason { reason: Some(text.into()) }
}

pub fn to(agent: u128) -> AssignTask {
    AssignTask::to(AgentId::nth(agent))
}

pub fn completed(lease_token: u64) -> C {
    C::Complete(CompleteTask { lease_token, result: Json::of(&42) })
}

fn in_review(attempt: u32, retry: RetryPolicy) -> Vec<E> {
    let asked = E::ReviewRequested(TaskReviewRequested { result: Json::of("a draft") });
    vec![submitted_with(retry), assigned(attempt, 1), started(attempt), asked]
}

#[test]
fn a_submission_records_all_that_was_said_and_when() {
    let body = br#"{ "title": "t", "type": "render", "queue": "gpu", "priority": 0,
        "payload": { "n": 18446744073709551617 }, "labels": { "zone": "eu" },
        "capabilities": ["cuda"], "retry": { "max_attempts": 7 },
        "due_at": "2026-02-01T00:00:00+02:00" }"#;
    let command = C::parse("submit", body).expect("well formed").expect("known");
    let events = decide::<Task, C>(&[], command, at(5)).expect("accepted");
    let [E::Submitted(new)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((new.kind.as_str(), new.queue.as_str()), ("render", "gpu"));
    assert_eq!(new.priority, domain::values::Priority::Critical);
    assert_eq!(new.payload.as_str(), r#"{"n":18446744073709551617}"#);
    assert_eq!(new.labels, Labels::Pairs([("zone".into(), "eu".into())].into()));
    assert_eq!((new.retry.max_attempts, new.retry.backoff_ms), (7, 1_000));
    let due = new.due_at.map(|due| due.to_rfc3339());
    assert_eq!(due.as_deref(), Some("2026-01-31T22:00:00+00:00"));
    assert_eq!(new.submitted_at, at(5));
}

#[test]
fn a_second_submission_finds_the_id_taken() {
    let again = C::Submit(SubmitTask::titled("again"));
    assert_eq!(code(when(&[submitted()], again)), Code::AlreadyExists);
}

#[test]
fn nothing_can_be_asked_of_a_task_that_was_never_submitted() {
    for command in [C::Cancel(CancelTask::default()), C::Assign(to(1)), completed(1)] {
        assert_eq!(code(when(&[], command)), Code::NotFound);
    }
}

#[test]
fn an_update_says_what_changed_and_what_was_cleared() {
    let body = br#"{ "title": "new", "due_at": null, "description": null, "payload": null }"#;
    let command = C::parse("update", body).expect("well formed").expect("known");
    TestFramework::<Task>::with(())
        .given(vec![submitted()])
        .when(Stamped { command, facts: facts(at(0)) })
        .then_expect_events(vec![E::Updated(UpdateTask {
            title: Some("new".into()),
            description: Some(None),
            payload: Some(Json::null()),
            due_at: Some(None),
            ..UpdateTask::default()
        })]);
}

#[test]
fn an_assignment_counts_the_attempt_and_gives_a_lease() {
    TestFramework::<Task>::with(())
        .given(vec![submitted()])
        .when(Stamped {
            command: C::Assign(AssignTask { lease_ms: Some(5_000), ..to(1) }),
            facts: facts(at(100)),
        })
        .then_expect_events(vec![E::Assigned(TaskAssigned {
            agent_id: AgentId::nth(1),
            attempt: 1,
            lease_token: 1,
            lease_expires_at: at(5_100),
            queue: "default".into(),
            reason: None,
            decision: None,
        })]);
}

#[test]
fn an_assignment_may_start_the_task_at_once() {
    let begin = || C::Assign(AssignTask { start: true, ..to(1) });
    let begun = when(&[submitted()], begin()).unwrap();
    assert!(matches!(&begun[..], [E::Assigned(_), E::Started(_)]), "{begun:?}");
    let (E::Assigned(assigned_to), E::Started(by)) = (&begun[0], &begun[1]) else { return };
    assert_eq!((by.agent_id, by.attempt), (assigned_to.agent_id, assigned_to.attempt));
    // It was told of before: only the start is new.
    let started = when(&[submitted(), assigned(1, 1)], begin()).unwrap();
    assert!(matches!(&started[..], [E::Started(_)]), "{started:?}");
    let moved = C::Reassign(AssignTask { start: true, ..to(2) });
    let moved = when(&[submitted(), assigned(1, 1)], moved).unwrap();
    assert!(matches!(&moved[..], [E::Unassigned(_), E::Assigned(_), E::Started(_)]), "{moved:?}");
}

#[test]
fn a_repeated_assignment_to_the_same_agent_adds_nothing() {
    let given = [submitted(), assigned(1, 1)];
    assert_eq!(when(&given, C::Assign(to(1))), Ok(vec![]));
    assert_eq!(code(when(&given, C::Assign(to(2)))), Code::IllegalTransition);
}

#[test]
fn that_a_task_is_overdue_is_recorded_once_and_not_early() {
    let E::Submitted(new) = submitted() else { return };
    let due = E::Submitted(TaskSubmitted { due_at: Some(at(500)), ..new });
    let mark = || C::MarkOverdue(Reason::default());
    let when = |given: &[E], ms| decide::<Task, C>(given, mark(), at(ms));
    assert_eq!(code(when(std::slice::from_ref(&due), 499)), Code::NotPossible);
    let late = when(std::slice::from_ref(&due), 500).unwrap();
    assert!(matches!(&late[..], [E::Overdue(late)] if late.due_at == at(500)), "{late:?}");
    assert_eq!(when(&[due.clone(), late[0].clone()], 900), Ok(vec![]));
    // A new date is a new promise.
    let moved = UpdateTask { due_at: Some(Some(at(700))), ..UpdateTask::default() };
    let given = [due, late[0].clone(), E::Updated(moved)];
    assert_eq!(code(when(&given, 699)), Code::NotPossible);
    assert_eq!(when(&given, 700).unwrap().len(), 1);
}

#[test]
fn a_block_is_lifted_by_whom_it_names() {
    let lifted_by = vec!["team-lead".to_owned()];
    let blocked = E::Blocked(TaskBlocked { reason: "budget".into(), lifted_by });
    let mut task = Task::default();
    [submitted(), assigned(1, 1), started(1), blocked].iter().for_each(|e| task.apply(e));
    let lift = |actor: &str| {
        let facts = domain::Facts { actor: actor.into(), ..facts(at(1)) };
        task.decide(&C::Unblock(Reason::default()), &facts)
    };
    assert_eq!(lift("test").unwrap_err().code, Code::Forbidden);
    assert!(lift("team-lead").is_ok());
}

#[test]
fn a_repeated_start_adds_nothing() {
    let given = [submitted(), assigned(1, 1), started(1)];
    assert_eq!(when(&given, C::Start(StartTask { lease_token: 1 })), Ok(vec![]));
}

#[test]
fn an_answer_without_a_start_implies_it() {
    let given = [submitted(), assigned(1, 1)];
    let progress =
        ProgressTask { lease_token: 1, percent: Some(50.0), message: None, data: Json::null() };
    let block = BlockTask { reason: "no key".into(), lifted_by: vec![], lease_token: None };
    let review = SubmitForReview { lease_token: Some(1), result: Json::null() };
    for (command, second) in [
        (completed(1), "completed"),
        (C::Progress(progress), "progressed"),
        (C::Block(block), "blocked"),
        (C::SubmitForReview(review), "review_requested"),
    ] {
        let events = when(&given, command).expect("accepted");
        assert_eq!(events.len(), 2);
        assert_eq!(events[0], started(1));
        assert_eq!(events[1].name(), second);
    }
}

#[test]
fn a_completion_says_who_did_it_and_how_long_it_took() {
    let events =
        decide::<Task, C>(&[submitted(), assigned(1, 1), started(1)], completed(1), at(3_500));
    let done = TaskCompleted {
        agent_id: Some(AgentId::nth(1)),
        result: Json::of(&42),
        queue: "default".into(),
        ran_ms: 2_500,
    };
    assert_eq!(events, Ok(vec![E::Completed(done)]));
}

#[test]
fn an_approval_completes_the_task_with_the_result_handed_in() {
    let given = in_review(1, RetryPolicy::default());
    let events = when(&given, C::Approve(why("good"))).expect("accepted");
    let [E::Approved(note), E::Completed(done)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(note.reason.as_deref(), Some("good"));
    assert_eq!(done.result, Json::of("a draft"));
}

#[test]
fn a_rejection_puts_the_task_back_until_its_attempts_are_used_up() {
    let reject = || C::Reject(why("unclear"));
    let rejected = E::Rejected(TaskNoted { reason: Some("unclear".into()) });
    let given = in_review(2, RetryPolicy::default());
    assert_eq!(when(&given, reject()), Ok(vec![rejected.clone()]));

    let given = in_review(3, RetryPolicy::default());
    let dead = TaskDeadLettered {
        attempts: 3,
        error: Json::of("rejected in review"),
        queue: "default".into(),
    };
    assert_eq!(when(&given, reject()), Ok(vec![rejected, E::DeadLettered(dead)]));
}

#[test]
fn a_reassignment_hands_the_same_attempt_to_another_with_a_new_token() {
    let given = [submitted(), assigned(2, 5), started(2)];
    let events = when(&given, C::Reassign(to(9))).expect("accepted");
    let [E::Unassigned(from), E::Assigned(new)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(from.agent_id, AgentId::nth(1));
    assert_eq!((new.agent_id, new.attempt, new.lease_token), (AgentId::nth(9), 2, 6));
}

#[test]
fn an_attempt_that_was_taken_or_handed_back_does_not_count() {
    let back = ReleaseTask { lease_token: 1, reason: None };
    for command in [C::Unassign(Reason::default()), C::Release(back)] {
        let mut given = vec![submitted(), assigned(1, 1), started(1)];
        given.extend(when(&given, command).expect("accepted"));
        let events = when(&given, C::Assign(to(2))).expect("accepted");
        let [E::Assigned(new)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((new.attempt, new.lease_token), (1, 2));
    }
}

#[test]
fn an_operator_blocks_and_unblocks_without_a_token() {
    let block =
        C::Block(BlockTask { reason: "budget".into(), lifted_by: vec![], lease_token: None });
    let mut given = vec![submitted(), assigned(1, 1), started(1)];
    given.extend(when(&given, block).expect("accepted"));
    let events = when(&given, C::Unblock(Reason::default()));
    assert_eq!(events, Ok(vec![E::Unblocked(noted())]));
}

#[test]
fn an_archived_task_takes_no_command() {
    let given = [submitted(), E::Cancelled(cancelled()), E::Archived(noted())];
    for command in [C::Archive(Reason::default()), C::Requeue(RequeueTask::default()), completed(1)]
    {
        let refusal = when(&given, command).expect_err("refused");
        assert_eq!(refusal.code, Code::IllegalTransition);
        assert_eq!(refusal.state.as_deref(), Some("archived"));
        assert!(refusal.allowed.is_empty());
    }
}

#[test]
fn a_discard_without_a_reason_says_that_it_was_one() {
    let failed = E::Failed(TaskFailed { error: Json::null(), queue: "default".into() });
    let events = when(&[submitted(), failed], C::Discard(Reason::default()));
    let note = TaskNoted { reason: Some("discarded".into()) };
    assert_eq!(events, Ok(vec![E::Archived(note)]));
}

#[test]
fn percentages_are_kept_to_three_decimals() {
    for (said, kept) in [(33.333_333_333, Some(33.333)), (100.0, Some(100.0)), (f64::NAN, None)] {
        let progress = C::Progress(ProgressTask {
            lease_token: 1,
            percent: Some(said),
            message: None,
            data: Json::null(),
        });
        let events = when(&[submitted(), assigned(1, 1), started(1)], progress);
        let events = events.expect("accepted");
        let [E::Progressed(far)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(far.percent, kept);
    }
}

#[test]
fn the_end_of_the_calendar_is_no_panic() {
    let retry = RetryPolicy {
        max_attempts: u32::MAX,
        backoff_ms: u64::MAX,
        backoff_max_ms: u64::MAX,
        retryable: None,
    };
    let given = [submitted_with(retry), assigned(1_000_000, u64::MAX - 1), started(1)];
    let fail = FailTask {
        lease_token: u64::MAX - 1,
        error: Json::null(),
        retryable: true,
        class: None,
        retry_after_ms: None,
    };
    let extend = ExtendTask { lease_token: u64::MAX - 1, lease_ms: Some(u64::MAX) };
    for now in [Timestamp::MAX_UTC, Timestamp::MIN_UTC] {
        for command in [C::Fail(fail.clone()), C::Extend(extend.clone()), C::Reassign(to(2))] {
            for event in decide::<Task, C>(&given, command, now).expect("accepted") {
                let again = E::decode(event.name(), event.schema_version(), &event.payload());
                assert_eq!(again, Ok(event));
            }
        }
    }
}
