//! Short words for what the tests are about: instants, actors, refusals.

use chrono::TimeDelta;
use cqrs_es::Aggregate;
use cqrs_es::test::TestFramework;
use domain::{Code, Facts, Refusal, Stamped, Timestamp};

/// Milliseconds after the instant at which every story begins.
pub fn at(ms: i64) -> Timestamp {
    let begin = Timestamp::from_timestamp(1_767_225_600, 0).expect("1 January 2026");
    begin + TimeDelta::milliseconds(ms)
}

pub fn facts(now: Timestamp) -> Facts {
    Facts::new(now, "test")
}

/// What a command leads to at an instant, after a history.
pub fn decide<A, C>(
    given: &[A::Event],
    when: impl Into<C>,
    now: Timestamp,
) -> Result<Vec<A::Event>, Refusal>
where
    A: Aggregate<Command = Stamped<C>, Error = Refusal, Services = ()>,
    A::Event: Clone,
{
    let command = Stamped { command: when.into(), facts: facts(now) };
    TestFramework::<A>::with(()).given(given.to_vec()).when(command).inspect_result()
}

/// The code of a refusal; an acceptance fails the test.
#[track_caller]
pub fn code<E: std::fmt::Debug>(result: Result<Vec<E>, Refusal>) -> Code {
    result.expect_err("refused").code
}
