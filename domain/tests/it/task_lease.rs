//! Fencing: who answers for a task must show its lease's token, and an agent must hold it.

use domain::task::*;
use domain::{Code, Json};

use crate::support::{at, code, decide};
use crate::task::*;

/// Every command that can show a token, showing one.
fn answers(lease_token: u64) -> Vec<C> {
    vec![
        C::Start(StartTask { lease_token }),
        C::Progress(ProgressTask { lease_token, percent: None, message: None, data: Json::null() }),
        completed(lease_token),
        C::Fail(FailTask {
            lease_token,
            error: Json::null(),
            retryable: true,
            class: None,
            retry_after_ms: None,
        }),
        C::Extend(ExtendTask { lease_token, lease_ms: None }),
        C::Release(ReleaseTask { lease_token, reason: None }),
        C::Block(BlockTask {
            reason: "r".into(),
            lifted_by: vec![],
            lease_token: Some(lease_token),
        }),
        C::SubmitForReview(SubmitForReview {
            lease_token: Some(lease_token),
            result: Json::null(),
        }),
        C::ExpireLease(ExpireLease { lease_token }),
    ]
}

fn expired(lease_token: u64) -> E {
    E::LeaseExpired(TaskLeaseExpired {
        agent_id: domain::AgentId::nth(1),
        attempt: 1,
        lease_token,
        queue: "default".into(),
    })
}

#[test]
fn a_stale_token_is_refused_whatever_the_clock_says_and_whatever_became_of_the_task() {
    let first = vec![submitted(), assigned(1, 1), started(1), expired(1)];
    let later: Vec<Vec<E>> = vec![
        vec![],
        vec![assigned(2, 2)],
        vec![assigned(2, 2), started(2)],
        vec![assigned(2, 2), E::Blocked(TaskBlocked { reason: "r".into(), lifted_by: vec![] })],
        vec![assigned(2, 2), E::ReviewRequested(TaskReviewRequested { result: Json::null() })],
        vec![E::Cancelled(cancelled())],
        vec![E::Cancelled(cancelled()), E::Archived(noted())],
    ];
    for then in later {
        let given = [first.clone(), then].concat();
        for now in [at(-1_000), at(1_000), at(10_000_000)] {
            for answer in answers(1) {
                let name = answer.name();
                let found = code(decide::<Task, C>(&given, answer, now));
                // Blocked takes no further start, progress, block or review, by anybody.
                assert_eq!(found, Code::StaleLease, "{name} after {:?}", given.last());
            }
        }
    }
}

#[test]
fn a_token_that_nobody_was_given_is_no_lease() {
    let given = [submitted(), assigned(1, 1), started(1)];
    for token in [0, 2, u64::MAX] {
        assert_eq!(code(when(&given, completed(token))), Code::StaleLease);
    }
    assert_eq!(code(when(&[submitted()], completed(1))), Code::IllegalTransition);
}

#[test]
fn the_current_token_is_good_until_the_expiry_is_recorded() {
    let long_after = at(10_000_000);
    let mut given = vec![submitted(), assigned(1, 1), started(1)];
    let done = decide::<Task, C>(&given, completed(1), long_after);
    assert_eq!(done.expect("accepted").len(), 1);
    given.push(expired(1));
    assert_eq!(code(decide::<Task, C>(&given, completed(1), long_after)), Code::StaleLease);
}

#[test]
fn an_extension_counts_from_now_and_keeps_the_token() {
    let given = [submitted(), assigned(1, 1)];
    let extend = C::Extend(ExtendTask { lease_token: 1, lease_ms: Some(60_000) });
    let events = when(&given, extend);
    let to = TaskLeaseExtended { lease_token: 1, lease_expires_at: at(61_000) };
    assert_eq!(events, Ok(vec![E::LeaseExtended(to.clone())]));

    let extended = [submitted(), assigned(1, 1), E::LeaseExtended(to)];
    let expire =
        |now| decide::<Task, C>(&extended, C::ExpireLease(ExpireLease { lease_token: 1 }), now);
    assert_eq!(code(expire(at(60_999))), Code::StaleLease);
    assert_eq!(expire(at(61_000)), Ok(vec![expired(1)]));
}

#[test]
fn an_expiry_on_the_last_attempt_is_the_end() {
    let once = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let given = [submitted_with(once), assigned(1, 1)];
    let expire = C::ExpireLease(ExpireLease { lease_token: 1 });
    let events = decide::<Task, C>(&given, expire, at(30_000)).expect("accepted");
    let names: Vec<_> = events.iter().map(E::name).collect();
    assert_eq!(names, ["lease_expired", "dead_lettered"]);
}

#[test]
fn an_agent_answers_with_its_own_leases_only() {
    let given = [submitted(), assigned(1, 1), started(1)];
    let mut task = Task::default();
    given.iter().for_each(|event| task.apply(event));
    let by = |actor: &str| domain::Facts::new(at(1_000), actor);
    let agent = |n| format!("agent:{}", domain::AgentId::nth(n));
    for answer in answers(1) {
        let possible = !matches!(answer, C::ExpireLease(_));
        let refused = task.decide(&answer, &by(&agent(2))).expect_err("another agent");
        assert_eq!(refused.code, Code::StaleLease, "{}", answer.name());
        for actor in [agent(1), "operator".into()] {
            let accepted = task.decide(&answer, &by(&actor)).is_ok();
            assert_eq!(accepted, possible, "{} by {actor}", answer.name());
        }
    }
}
