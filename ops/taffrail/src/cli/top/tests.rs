use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::state::{Pane, Place};
use super::*;

const NOW: &str = "2026-01-01T12:00:00Z";

fn now() -> chrono::DateTime<chrono::Utc> {
    NOW.parse().unwrap()
}

fn queue(name: &str, state: &str, waiting: u64, submitted: u64) -> Value {
    json!({
        "name": name, "state": state, "depth": waiting,
        "by_priority": { "critical": 1, "high": 0, "normal": waiting, "low": 0, "background": 0 },
        "by_state": { "queued": waiting, "assigned": 1, "in_progress": 2, "dead": 3 },
        "oldest_queued_at": "2026-01-01T11:58:45Z",
        "per_minute": { "submitted": 60.0, "completed": 30.0, "until": NOW },
        "counters": { "submitted": submitted, "completed": 100, "failed": 1, "dead": 3, "cancelled": 0 },
        "standing": { "ready": waiting - 3, "timed": 2, "dependent": 1, "held": 3 },
    })
}

fn answers() -> Answers {
    let latency = json!({ "count": 9, "p50": 3, "p99": 1_250 });
    let numbers = json!({ "submit_to_start_ms": latency, "start_to_done_ms": latency,
                          "per_minute": { "submitted": 120.0, "completed": 60.0, "until": NOW } });
    Answers {
        queues: json!({ "position": 4711, "items": [
            queue("mail", "paused", 12, 200), queue("export", "active", 123_456, 400),
        ] }),
        agents: vec![json!({ "items": [
            { "id": "a-1", "name": "worker-1", "state": "busy", "slots": 4, "load": 0.25,
              "tasks": ["t-1", "t-2"], "last_heartbeat": "2026-01-01T11:59:58Z" },
            { "id": "a-2", "name": "worker-2", "state": "offline", "slots": 4, "tasks": [],
              "last_heartbeat": null },
        ] })],
        operations: json!({ "items": [
            { "id": "o-1", "kind": "queue.purge", "state": "succeeded", "created_at": NOW,
              "resource": { "type": "queue", "id": "mail" }, "progress": { "done": 3, "total": null } },
            { "id": "o-2", "kind": "projection.rebuild", "state": "running",
              "created_at": "2026-01-01T11:58:00Z",
              "resource": { "type": "projection", "id": "tasks" },
              "progress": { "done": 1_200, "total": 40_000, "message": "folding tasks" } },
        ] }),
        metrics: json!({ "total": numbers, "queues": { "mail": numbers } }),
        held: json!({ "items": [{ "id": "t-1", "number": "TASK-7", "title": "Greet\u{1b}[2J Ada" }] }),
    }
}

fn at_work() -> State {
    let mut state = State { server: "http://127.0.0.1:7117".into(), ..State::default() };
    state.looked(Look::of(&answers(), now()));
    state
}

/// The screen as text, and whether it has a colour anywhere.
fn screen(state: &State, width: u16, height: u16, colour: bool) -> (String, bool) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let looks = Looks { colour, plain: false };
    terminal.draw(|frame| draw(frame, state, looks)).unwrap();
    let plain = ratatui::style::Color::Reset;
    let coloured = terminal.backend().buffer().content().iter().any(|cell| cell.fg != plain);
    (text(&terminal), coloured)
}

fn press(state: &mut State, code: KeyCode) -> Option<Wish> {
    state.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_(state: &mut State, word: &str) {
    for c in word.chars() {
        assert_eq!(press(state, KeyCode::Char(c)), None);
    }
}

#[test]
fn eighty_columns_by_twenty_four_lines_show_everything_aligned() {
    let (text, coloured) = screen(&at_work(), 80, 24, true);
    insta::assert_snapshot!(text);
    assert!(coloured);
}

#[test]
fn a_wide_screen_has_priorities_and_percentiles_and_no_colours_where_none_are_wanted() {
    let (text, coloured) = screen(&at_work(), 130, 20, false);
    insta::assert_snapshot!(text);
    assert!(!coloured, "NO_COLOR");
}

#[test]
fn a_plain_frame_has_every_line_and_speaks_of_no_key() {
    let mut state = at_work();
    let many = (0..40).map(|n| queue(&format!("q{n:02}"), "active", 5, 1)).collect::<Vec<_>>();
    let answers = Answers { queues: json!({ "position": 1, "items": many }), ..answers() };
    state.looked(Look::of(&answers, now()));
    let text = frame(&state, 100);
    assert_eq!(text.lines().filter(|line| line.contains("  active  ")).count(), 40, "{text}");
    assert!(text.contains("worker-2") && text.contains("projection.rebuild"), "{text}");
    assert!(!text.contains("quit"), "{text}");
}

#[test]
fn before_the_first_answer_it_says_what_it_waits_for_and_what_to_do() {
    let mut state = State { server: "http://127.0.0.1:1".into(), ..State::default() };
    assert!(screen(&state, 80, 24, false).0.contains("asking http://127.0.0.1:1"));
    let problem = "no answer: is `taffrail up` running?".to_owned();
    state.note = Note::Away { problem, again: Duration::from_secs(4) };
    let (text, _) = screen(&state, 80, 24, false);
    assert!(text.contains("is `taffrail up` running? — again in 4 s"), "{text}");
    state.looked(Look::of(&answers(), now()));
    assert_eq!(state.note, Note::None);
}

#[test]
fn no_screen_is_too_small_to_be_drawn() {
    for (width, height) in [(1, 1), (10, 3), (20, 5), (80, 8), (300, 100)] {
        let mut state = at_work();
        screen(&state, width, height, true);
        state.help = true;
        screen(&state, width, height, true);
    }
}

#[test]
fn keys_lead_from_a_queue_to_a_task_with_its_why_and_back() {
    let mut state = at_work();
    assert_eq!(press(&mut state, KeyCode::Down), None);
    assert_eq!(press(&mut state, KeyCode::Enter), Some(Wish::Look));
    assert_eq!(state.trail, [Place::Queue("mail".into())]);
    // A late answer about another place is not shown here.
    let other = Detail { place: Place::Queue("export".into()), main: json!({}), more: json!({}) };
    state.detailed(other);
    assert!(state.detail.is_none());
    state.detailed(Detail {
        place: Place::Queue("mail".into()),
        main: json!({ "items": [
            { "id": "t-9", "number": "TASK-9", "state": "queued", "priority": "high", "attempt": 0,
              "max_attempts": 3, "title": "Nine", "created_at": "2026-01-01T11:00:00Z" },
            { "id": "t-7", "number": "TASK-7", "state": "in_progress", "priority": "normal",
              "attempt": 1, "max_attempts": 3, "title": "Seven", "agent_id": "a-1",
              "created_at": "2026-01-01T11:00:00Z" },
        ] }),
        more: json!({ "state_reason": "night" }),
    });
    insta::assert_snapshot!(screen(&state, 80, 12, false).0);
    press(&mut state, KeyCode::Down);
    assert_eq!(press(&mut state, KeyCode::Enter), Some(Wish::Look));
    let task = Place::Task { id: "t-7".into(), number: "TASK-7".into() };
    assert_eq!(state.trail.last(), Some(&task));
    state.detailed(Detail {
        place: task,
        main: json!({ "id": "t-7", "title": "Seven", "state": "queued", "priority": "low",
                      "queue": "mail", "type": "default", "attempt": 1, "max_attempts": 3,
                      "created_at": "2026-01-01T11:00:00Z", "error": { "message": "no disk" } }),
        more: json!({ "reasons": [{ "code": "queue_paused", "message": "queue mail is paused: night",
                                     "release": "POST /v1/queues/mail/resume" }] }),
    });
    insta::assert_snapshot!(screen(&state, 80, 20, false).0);
    assert_eq!(press(&mut state, KeyCode::Esc), Some(Wish::Look));
    assert_eq!(state.task.as_deref(), Some("t-7"), "the line stays chosen");
    assert_eq!(press(&mut state, KeyCode::Esc), Some(Wish::Look));
    assert_eq!((state.trail.len(), state.chosen_at(Pane::Queues)), (0, Some(1)));
    assert_eq!(press(&mut state, KeyCode::Esc), None);
}

#[test]
fn a_queue_is_paused_or_resumed_after_a_yes_alone() {
    let mut state = at_work();
    press(&mut state, KeyCode::Char('p'));
    assert!(screen(&state, 80, 24, false).0.contains("pause queue export?"));
    assert_eq!(press(&mut state, KeyCode::Char('n')), None);
    assert!(state.ask.is_none());
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Char('p'));
    let change = Change { queue: "mail".into(), command: "resume" };
    assert_eq!(press(&mut state, KeyCode::Char('y')), Some(Wish::Change(change)));
    // Where no queue is chosen, `p` means nothing.
    press(&mut state, KeyCode::Tab);
    assert_eq!((state.pane, press(&mut state, KeyCode::Char('p'))), (Pane::Agents, None));
    assert!(state.ask.is_none());
}

#[test]
fn a_filter_narrows_and_esc_takes_it_back() {
    let mut state = at_work();
    press(&mut state, KeyCode::Char('/'));
    type_(&mut state, "MAq");
    press(&mut state, KeyCode::Backspace);
    assert!(screen(&state, 80, 24, false).0.contains("/MA▏"));
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.lines(Pane::Queues).len(), 1);
    assert!(screen(&state, 80, 24, false).0.contains("Queues 1 of 2"));
    press(&mut state, KeyCode::Esc);
    assert_eq!((state.filter.as_str(), state.lines(Pane::Queues).len()), ("", 2));
}

#[test]
fn q_and_ctrl_c_end_it_whatever_is_open() {
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    let mut state = at_work();
    assert_eq!(press(&mut state, KeyCode::Char('q')), Some(Wish::Quit));
    for open in [KeyCode::Char('?'), KeyCode::Char('/'), KeyCode::Char('p')] {
        let mut state = at_work();
        press(&mut state, open);
        assert_eq!(state.key(ctrl_c), Some(Wish::Quit), "{open:?}");
    }
}

#[test]
fn a_chosen_line_stays_chosen_when_others_come_and_go() {
    let mut state = at_work();
    press(&mut state, KeyCode::End);
    assert_eq!(state.chosen_at(Pane::Queues), Some(1));
    let mut more = answers();
    let items = more.queues["items"].as_array_mut().unwrap();
    items.push(queue("archive", "active", 4, 1));
    state.looked(Look::of(&more, now()));
    assert_eq!(state.chosen_at(Pane::Queues), Some(2));
    let items = more.queues["items"].as_array_mut().unwrap();
    items.retain(|queue| queue["name"] != "mail");
    state.looked(Look::of(&more, now()));
    assert_eq!(state.chosen_at(Pane::Queues), Some(0));
}

#[test]
fn rates_are_those_of_the_last_ten_seconds() {
    let start = Instant::now();
    let mut rates = Rates::default();
    let mut look = |submitted: u64, at: u64| {
        let queues = json!({ "items": [queue("mail", "active", 9, submitted)] });
        let mut look = Look::of(&Answers { queues, ..answers() }, now());
        rates.tell(&mut look, start + Duration::from_secs(at));
        (look.queues[0].rates.0, look.rates.0)
    };
    // The first look has nothing to compare with: the means of the last minutes stand.
    assert_eq!(look(100, 0), (1.0, 2.0));
    assert_eq!(look(130, 1), (30.0, 30.0));
    assert_eq!(look(130, 10), (3.0, 3.0));
    assert_eq!(look(130, 12), (0.0, 0.0));
    // Another log: lower counters are no negative rate.
    assert_eq!(look(5, 13), (0.0, 0.0));
}

#[test]
fn times_counts_and_rates_fit_into_five_characters() {
    for (ms, text) in [
        (0, "0ms"),
        (999, "999ms"),
        (1_250, "1.2s"),
        (9_999, "9.9s"),
        (99_000, "99s"),
        (100_000, "1m"),
        (5_999_000, "99m"),
        (360_000_000, "4d"),
    ] {
        assert_eq!(model::brief(Duration::from_millis(ms)), text);
    }
    for (count, text) in [(0, "0"), (99_999, "99999"), (123_456, "123k"), (98_765_432, "98M")] {
        assert_eq!(model::short(count), text);
    }
    for (rate, text) in
        [(0.0, "·"), (0.25, "0.2"), (9.94, "9.9"), (12.4, "12"), (123_456.0, "123k")]
    {
        assert_eq!(model::rate(rate), text);
    }
}
