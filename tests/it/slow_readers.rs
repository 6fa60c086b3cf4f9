//! Subscribers that do not read: dropped in time, at no cost to others, and back without loss.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Api, product};

/// Bytes of each task's payload; some thousand of them fill every buffer on the way.
const PAYLOAD: usize = 16 << 10;
/// Tasks, so some 24 MB of events: no socket's buffers hold as much.
const TASKS: usize = 1_500;

/// A figure of `/metrics`.
async fn figure(api: &Api, name: &str) -> f64 {
    let text = api.client.get(format!("{}/metrics", api.base)).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().unwrap()
}

/// Opens a stream of events behind a position without reading from it.
fn subscribe(api: &Api, after: u64) -> TcpStream {
    let host = api.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    let request = format!(
        "GET /v1/events/stream?type=task.submitted HTTP/1.1\r\nHost: {host}\r\n\
         Authorization: Bearer {}\r\nLast-Event-ID: {after}\r\n\r\n",
        api.token
    );
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

/// The ids of the frames that a connection still holds, to its end.
fn ids(socket: TcpStream, enough: impl Fn(u64) -> bool) -> Vec<u64> {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ids: Vec<u64> = Vec::new();
    let mut lines = BufReader::new(socket);
    let (mut line, mut id) = (Vec::new(), None);
    // A chunk's length may stand between any two bytes of the text but not of a short line.
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if let Some(new) = text.strip_prefix("id: ") {
            id = new.trim().parse().ok();
        } else if text == "\n"
            && let Some(whole) = id.take()
        {
            ids.push(whole);
            if enough(whole) {
                break;
            }
        }
        line.clear();
    }
    ids
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_dropped_and_resumes_without_loss() {
    let shared = product().await;
    let api = Api::new(&shared.http, &shared.token);
    let task = |n: usize| {
        let payload = "x".repeat(PAYLOAD);
        json!({ "title": format!("{n}"), "queue": "slow-readers", "payload": payload })
    };
    let (_, first) = api.post("/v1/tasks", &task(0)).await;
    let after = first["position"].as_u64().unwrap() - 1;
    let dropped = figure(&api, "taffrail_http_stalled_total").await;
    let stuck = subscribe(&api, after);
    let mut last = 0;
    for n in (1..TASKS).step_by(50) {
        let items: Vec<_> = (n..n + 50).map(task).collect();
        let (status, outcome) = api.post("/v1/tasks/batch", &json!({ "items": items })).await;
        assert_eq!(status, 200, "{outcome}");
        last = outcome["position"].as_u64().unwrap();
    }
    let started = Instant::now();
    while figure(&api, "taffrail_http_stalled_total").await == dropped {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(60), "still there after {waited:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What reached the subscriber before the cut counts; the rest comes to whoever asks on.
    let reading = tokio::task::spawn_blocking(move || {
        let seen = ids(stuck, |_| false);
        let from = seen.last().copied().unwrap_or(after);
        (seen, ids(subscribe(&api, from), |id| id >= last))
    });
    let (seen, resumed) = reading.await.unwrap();
    assert!(seen.len() < TASKS, "the connection was cut before everything was sent");
    let all: Vec<u64> = seen.iter().chain(&resumed).copied().collect();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    assert!(all.len() >= TASKS, "{} and {} of {TASKS}", seen.len(), resumed.len());
}
