//! `taffrail top`, as scripts see it and on a terminal of a script's making.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::http::{Api, queue};
use crate::support::until;

async fn said(api: &Api, arguments: &[&str]) -> std::process::Output {
    let mut command = api.product.cli(arguments);
    command.env("COLUMNS", "140");
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_plain_frame_shows_a_real_queue_an_agent_and_what_it_has() {
    let api = Api::new().await;
    let queue = queue();
    let name = format!("topper-{}", crate::support::unique());
    let made = api.post("/v1/agents", json!({ "name": name, "slots": 2 })).await;
    let made: Value = made.json().await.unwrap();
    let later = "2100-01-01T00:00:00Z";
    let first = api.submit(json!({ "title": "in hand", "queue": queue })).await;
    let claim = json!({ "agent_id": made["id"], "max": 1, "wait_ms": 5_000, "start": true });
    let claimed = api.post(&format!("/v1/queues/{queue}/claim"), claim).await;
    let claimed: Value = claimed.json().await.unwrap();
    assert_eq!(claimed["tasks"][0]["task_id"], first["id"]);
    for body in [
        json!({ "title": "urgent", "priority": "critical" }),
        json!({ "title": "plain" }),
        json!({ "title": "tomorrow", "run_at": later }),
        json!({ "title": "then", "depends_on": [first["id"]] }),
    ] {
        let mut body = body;
        body["queue"] = json!(queue);
        api.submit(body).await;
    }
    assert_eq!(api.post(&format!("/v1/queues/{queue}/pause"), json!({})).await.status(), 200);
    let mut frame = String::new();
    until("the frame shows it", async || {
        let out = said(&api, &["top", "--once"]).await;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        frame = String::from_utf8(out.stdout).unwrap();
        frame.lines().any(|line| line.starts_with(&queue) && line.contains("paused"))
    })
    .await;
    let line = |word: &str| {
        let found = frame.lines().find(|line| line.starts_with(word));
        found.unwrap_or_else(|| panic!("{word} is not in\n{frame}")).to_owned()
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(&line("QUEUE"))[..7],
        ["QUEUE", "STATE", "WAIT", "TIMED", "DEPS", "HELD", "DEAD"]
    );
    assert_eq!(words(&line(&queue))[1..7], ["paused", "4", "1", "1", "1", "·"]);
    assert!(line(&queue).contains("1/0/3/0/0"), "{frame}");
    let agent = words(&line(&name));
    assert_eq!((agent[1].as_str(), agent[2].as_str()), ("busy", "1/2"), "{frame}");
    assert!(line(&name).contains("TASK-") && line(&name).ends_with("in hand"), "{frame}");
    assert!(
        frame.starts_with("taffrail top  ")
            && frame.contains("http://127.0.0.1:")
            && !frame.contains('\u{1b}')
    );
    assert!(frame.lines().all(|line| line.chars().count() <= 140), "{frame}");

    // Without a terminal it is the same without the flag; programs get a document.
    let out = said(&api, &["top"]).await;
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains(&queue));
    let out = said(&api, &["top", "-o", "json"]).await;
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    let named = |queue_of: &Value| queue_of["name"] == queue.as_str();
    let own = all["queues"].as_array().unwrap().iter().find(|one| named(one)).unwrap();
    assert_eq!(own["standing"], json!({ "ready": 2, "timed": 1, "dependent": 1, "held": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_and_a_wrong_token_are_told_with_what_to_do() {
    let api = Api::new().await;
    let out = said(&api, &["top", "--once", "--url", "http://127.0.0.1:1"]).await;
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot reach"), "{out:?}");
    let out = said(&api, &["top", "--once", "--token", "wrong"]).await;
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("token"), "{out:?}");
}

/// A terminal of 80 columns and 24 lines with `taffrail top` on it.
pub(crate) struct Screen {
    child: Child,
    pub(crate) keys: File,
    line: File,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    pub(crate) fn open(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let line = File::options().read(true).write(true).open(name).unwrap();
        let on = || Stdio::from(line.try_clone().unwrap());
        let child = command.stdin(on()).stdout(on()).stderr(on()).spawn().unwrap();
        let keys = File::from(master);
        let (mut reader, said) = (keys.try_clone().unwrap(), Arc::default());
        let into: Arc<Mutex<Vec<u8>>> = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                into.lock().extend(&bytes[..length]);
            }
        });
        Self { child, keys, line, said }
    }

    /// Everything that was written to it.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock()).into_owned()
    }

    pub(crate) async fn says(&self, what: &str) {
        until(what, async || self.said().contains(what)).await;
    }

    /// What stands on it: only what changes is written, wherever that is.
    pub(crate) async fn shows(&self, what: &str) {
        until(what, async || standing(&self.said()).contains(what)).await;
    }

    /// Whether the terminal takes whole lines and echoes, as a shell wants it.
    fn is_a_shells(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// How it ended; the terminal is as it was.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("it ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(self.is_a_shells(), "the terminal was left raw");
        self.says("\u{1b}[?1049l").await;
        self.says("\u{1b}[?25h").await;
        status.unwrap().code()
    }
}

/// The lines that a terminal shows after all that was written, as far as ratatui's backend
/// writes: places, clearing, characters of one column.
pub(crate) fn standing(said: &str) -> String {
    let mut lines = vec![vec![' '; 80]; 24];
    let (mut line, mut column) = (0, 0);
    let mut chars = said.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            let mut parameters = String::new();
            let end = loop {
                match chars.next() {
                    Some(c) if c.is_ascii_alphabetic() => break c,
                    Some(c) => parameters.push(c),
                    None => break ' ',
                }
            };
            let mut numbers = parameters.split(';').map(|n| n.parse::<usize>().unwrap_or(1));
            match end {
                'H' => {
                    line = numbers.next().unwrap_or(1) - 1;
                    column = numbers.next().unwrap_or(1) - 1;
                }
                'J' => lines.iter_mut().for_each(|line| line.fill(' ')),
                _ => {}
            }
        } else if !c.is_control() {
            if let Some(place) = lines.get_mut(line).and_then(|line| line.get_mut(column)) {
                *place = c;
            }
            column += 1;
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>() + "\n").collect()
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_it_is_live_and_gives_the_terminal_back_however_it_ends() {
    let api = Api::new().await;
    let queue = queue();
    api.submit(json!({ "title": "t", "queue": queue })).await;
    assert_eq!(api.post(&format!("/v1/queues/{queue}/pause"), json!({})).await.status(), 200);
    for end in ["q", "\u{3}", "SIGINT", "SIGTERM"] {
        let mut command = api.product.cli(&["top"]);
        // A colour where colours are wanted, and none where they are not.
        let coloured = end == "q";
        if coloured {
            command.env_remove("NO_COLOR");
        }
        let mut screen = Screen::open(command);
        screen.says("\u{1b}[?1049h").await;
        screen.shows("taffrail top").await;
        screen.shows("quit").await;
        // Other tests' queues are there too: only ours is left.
        screen.keys.write_all(format!("/{queue}\r").as_bytes()).unwrap();
        screen.shows("Queues 1 of ").await;
        screen.shows(&queue[..12]).await;
        screen.shows("paused").await;
        assert!(!screen.is_a_shells());
        assert_eq!(screen.said().contains("\u{1b}[38;5;"), coloured, "{end}");
        let pid = rustix::process::Pid::from_child(&screen.child);
        let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
        match end {
            "SIGINT" => signal(rustix::process::Signal::INT),
            "SIGTERM" => signal(rustix::process::Signal::TERM),
            keys => screen.keys.write_all(keys.as_bytes()).unwrap(),
        }
        let code = screen.ended().await;
        assert_eq!(code, Some(if end == "SIGINT" { 130 } else { 0 }), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_resumed_by_keys_and_looked_into_down_to_a_tasks_why() {
    let api = Api::new().await;
    let queue = queue();
    api.submit(json!({ "title": "look at me", "queue": queue })).await;
    let paused = api.post(&format!("/v1/queues/{queue}/pause"), json!({})).await;
    assert_eq!(paused.status(), 200);
    let mut screen = Screen::open(api.product.cli(&["top"]));
    screen.shows("quit").await;
    screen.keys.write_all(format!("/{queue}\r").as_bytes()).unwrap();
    screen.shows("paused").await;
    screen.keys.write_all(b"\r").unwrap();
    screen.shows("look at me").await;
    screen.keys.write_all(b"\r").unwrap();
    screen.shows("queue_paused").await;
    screen.keys.write_all(b"p").unwrap();
    screen.shows("resume queue").await;
    screen.keys.write_all(b"y").unwrap();
    until("the queue is active", async || {
        api.get(&format!("/v1/queues/{queue}")).await["state"] == "active"
    })
    .await;
    screen.keys.write_all(b"q").unwrap();
    assert_eq!(screen.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_on_the_screen() {
    let api = Api::new().await;
    let mut screen = Screen::open(api.product.cli(&["top", "--url", "http://127.0.0.1:1"]));
    screen.shows("no answer from http://127.0.0.1:1").await;
    screen.shows("is `taffrail up` running?").await;
    screen.keys.write_all(b"q").unwrap();
    assert_eq!(screen.ended().await, Some(0));
}
