//! What holds on every walk through every kind of stream's life.

use domain::task::{Task, TaskCommand, TaskState};
use domain::{Aggregate, Command, Event, StreamType, json};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::walk::{allowed, body, steps, unlisted, walk};

fn kinds() -> impl Strategy<Value = StreamType> {
    prop::sample::select(StreamType::ALL.to_vec())
}

fn task(aggregate: &Aggregate) -> &Task {
    match aggregate {
        Aggregate::Task(task) => task,
        Aggregate::Agent(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Schedule(_)
        | Aggregate::Queue(_)
        | Aggregate::Node(_)
        | Aggregate::Profile(_) => panic!("a task"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attempts_leases_and_tokens_keep_their_invariants(steps in steps()) {
        use TaskState as S;
        for met in walk(StreamType::Task, &steps) {
            let (before, after) = (task(&met.before), task(&met.after));
            prop_assert!(after.attempt <= after.retry.max_attempts, "{after:?}");
            prop_assert!(after.tokens >= before.tokens);
            let held = matches!(after.state, Some(S::Assigned | S::InProgress | S::Blocked));
            prop_assert_eq!(after.lease.is_some(), held, "{:?}", after);
            if let Some(lease) = after.lease {
                prop_assert_eq!(lease.token, after.tokens);
                prop_assert!(after.attempt >= 1);
            }
            if before.lease.map(|l| l.agent_id) != after.lease.map(|l| l.agent_id)
                && after.lease.is_some()
            {
                prop_assert!(after.tokens > before.tokens, "a new holder has a new token");
            }
        }
    }

    #[test]
    fn an_end_is_left_by_requeue_alone(steps in steps()) {
        for met in walk(StreamType::Task, &steps) {
            let (before, after) = (task(&met.before), task(&met.after));
            let Some(state) = before.state.filter(|state| state.is_final()) else { continue };
            if before.archived {
                prop_assert_eq!(before, after);
            } else if after.state != Some(state) {
                prop_assert_eq!(met.command.name(), "requeue");
            } else if before != after {
                prop_assert!(after.archived, "{:?}", met.command);
            }
        }
    }

    #[test]
    fn only_the_current_token_is_answered_for(steps in steps()) {
        for met in walk(StreamType::Task, &steps) {
            let Command::Task(command) = &met.command else { continue };
            let (TaskCommand::Complete(_) | TaskCommand::Release(_) | TaskCommand::Extend(_)) =
                command
            else {
                continue;
            };
            let body: serde_json::Value =
                serde_json::from_slice(&command.body()).expect("an object");
            let token = body["lease_token"].as_u64();
            let lease = task(&met.before).lease;
            prop_assert_eq!(met.answer.is_ok(), lease.is_some_and(|l| Some(l.token) == token));
        }
    }

    #[test]
    fn what_succeeds_is_listed_and_what_is_listed_succeeds(kind in kinds(), steps in steps()) {
        for met in walk(kind, &steps) {
            if let Some(listed) = allowed(&met.before)
                && met.answer.as_ref().is_ok_and(|events| !events.is_empty())
                && !unlisted(&met.command)
            {
                prop_assert!(listed.contains(&met.command.name()), "{:?}", met.command);
            }
            for name in allowed(&met.after).unwrap_or_default() {
                // Zero picks the current token and the name that is registered.
                let command = Command::parse(kind, name, body(&met.after, name, 0).as_bytes());
                let answer = met.after.decide(&command.expect("a good body"), &met.facts);
                prop_assert!(answer.is_ok(), "{name} in {:?}: {answer:?}", met.after);
            }
            if let Err(refusal) = &met.answer
                && refusal.state.is_some()
            {
                prop_assert!(!refusal.allowed.contains(&met.command.name()), "{refusal:?}");
            }
        }
    }

    #[test]
    fn a_snapshot_and_its_tail_fold_to_the_same_as_all(
        kind in kinds(), steps in steps(), cut in any::<prop::sample::Index>(),
    ) {
        let met = walk(kind, &steps);
        let events: Vec<Event> = met.iter().flat_map(|m| m.answer.iter().flatten()).cloned().collect();
        let cut = cut.index(events.len() + 1);
        let mut all = Aggregate::new(kind);
        events.iter().for_each(|event| all.apply(event));
        let mut head = Aggregate::new(kind);
        events[..cut].iter().for_each(|event| head.apply(event));
        let kept = serde_json::to_vec(&head).expect("written");
        let mut state: Aggregate = serde_json::from_slice(&kept).expect("read back");
        prop_assert_eq!(&state, &head);
        events[cut..].iter().for_each(|event| state.apply(event));
        prop_assert_eq!(state, all);
    }

    #[test]
    fn a_decision_depends_on_nothing_but_what_it_is_given(kind in kinds(), steps in steps()) {
        for met in walk(kind, &steps) {
            prop_assert_eq!(&met.before.decide(&met.command, &met.facts), &met.answer);
        }
    }

    #[test]
    fn every_event_comes_back_from_its_bytes(kind in kinds(), steps in steps()) {
        for event in walk(kind, &steps).iter().flat_map(|met| met.answer.iter().flatten()) {
            let payload = event.payload();
            let again = Event::decode(kind, event.name(), event.schema_version(), &payload);
            prop_assert_eq!(again.as_ref(), Ok(event));
            prop_assert_eq!(again.expect("decoded").payload(), payload);
        }
    }

    #[test]
    fn canonical_bodies_are_read_as_the_same_command(kind in kinds(), steps in steps()) {
        for met in walk(kind, &steps) {
            let again = Command::parse(kind, met.command.name(), &met.command.body());
            prop_assert_eq!(again, Ok(met.command));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(kind in kinds(), body in vec(any::<u8>(), 0..200)) {
        let _ = json::check(&body);
        for name in Command::names(kind) {
            let _ = Command::parse(kind, name, &body);
        }
        for event in domain::event_types() {
            let _ = Event::decode(event.stream_type, event.name, event.version, &body);
        }
    }

    #[test]
    fn no_damaged_body_makes_the_reader_panic(
        kind in kinds(), steps in steps(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        for met in walk(kind, &steps) {
            let mut body = met.command.body();
            let at = at.index(body.len());
            body[at] = byte;
            let _ = Command::parse(kind, met.command.name(), &body);
            body.truncate(at);
            let _ = Command::parse(kind, met.command.name(), &body);
        }
    }
}
