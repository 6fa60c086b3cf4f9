//! Every rule shown to fire: a sound history passes, and one change breaks one promise.

use domain::task::{TaskAssigned, TaskCancelled, TaskEvent};
use domain::{AgentId, Event, Timestamp};
use store::{Append, Written};
use uuid::Uuid;

use super::{Mirrored, Model, ResultRow, RoleToken, Rule, World, check};
use crate::history::{Answer, Attempt, Done, Entry, Heard, Leased, Read};
use crate::support::new_event;

const TASK: Uuid = Uuid::from_u128(7);
const AGENT: Uuid = Uuid::from_u128(8);

fn assigned(token: u64) -> Event {
    Event::Task(TaskEvent::Assigned(TaskAssigned {
        agent_id: AgentId(AGENT),
        attempt: 1,
        lease_token: token,
        lease_expires_at: Timestamp::UNIX_EPOCH,
        queue: "default".into(),
        reason: None,
        decision: None,
    }))
}

fn cancelled() -> Event {
    Event::Task(TaskEvent::Cancelled(TaskCancelled {
        queue: "default".into(),
        reason: None,
        cascade: true,
    }))
}

fn world(events: Vec<(Uuid, u64, Event)>) -> World {
    let mut batch = Append::default();
    for (stream, version, event) in events {
        batch.events.push(new_event(stream, version, event).hashed());
    }
    let recorded_at = Timestamp::UNIX_EPOCH;
    let events = batch.recorded(Written { base: 0, epoch: 1, recorded_at });
    let results = events.iter().map(|event| ResultRow {
        command_id: event.command_id,
        stream_id: event.stream_id,
        version: event.version,
        position: event.position,
        events: vec![event.event_type.to_string()],
        refused: None,
    });
    let mirror = events.iter().map(|event| Mirrored {
        sequence: event.position,
        position: event.position,
        epoch: 1,
        subject: broker::subject::event(event),
        event_id: event.event_id.to_string(),
        hash: hex::encode(event.hash),
        payload: event.payload.to_vec(),
    });
    let (results, mirror) = (results.collect(), mirror.collect());
    let token =
        |token, holder: &str| RoleToken { role: "relay".into(), token, holder: holder.into() };
    World {
        epoch: 1,
        head: events.len() as u64,
        events,
        results,
        mirror,
        models: vec![Model { name: "tasks".into(), position: 4, differing: vec![] }],
        tokens: vec![token(1, "a"), token(1, "a"), token(2, "b")],
        subscribed: true,
    }
}

/// A sound run: four accepted commands, one after the other, and a refused one.
struct Run {
    history: Vec<Entry>,
    world: World,
    refused: Uuid,
}

fn sound() -> Run {
    let mut world = world(vec![
        (TASK, 1, assigned(1)),
        (TASK, 2, assigned(2)),
        (Uuid::from_u128(9), 1, cancelled()),
        (TASK, 3, cancelled()),
    ]);
    let mut history = Vec::new();
    for row in &world.results {
        let Done { stream_id, version, position } =
            Done { stream_id: row.stream_id, version: row.version, position: row.position };
        let done = Done { stream_id, version, position };
        history.push(asked(row.command_id, position * 10, Answer::Accepted(done)));
    }
    for event in &world.events {
        let heard = Heard { position: event.position, hash: hex::encode(event.hash) };
        history.push(Entry::Heard(heard));
    }
    let refused = Uuid::from_u128(99);
    history.push(asked(refused, 100, Answer::Refused("stale-lease".into())));
    history.push(asked(Uuid::from_u128(98), 100, Answer::Unknown("no answer".into())));
    history.push(Entry::Leased(Leased { task: TASK, agent: AGENT, token: 2 }));
    for (demanded, position) in [(0, 3), (3, 4)] {
        let read = Read { client: 1, task: TASK, demanded, position, found: true };
        history.push(Entry::Read(read));
    }
    world.results.push(ResultRow {
        command_id: refused,
        stream_id: TASK,
        version: 3,
        position: 4,
        events: vec![],
        refused: Some("stale-lease".into()),
    });
    Run { history, world, refused }
}

fn asked(command_id: Uuid, invoked: u64, answer: Answer) -> Entry {
    let what = "Http task.submit".into();
    let completed = invoked + 5;
    Entry::Asked(Attempt { client: 1, command_id, what, invoked, completed, answer })
}

impl Run {
    /// The rules that are broken.
    fn broken(&self) -> Vec<Rule> {
        let found = check(&self.history, &self.world);
        let mut rules: Vec<Rule> = found.iter().map(|violation| violation.rule).collect();
        rules.sort();
        rules.dedup();
        rules
    }

    /// The `nth` command's sending.
    fn attempt(&mut self, nth: usize) -> &mut Attempt {
        match &mut self.history[nth] {
            Entry::Asked(attempt) => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self, nth: usize) -> &mut domain::Recorded {
        std::sync::Arc::make_mut(&mut self.world.events[nth])
    }
}

/// Breaks a sound run in one way and names the rules that must notice.
fn breaks(rules: &[Rule], change: impl FnOnce(&mut Run)) {
    let mut run = sound();
    change(&mut run);
    assert_eq!(run.broken(), rules);
}

#[test]
fn a_sound_run_is_clean() {
    assert_eq!(sound().broken(), []);
}

#[test]
fn an_acknowledged_command_without_a_result_is_lost() {
    breaks(&[Rule::Lost], |run| {
        run.history.push(asked(
            Uuid::from_u128(5),
            200,
            Answer::Accepted(Done { stream_id: TASK, version: 4, position: 5 }),
        ));
    });
}

#[test]
fn a_refusal_that_was_not_stored_is_lost() {
    breaks(&[Rule::Lost], |run| {
        let refused = run.refused;
        run.world.results.retain(|row| row.command_id != refused);
    });
}

#[test]
fn an_acknowledged_command_whose_events_are_gone_has_no_effects() {
    breaks(&[Rule::Effects], |run| {
        let command = run.world.results[3].command_id;
        let row = run.world.results.iter_mut().find(|row| row.command_id == command).unwrap();
        row.events.push("archived".into());
    });
}

#[test]
fn an_effect_twice_is_found() {
    breaks(&[Rule::Effects], |run| {
        let first = run.world.events[0].command_id;
        run.event(3).command_id = first;
        rehash(run, 3);
        run.world.results.remove(3);
        run.history.remove(3);
    });
}

/// What belongs to an event whose content was changed on purpose.
fn rehash(run: &mut Run, nth: usize) {
    let event = run.event(nth);
    event.hash = event.expected_hash();
    let hash = hex::encode(event.hash);
    run.world.mirror[nth].hash.clone_from(&hash);
    for entry in &mut run.history {
        if let Entry::Heard(heard) = entry
            && heard.position == nth as u64 + 1
        {
            heard.hash.clone_from(&hash);
        }
    }
}

#[test]
fn events_that_nobody_asked_for_are_found() {
    breaks(&[Rule::Effects], |run| {
        run.world.results.remove(3);
        run.history.remove(3);
    });
}

#[test]
fn two_results_of_one_command_are_found() {
    breaks(&[Rule::Effects], |run| {
        let again = run.world.results[0].clone();
        run.world.results.push(again);
    });
}

#[test]
fn an_event_of_a_refused_command_is_found() {
    breaks(&[Rule::Refusals], |run| {
        run.world.results[3].refused = Some("stale-lease".into());
        run.attempt(3).answer = Answer::Refused("stale-lease".into());
    });
}

#[test]
fn another_outcome_than_the_stored_one_is_found() {
    breaks(&[Rule::Outcome], |run| {
        run.attempt(3).answer = Answer::Refused("not-found".into());
    });
}

#[test]
fn two_answers_to_one_id_are_found() {
    breaks(&[Rule::Answers], |run| {
        let id = run.attempt(3).command_id;
        run.history.push(asked(id, 500, Answer::Refused("already-exists".into())));
    });
}

#[test]
fn an_unknown_outcome_that_became_known_is_no_fault() {
    breaks(&[], |run| {
        let id = run.attempt(3).command_id;
        run.history.insert(0, asked(id, 35, Answer::Unknown("no answer".into())));
    });
}

#[test]
fn a_hole_in_the_positions_is_found() {
    breaks(&[Rule::Positions, Rule::Mirror], |run| {
        run.world.events.remove(2);
        run.world.results.remove(2);
        run.history.remove(2);
    });
}

#[test]
fn a_log_that_ends_before_its_head_is_found() {
    breaks(&[Rule::Positions, Rule::Models, Rule::Subscribers], |run| run.world.head = 5);
}

#[test]
fn a_version_that_is_left_out_is_found() {
    breaks(&[Rule::Versions], |run| {
        run.event(3).version = 4;
        rehash(run, 3);
        run.world.results[3].version = 4;
        let Answer::Accepted(done) = &mut run.attempt(3).answer else { panic!() };
        done.version = 4;
    });
}

#[test]
fn a_hash_that_is_not_the_contents_is_found() {
    breaks(&[Rule::Hashes], |run| run.event(2).actor = "somebody else".into());
}

#[test]
fn an_order_against_the_clock_is_found() {
    breaks(&[Rule::Order], |run| {
        // The last one was answered before the first one began.
        let attempt = run.attempt(3);
        (attempt.invoked, attempt.completed) = (1, 2);
    });
}

#[test]
fn overlapping_commands_may_stand_in_any_order() {
    breaks(&[], |run| {
        let attempt = run.attempt(3);
        (attempt.invoked, attempt.completed) = (1, 50);
    });
}

#[test]
fn a_message_that_is_missing_is_found() {
    breaks(&[Rule::Mirror], |run| drop(run.world.mirror.remove(1)));
}

#[test]
fn a_message_twice_is_found() {
    breaks(&[Rule::Mirror], |run| {
        let mut again = run.world.mirror[3].clone();
        again.sequence = 5;
        run.world.mirror.push(again);
    });
}

#[test]
fn a_message_in_anothers_place_is_found() {
    breaks(&[Rule::Mirror], |run| {
        run.world.mirror[2] = Mirrored { sequence: 3, position: 3, ..run.world.mirror[1].clone() };
    });
}

#[test]
fn other_bytes_in_the_stream_are_found() {
    breaks(&[Rule::Mirror], |run| run.world.mirror[2].payload.push(b' '));
}

#[test]
fn a_row_that_differs_and_a_model_behind_are_found() {
    breaks(&[Rule::Models], |run| run.world.models[0].differing.push("row 7".into()));
    breaks(&[Rule::Models], |run| run.world.models[0].position = 3);
}

#[test]
fn a_session_that_goes_back_is_found() {
    breaks(&[Rule::Sessions], |run| {
        let read = Read { client: 1, task: TASK, demanded: 0, position: 2, found: true };
        run.history.push(Entry::Read(read));
    });
}

#[test]
fn a_task_that_its_sender_does_not_find_is_found() {
    breaks(&[Rule::Sessions], |run| {
        let read = Read { client: 2, task: TASK, demanded: 0, position: 4, found: false };
        run.history.push(Entry::Read(read));
    });
}

#[test]
fn a_subscriber_that_misses_an_event_or_gets_another_is_found() {
    breaks(&[Rule::Subscribers], |run| {
        run.history.retain(|entry| !matches!(entry, Entry::Heard(heard) if heard.position == 2));
    });
    breaks(&[Rule::Subscribers], |run| {
        for entry in &mut run.history {
            if let Entry::Heard(heard) = entry {
                heard.hash = "00".repeat(32);
            }
        }
    });
}

#[test]
fn tokens_that_do_not_grow_are_found() {
    breaks(&[Rule::Leases], |run| {
        let again = RoleToken { role: "relay".into(), token: 2, holder: "c".into() };
        run.world.tokens.push(again);
    });
    let run = Run { world: world(vec![(TASK, 1, assigned(2)), (TASK, 2, assigned(2))]), ..sound() };
    assert!(run.broken().contains(&Rule::Leases));
}

#[test]
fn a_lease_of_somebody_else_and_one_that_is_not_there_are_found() {
    breaks(&[Rule::Leases], |run| {
        let agent = Uuid::from_u128(1);
        run.history.push(Entry::Leased(Leased { task: TASK, agent, token: 1 }));
    });
    breaks(&[Rule::Lost], |run| {
        run.history.push(Entry::Leased(Leased { task: TASK, agent: AGENT, token: 3 }));
    });
}
