//! What becomes of a failed attempt.

use domain::Json;
use domain::task::*;

use crate::support::{at, decide, facts};
use crate::task::*;

fn policy(max_attempts: u32, backoff_ms: u64, backoff_max_ms: u64) -> RetryPolicy {
    RetryPolicy { max_attempts, backoff_ms, backoff_max_ms, retryable: None }
}

fn fail(retryable: bool, class: Option<&str>) -> C {
    C::Fail(FailTask {
        lease_token: 1,
        error: Json::of("out of memory"),
        retryable,
        class: class.map(Into::into),
        retry_after_ms: None,
    })
}

fn names(given: &[E], command: C) -> Vec<&'static str> {
    let events = when(given, command).expect("accepted");
    events.iter().map(E::name).collect()
}

#[test]
fn the_wait_doubles_up_to_its_limit_and_is_spread_over_all_of_it() {
    // (attempt, backoff, limit, microseconds of the decision, wait in ms)
    for (attempt, backoff, most, micros, wait) in [
        (1, 1_000, 60_000, 0, 0),
        (1, 1_000, 60_000, 999, 1_000),
        (2, 1_000, 60_000, 333, 666),
        (3, 1_000, 60_000, 999, 4_000),
        (7, 1_000, 60_000, 999, 60_000),
        (7, 1_000, 60_000, 0, 0),
        (90, 1_000, 60_000, 999, 60_000),
        (1, 0, 60_000, 999, 0),
        (5, 1_000, 0, 999, 0),
        (1, 1, 60_000, 0, 0),
        (99, 86_400_000, 86_400_000, 999, 86_400_000),
    ] {
        let given = [submitted_with(policy(100, backoff, most)), assigned(attempt, 1)];
        let now = at(0) + chrono::TimeDelta::microseconds(micros);
        let events = decide::<Task, C>(&given, fail(true, None), now).expect("accepted");
        let [E::AttemptFailed(failed)] = events.as_slice() else { panic!("{events:?}") };
        let waited = failed.retry_at.expect("another attempt") - now;
        assert_eq!(waited.num_milliseconds(), wait, "attempt {attempt}, {micros} µs");
    }
}

#[test]
fn the_agent_may_say_when_another_attempt_is_worth_it() {
    let given = [submitted(), assigned(1, 1)];
    let C::Fail(failed) = fail(true, None) else { return };
    let later = C::Fail(FailTask { retry_after_ms: Some(7_000), ..failed });
    let events = decide::<Task, C>(&given, later, at(50)).expect("accepted");
    let [E::AttemptFailed(failed)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(failed.retry_at, Some(at(7_050)));
}

#[test]
fn what_is_set_for_a_type_holds_unless_the_task_says_otherwise() {
    let kinds = TaskTypes::from([("render".into(), TaskType { retry: policy(9, 1, 2) })]);
    let facts = domain::Facts { task_types: kinds.into(), ..facts(at(0)) };
    let attempts = |new: SubmitTask| {
        let events = Task::default().decide(&C::Submit(new), &facts).expect("accepted");
        let [E::Submitted(new)] = events.as_slice() else { panic!("{events:?}") };
        new.retry.max_attempts
    };
    let render = || SubmitTask { kind: "render".into(), ..SubmitTask::titled("t") };
    assert_eq!(attempts(render()), 9);
    assert_eq!(attempts(SubmitTask { retry: Some(policy(2, 1, 2)), ..render() }), 2);
    assert_eq!(attempts(SubmitTask::titled("t")), 3);
}

#[test]
fn a_requeue_may_change_the_task_on_its_way() {
    let dead = TaskDeadLettered { attempts: 3, error: Json::null(), queue: "default".into() };
    let given = [submitted(), assigned(1, 1), E::DeadLettered(dead)];
    let changes = UpdateTask { payload: Some(Json::of("mended")), ..UpdateTask::default() };
    let requeue = RequeueTask { reason: None, changes: Some(changes) };
    assert_eq!(names(&given, C::Requeue(requeue)), ["updated", "requeued"]);
}

#[test]
fn an_error_ends_as_retry_failure_or_dead_letter() {
    let classes = RetryPolicy { retryable: Some(vec!["net".into()]), ..RetryPolicy::default() };
    let any = RetryPolicy::default();
    for (retry, attempt, retryable, class, last) in [
        (&any, 1, true, None, "attempt_failed"),
        (&any, 2, true, Some("disk"), "attempt_failed"),
        (&any, 3, true, None, "dead_lettered"),
        (&any, 1, false, None, "failed"),
        (&any, 3, false, None, "failed"),
        (&classes, 1, true, Some("net"), "attempt_failed"),
        (&classes, 1, true, Some("disk"), "failed"),
        (&classes, 1, true, None, "attempt_failed"),
        (&classes, 1, false, Some("net"), "failed"),
        (&classes, 3, true, Some("net"), "dead_lettered"),
    ] {
        let given = [submitted_with(retry.clone()), assigned(attempt, 1), started(attempt)];
        let names = names(&given, fail(retryable, class));
        let expected =
            if last == "attempt_failed" { vec![last] } else { vec!["attempt_failed", last] };
        assert_eq!(names, expected, "attempt {attempt}, {retryable}, {class:?}");
    }
}

#[test]
fn the_last_failed_attempt_has_no_time_for_another() {
    let given = [submitted_with(policy(1, 1_000, 60_000)), assigned(1, 1)];
    let events = when(&given, fail(true, None)).expect("accepted");
    let [E::AttemptFailed(failed), E::DeadLettered(dead)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((failed.retry_at, dead.attempts), (None, 1));
    assert_eq!(dead.error, Json::of("out of memory"));
}

#[test]
fn a_requeue_revives_with_all_attempts_but_never_an_old_token() {
    let ends = [
        E::Failed(TaskFailed { error: Json::null(), queue: "default".into() }),
        E::DeadLettered(TaskDeadLettered {
            attempts: 3,
            error: Json::null(),
            queue: "default".into(),
        }),
    ];
    for end in ends {
        let mut given = vec![submitted(), assigned(3, 7), started(3), end];
        assert_eq!(names(&given, C::Requeue(RequeueTask::default())), ["requeued"]);
        given.push(E::Requeued(ended()));
        let events = when(&given, C::Assign(to(1))).expect("accepted");
        let [E::Assigned(new)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((new.attempt, new.lease_token), (1, 8));
    }
}
