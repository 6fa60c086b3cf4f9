//! Stories of a schedule.

use domain::schedule::*;
use domain::{Code, Command, Event, Json, Refusal, ScheduleId, StreamType};

use crate::support::{at, code, decide};

use ScheduleEvent as E;

fn command(name: &str, body: &str) -> ScheduleCommand {
    match Command::parse(StreamType::Schedule, name, body.as_bytes()) {
        Ok(Command::Schedule(command)) => command,
        other => panic!("{name} {body}: {other:?}"),
    }
}

fn when(given: &[E], name: &str, body: &str, ms: i64) -> Result<Vec<E>, Refusal> {
    decide::<Schedule, ScheduleCommand>(given, command(name, body), at(ms))
}

/// A history of commands, each at its time.
fn story(steps: &[(&str, &str, i64)]) -> Vec<E> {
    let mut events = Vec::new();
    for (name, body, ms) in steps {
        let more = when(&events, name, body, *ms);
        events.extend(more.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}")));
    }
    events
}

fn state(events: &[E]) -> Schedule {
    let mut schedule = Schedule::default();
    events.iter().for_each(|event| schedule.apply(event));
    schedule
}

const EVERY_10_S: &str = r#"{"name":"s","interval_ms":10000,"task":{"title":"t"}}"#;
const ON_DONE: &str = r#"{"name":"s","on_event":{"type":"task.completed"},"task":{"title":"t"}}"#;

fn fire(ms: i64) -> String {
    format!(r#"{{"slot_at":"{}"}}"#, at(ms).to_rfc3339())
}

#[test]
fn a_slot_fires_when_it_has_come_and_once() {
    let made = story(&[("create", EVERY_10_S, 0)]);
    assert_eq!(state(&made).next_run(), Some(at(10_000)));
    assert_eq!(code(when(&made, "fire", &fire(10_000), 9_999)), Code::NotPossible, "early");
    assert_eq!(code(when(&made, "fire", &fire(9_000), 60_000)), Code::NotPossible, "no slot");
    let fired = when(&made, "fire", &fire(10_000), 10_000).expect("fired");
    let first =
        ScheduleFired { run: 1, by: FiredBy::Time, slot_at: at(10_000), position: None, missed: 0 };
    assert_eq!(fired, [E::Fired(first)]);
    let after = [made, fired].concat();
    assert_eq!(code(when(&after, "fire", &fire(10_000), 10_001)), Code::NotPossible, "twice");
    assert_eq!(state(&after).next_run(), Some(at(20_000)));
}

#[test]
fn one_firing_or_one_skip_stands_for_all_slots_that_were_missed() {
    let made = story(&[("create", EVERY_10_S, 0)]);
    let fired = when(&made, "fire", &fire(50_000), 55_000).expect("fired");
    assert!(matches!(&fired[..], [E::Fired(ScheduleFired { missed: 4, run: 1, .. })]), "{fired:?}");
    let body = fire(50_000).replace('}', r#","reason":"misfire"}"#);
    let skipped = when(&made, "skip", &body, 55_000).expect("skipped");
    assert!(matches!(&skipped[..], [E::Skipped(ScheduleSkipped { count: 5, .. })]), "{skipped:?}");
    for events in [fired, skipped] {
        assert_eq!(state(&[made.clone(), events].concat()).next_run(), Some(at(60_000)));
    }
}

#[test]
fn slots_of_a_pause_are_not_made_up_for() {
    let steps = [("create", EVERY_10_S, 0), ("pause", "{}", 5_000)];
    let paused = story(&steps);
    assert_eq!(state(&paused).next_run(), None);
    let refusal = when(&paused, "fire", &fire(10_000), 10_000).expect_err("refused");
    assert_eq!(refusal.code, Code::IllegalTransition);
    assert_eq!(refusal.allowed, ["update", "resume", "trigger", "delete", "backfill"]);
    let resumed = story(&[steps[0], steps[1], ("resume", "{}", 35_000)]);
    assert_eq!(state(&resumed).next_run(), Some(at(40_000)));
}

#[test]
fn a_one_shot_completes_and_lives_again_when_it_is_retimed() {
    let once =
        format!(r#"{{"name":"s","at":"{}","task":{{"title":"t"}}}}"#, at(60_000).to_rfc3339());
    let refusal = when(&[], "create", &once, 60_000).expect_err("in the past");
    assert_eq!((refusal.code, refusal.errors[0].pointer.as_str()), (Code::NotPossible, "/at"));
    let done = story(&[("create", &once, 0), ("fire", &fire(60_000), 60_000)]);
    assert_eq!(state(&done).state, Some(ScheduleState::Completed));
    let again = format!(r#"{{"at":"{}"}}"#, at(90_000).to_rfc3339());
    let again = [done.clone(), when(&done, "update", &again, 70_000).expect("updated")].concat();
    assert_eq!(state(&again).next_run(), Some(at(90_000)));
    assert_eq!(code(when(&again, "fire", &fire(60_000), 95_000)), Code::NotPossible);
    // Its instant passes in a pause: nothing is left to come.
    let over = story(&[("create", &once, 0), ("pause", "{}", 1_000), ("resume", "{}", 61_000)]);
    assert_eq!(state(&over).state, Some(ScheduleState::Completed));
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let made = story(&[("create", EVERY_10_S, 0)]);
    let named = [made.clone(), when(&made, "update", r#"{"name":"b"}"#, 25_000).expect("updated")];
    assert_eq!(state(&named.concat()).next_run(), Some(at(10_000)), "slots stay");
    let retimed = when(&made, "update", r#"{"interval_ms":3000}"#, 25_000).expect("updated");
    assert_eq!(state(&[made.clone(), retimed].concat()).next_run(), Some(at(28_000)));
    let zone = when(&made, "update", r#"{"timezone":"Asia/Tokyo"}"#, 0).expect_err("no cron");
    assert_eq!(zone.errors[0].pointer, "/timezone");
    let event = r#"{"task":{"title":"t","payload":"{{event}}"}}"#;
    let event = when(&made, "update", event, 0).expect_err("no event");
    assert_eq!(event.errors[0].pointer, "/task/payload");
}

#[test]
fn an_event_fires_once_and_in_order() {
    let made = story(&[("create", ON_DONE, 0)]);
    let fired = when(&made, "fire", r#"{"position":7}"#, 5).expect("fired");
    assert!(matches!(&fired[..], [E::Fired(f)] if f.position == Some(7) && f.by == FiredBy::Event));
    let after = [made, fired].concat();
    for body in [r#"{"position":7}"#, r#"{"position":6}"#] {
        assert_eq!(code(when(&after, "fire", body, 9)), Code::NotPossible, "{body}");
    }
    assert!(when(&after, "skip", r#"{"position":8,"reason":"overlap"}"#, 9).is_ok());
    assert_eq!(code(when(&after, "fire", &fire(9), 9)), Code::NotPossible, "it has no slots");
}

#[test]
fn a_backfill_fires_the_slots_of_a_range_of_the_past_and_no_others() {
    let made = story(&[("create", EVERY_10_S, 0)]);
    let range = |from: i64, to: i64| {
        format!(r#"{{"from":"{}","to":"{}"}}"#, at(from).to_rfc3339(), at(to).to_rfc3339())
    };
    let fired = when(&made, "backfill", &range(-20_000, 10_000), 15_000).expect("filled");
    let slots: Vec<_> = fired
        .iter()
        .map(|event| {
            let E::Fired(fired) = event else { panic!("{event:?}") };
            (fired.run, fired.by, fired.slot_at)
        })
        .collect();
    let filled = |run, ms| (run, FiredBy::Backfill, at(ms));
    assert_eq!(slots, [filled(1, -20_000), filled(2, -10_000), filled(3, 0)]);
    assert_eq!(state(&[made.clone(), fired].concat()).next_run(), Some(at(10_000)), "slots stay");
    for (from, to, pointer) in [(0, 15_001, "/to"), (1, 9_000, "/from"), (-20_000_000, 0, "/to")] {
        let refusal = when(&made, "backfill", &range(from, to), 15_000).expect_err("refused");
        assert_eq!(refusal.errors[0].pointer, pointer, "{refusal:?}");
    }
    let on_event = story(&[("create", ON_DONE, 0)]);
    let refusal = code(when(&on_event, "backfill", &range(0, 10), 15_000));
    assert_eq!(refusal, Code::IllegalTransition);
}

#[test]
fn a_deleted_schedule_takes_nothing_more() {
    let gone = story(&[("create", EVERY_10_S, 0), ("trigger", "{}", 1), ("delete", "{}", 2)]);
    for (name, body) in [("pause", "{}"), ("trigger", "{}"), ("delete", "{}")] {
        assert_eq!(code(when(&gone, name, body, 3)), Code::NotFound);
    }
    assert_eq!(code(when(&gone, "create", EVERY_10_S, 3)), Code::AlreadyExists);
    assert_eq!(code(when(&[], "pause", "{}", 3)), Code::NotFound);
}

#[test]
fn the_task_of_a_firing_follows_from_schedule_and_run() {
    let (one, two) = (ScheduleId::nth(1), ScheduleId::nth(2));
    assert_eq!(task_of(one, 1), task_of(one, 1));
    assert_ne!(task_of(one, 1), task_of(one, 2));
    assert_ne!(task_of(one, 1), task_of(two, 1));
}

#[test]
fn faulty_bodies_name_the_field() {
    let long = format!("event.a == '{}'", "x".repeat(2_000));
    let event = |filter: &str| {
        let filter = Json::of(filter);
        format!(r#""on_event":{{"type":"task.completed","filter":{}}}"#, filter.as_str())
    };
    let rows: Vec<(String, &str, &str)> = vec![
        (r#""cron":"nonsense""#.into(), "/cron", "malformed"),
        (r#""cron":"60 * * * *""#.into(), "/cron", "malformed"),
        (r#""cron":"*/0 * * * *""#.into(), "/cron", "malformed"),
        (r#""cron":"@reboot""#.into(), "/cron", "malformed"),
        (r#""cron":"0 0 1 1 * 2030 1""#.into(), "/cron", "malformed"),
        (r#""cron":"٣ * * * *""#.into(), "/cron", "malformed"),
        (format!(r#""cron":"{}""#, "* ".repeat(5_000)), "/cron", "malformed"),
        (r#""cron":"0 0 31 2 *""#.into(), "/cron", "never"),
        (r#""cron":"* * * * * *""#.into(), "/cron", "too_often"),
        (r#""cron":"0 3 * * *","timezone":"Europe/Berln""#.into(), "/timezone", "unknown_zone"),
        (r#""cron":"0 3 * * *","timezone":"../../etc/passwd""#.into(), "/timezone", "unknown_zone"),
        (r#""interval_ms":0"#.into(), "/interval_ms", "out_of_range"),
        (r#""interval_ms":999"#.into(), "/interval_ms", "out_of_range"),
        (r#""interval_ms":-1"#.into(), "/interval_ms", "invalid_value"),
        (r#""interval_ms":1000,"timezone":"UTC""#.into(), "/timezone", "needs_cron"),
        (r#""interval_ms":1000,"cron":"0 3 * * *""#.into(), "/interval_ms", "two_kinds"),
        (r#""at":"yesterday""#.into(), "/at", "invalid_value"),
        (r#""at":"+10000-01-01T00:00:00Z""#.into(), "/at", "out_of_range"),
        (r#""on_event":{"type":"task.complet"}"#.into(), "/on_event/type", "unknown_value"),
        (event(&long), "/on_event/filter", "invalid_expression"),
        (event("event.a =="), "/on_event/filter", "invalid_expression"),
        (event("[1].all(x, x == 1)"), "/on_event/filter", "invalid_expression"),
        (r#""interval_ms":1000,"grace_ms":1"#.into(), "/grace_ms", "out_of_range"),
        (r#""interval_ms":1000,"misfire_limit":1001"#.into(), "/misfire_limit", "out_of_range"),
        (r#""interval_ms":1000,"misfire":"maybe""#.into(), "/misfire", "unknown_value"),
        (r#""interval_ms":1000,"croon":"x""#.into(), "/croon", "unknown_field"),
        (r#""interval_ms":null"#.into(), "/interval_ms", "wrong_type"),
        (String::new(), "", "required"),
    ];
    for (fields, pointer, fault) in rows {
        let fields = if fields.is_empty() { fields } else { format!("{fields},") };
        let body = format!(r#"{{"name":"s",{fields}"task":{{"title":"t"}}}}"#);
        check(&body, pointer, fault);
    }
    let templates = [
        (r#"{"title":"t","titel":"x"}"#, "/task/titel", "unknown_field"),
        (r#"{}"#, "/task/title", "required"),
        (r#"{"title":""}"#, "/task/title", "length"),
        (r#"{"title":"t","run_at":"2030-01-01T00:00:00Z"}"#, "/task/run_at", "not_in_template"),
        (r#"{"title":"t","payload":{"a":["{{event.x}}"]}}"#, "/task/payload/a/0", "no_event"),
        (r#"7"#, "/task", "not_an_object"),
    ];
    for (task, pointer, fault) in templates {
        check(&format!(r#"{{"name":"s","interval_ms":1000,"task":{task}}}"#), pointer, fault);
    }
}

#[track_caller]
fn check(body: &str, pointer: &str, fault: &str) {
    let problem = Command::parse(StreamType::Schedule, "create", body.as_bytes());
    let problem = problem.expect_err(body);
    let found: Vec<_> =
        problem.errors.iter().map(|e| (e.pointer.as_str(), e.code.as_str())).collect();
    assert_eq!(found, [(pointer, fault)], "{body}");
    assert!(serde_json::to_vec(&problem).expect("JSON").len() < 8_000, "short however long");
}

#[test]
fn placeholders_are_filled_in_and_other_braces_stay() {
    let body = r#"{"title":"t","payload":{"n":"{{run}}","at":"{{ slot_at }}","other":"{{name}}",
        "id":"{{event.payload.x.y}}","none":"{{event.payload.z}}","in":"a {{run}}"}}"#;
    let template = Template::parse(&Json::parse(body).expect("JSON"), Some(true)).expect("one");
    let event = serde_json::json!({ "payload": { "x": { "y": [1, "two"] } } });
    let filling = Filling { run: 7, slot_at: at(0), event: Some(event) };
    let task = template.fill(&filling).expect("filled");
    let payload: serde_json::Value = task.payload.read().expect("JSON");
    let expected = serde_json::json!({
        "n": 7, "at": "2026-01-01T00:00:00Z", "other": "{{name}}",
        "id": [1, "two"], "none": null, "in": "a {{run}}",
    });
    assert_eq!(payload, expected);
    let huge = serde_json::json!({ "payload": { "z": "x".repeat(300_000) } });
    let faults = template.fill(&Filling { run: 7, slot_at: at(0), event: Some(huge) });
    assert_eq!(faults.expect_err("too large")[0].pointer, "/payload");
}

#[test]
fn a_plain_payload_is_submitted_to_the_letter() {
    let body = r#"{"title":"t","payload":{"b":18446744073709551617,"a":1.0E+2}}"#;
    let template = Template::parse(&Json::parse(body).expect("JSON"), Some(false)).expect("one");
    let filling = Filling { run: 1, slot_at: at(0), event: None };
    let task = template.fill(&filling).expect("filled");
    assert_eq!(task.payload.as_str(), r#"{"b":18446744073709551617,"a":1.0E+2}"#);
    assert!(!template.has_placeholders());
}

#[test]
fn schedules_are_read_back_from_their_events() {
    let made = story(&[("create", EVERY_10_S, 0)]);
    let event = Event::Schedule(made[0].clone());
    let again = Event::decode(StreamType::Schedule, "created", 1, &event.payload());
    assert_eq!(again, Ok(event));
}
