//! The browser without a server: keys in, wishes and characters out.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use serde_json::{Value, json};

use super::fetch::Direction::{Back, Forward};
use super::rows::{Change, Moment, RowAt, Watched, touched};
use super::state::{Jump, Note, State, Typing, Wish};
use super::*;

const TASK: &str = "0192d3c4-5b6a-7c8d-9e0f-112233445566";
const ADA: &str = "0192d3c4-5b6a-7c8d-9e0f-aabbccddeeff";

fn line(position: u64, kind: &str, actor: &str, summary: &str) -> Value {
    json!({
        "position": position, "type": kind, "actor": actor, "summary": summary,
        "occurred_at": format!("2026-01-01T00:00:{position:02}.123Z"), "stream_id": TASK,
    })
}

fn moment() -> Moment {
    let event = json!({
        "type": "dev.taffrail.task.assigned.v1", "subject": TASK, "sequence": "00000000000000000042",
        "actor": "manager:scheduler", "causationid": "00000000000000000041",
        "commandid": "0192d3c4-5b6a-7c8d-9e0f-000000000042",
        "time": "2026-01-01T00:00:42.123456Z",
        "data": { "agent_id": ADA, "queue": "default", "attempt": 1, "reason": "evil\u{1b}[2J" },
    });
    let mut other = line(40, "agent.ready", &format!("agent:{ADA}"), "ready");
    other["stream_id"] = json!(ADA);
    let lines = vec![
        other,
        line(41, "task.submitted", "alice", "submitted to default: water the plants"),
        line(42, "task.assigned", "manager:scheduler", "assigned to ada, attempt 1: idle"),
        line(43, "task.started", &format!("agent:{ADA}"), "started after 12 ms"),
    ];
    let before = json!({
        "id": TASK, "number": 7, "state": "queued", "title": "water the plants", "version": 1,
        "agent_id": null, "position": 41, "labels": { "a": "b" },
        "lease": { "token": null },
    });
    let mut after = before.clone();
    after["state"] = json!("assigned");
    after["agent_id"] = json!(ADA);
    after["version"] = json!(2);
    after["position"] = json!(42);
    after["labels"] = Value::Null;
    after["lease"]["token"] = json!(1);
    let rows = vec![
        RowAt {
            kind: "task",
            id: TASK.into(),
            before: Some(before),
            after: Some(after),
            problem: None,
        },
        RowAt {
            kind: "agent",
            id: ADA.into(),
            before: Some(json!({ "name": "ada", "state": "ready" })),
            after: Some(json!({ "name": "ada", "state": "ready" })),
            problem: None,
        },
    ];
    Moment { position: 42, head: 50, event, lines, rows }
}

fn state() -> State {
    State::new("http://127.0.0.1:7117".into(), moment(), None)
}

fn press(state: &mut State, keys: &str) -> Option<Wish> {
    let mut wish = None;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '<' => KeyCode::Left,
            '>' => KeyCode::Right,
            '!' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        wish = state.key(KeyEvent::from(code));
        if let Some(wish) = &wish {
            state.asks(wish);
        }
    }
    wish
}

fn screen(state: &mut State) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let looks = Looks { colour: false, plain: false };
    terminal.draw(|frame| draw(frame, state, looks)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(80);
    let lines = lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_row_is_shown_before_and_after_with_what_changed_first() {
    let mut state = state();
    insta::assert_snapshot!("row", screen(&mut state));
    press(&mut state, "c\t");
    let agent = screen(&mut state);
    assert!(agent.contains("42 left it as it was"), "{agent}");
    press(&mut state, "?");
    insta::assert_snapshot!("help", screen(&mut state));
}

#[test]
fn the_event_itself_is_a_tab_and_cannot_steer_the_terminal() {
    let mut state = state();
    press(&mut state, "\t\t");
    assert_eq!(state.tab, 0);
    let shown = screen(&mut state);
    assert!(shown.contains("reason                 evil[2J"), "{shown}");
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn fields_that_changed_come_first_and_what_every_event_moves_after_them() {
    let fields = moment().rows[0].fields();
    let named: Vec<(&str, Change)> =
        fields.iter().map(|field| (field.name.as_str(), field.change)).collect();
    assert_eq!(
        named[..6],
        [
            ("agent_id", Change::Appeared),
            ("lease.token", Change::Appeared),
            ("state", Change::Changed),
            ("labels.a", Change::Gone),
            ("position", Change::Changed),
            ("version", Change::Changed),
        ]
    );
    assert!(named[6..].iter().all(|(_, change)| *change == Change::Same));
    let document = moment().rows[0].document();
    assert_eq!(document["name"], "TASK-7");
    assert_eq!(document["changed"].as_array().unwrap().len(), 6);
}

#[test]
fn an_event_names_the_rows_that_it_touched() {
    let row = |kind, id: &str| Watched { kind, id: id.into() };
    let rows = touched(&moment().event);
    assert_eq!(rows, [row("task", TASK), row("agent", ADA), row("queue", "default")]);
    let paused = json!({
        "type": "dev.taffrail.queue.paused.v1", "subject": TASK, "data": { "queue": "q" },
    });
    assert_eq!(touched(&paused), [row("queue", "q")], "queues are asked for by name");
    assert!(touched(&json!({ "type": "dev.taffrail.later.happened.v9" })).is_empty());
}

#[test]
fn keys_step_jump_and_go() {
    let mut state = state();
    assert_eq!(press(&mut state, ">"), Some(Wish::Go(43)));
    assert_eq!(press(&mut state, ">"), Some(Wish::Go(44)), "steps add up");
    assert_eq!(press(&mut state, "<<<"), Some(Wish::Go(41)));
    let jump =
        |by, value: &str, direction| Some(Wish::Jump(Jump { by, value: value.into(), direction }));
    assert_eq!(press(&mut state, "s"), jump("stream", TASK, Forward));
    assert_eq!(press(&mut state, "T"), jump("type", "task.assigned", Back));
    assert_eq!(press(&mut state, "a"), jump("actor", "manager:scheduler", Forward));
    assert_eq!(press(&mut state, "b"), Some(Wish::Go(41)), "its cause");
    assert_eq!(press(&mut state, "g7\n"), Some(Wish::GoTo("7".into())));
    assert_eq!(press(&mut state, "/Plants\n"), Some(Wish::Search("Plants".into(), Forward)));
    assert!(state.is_busy());
    assert_eq!(press(&mut state, "!"), Some(Wish::Stop));
    assert_eq!(press(&mut state, "N"), Some(Wish::Search("Plants".into(), Back)));
    assert_eq!(press(&mut state, "wagent ada\n"), Some(Wish::Watch("agent ada".into())));
    assert_eq!(press(&mut state, "g"), None);
    assert_eq!(state.typing, Some(Typing::Place));
    assert_eq!(press(&mut state, "q!"), None, "a letter while typing is a letter");
    assert_eq!(press(&mut state, "q"), Some(Wish::Quit));
}

#[test]
fn the_ends_of_the_log_are_said_and_an_event_without_a_cause_too() {
    let mut state = state();
    state.moment.position = 1;
    assert_eq!(press(&mut state, "<"), None);
    assert!(matches!(&state.note, Note::Failed(why) if why.contains("first")));
    state.moment.event["causationid"] = Value::Null;
    assert_eq!(press(&mut state, "b"), None);
    assert!(screen(&mut state).contains("manager:scheduler asked for it by itself"));
    state.moment.position = state.moment.head;
    assert_eq!(press(&mut state, ">"), Some(Wish::GoTo("51".into())), "it may have grown");
}

#[test]
fn stepping_on_keeps_to_the_kind_of_row_that_one_looks_at() {
    let mut state = state();
    press(&mut state, "\t");
    assert_eq!((state.tab, state.kind), (2, Some("agent")));
    let mut next = moment();
    next.position = 43;
    next.rows.reverse();
    state.arrived(next);
    assert_eq!(state.tab, 1, "the agent's, wherever it stands");
}
