//! Subscribers that do not read: dropped in time, at no cost to others, and back without loss.
//!
//! All at once, so that one flood of events serves them: SSE, WebSocket, a WebSocket for which
//! there is next to nothing, a durable consumer of `TAFFRAIL_EVENTS`, and a core NATS
//! subscriber (reliability R20).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use broker::streams::EVENTS;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::support::{Api, Product, SOON, product};

/// Bytes of each task's payload; some thousand of them fill every buffer on the way.
const PAYLOAD: usize = 16 << 10;
/// Tasks, so some 24 MB of events: no socket's buffers hold as much.
const TASKS: usize = 1_500;
/// How long anything may take to come once it is asked for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The durable consumer, and how long it is waited for an acknowledgement.
const DURABLE: &str = "slow-durable";
const ACK_WAIT: Duration = Duration::from_secs(2);

/// A figure of `/metrics`.
async fn figure(api: &Api, name: &str) -> f64 {
    let text = api.client.get(format!("{}/metrics", api.base)).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().unwrap()
}

/// Sends a request's head.
fn request(api: &Api, path: &str, more: &str) -> TcpStream {
    let host = api.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let token = &api.token;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket
}

/// Opens a stream of events behind a position without reading from it.
fn sse(api: &Api, after: u64) -> TcpStream {
    let place = format!("Last-Event-ID: {after}\r\n");
    request(api, "/v1/events/stream?type=task.submitted", &place)
}

/// The same over a WebSocket, for events of one type.
fn websocket(api: &Api, after: u64, kind: &str) -> TcpStream {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = request(api, "/v1/ws", upgrade);
    let wanted = json!({ "subscribe": { "after": after, "types": [kind] } });
    let text = wanted.to_string();
    // One text frame; a mask of zeros leaves it as it is (RFC 6455, 5.3).
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    socket.write_all(&frame).unwrap();
    socket
}

/// Whether more came; fails when the connection is still open and silent.
fn came(read: std::io::Result<usize>) -> bool {
    match read {
        Ok(read) => read > 0,
        Err(error) => {
            let open = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
            assert!(!open, "the connection was not closed");
            false
        }
    }
}

/// The positions of the frames that a stream still holds, to its end.
fn of_sse(socket: TcpStream, enough: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut ids: Vec<u64> = Vec::new();
    let mut lines = BufReader::new(socket);
    let (mut line, mut id) = (Vec::new(), None);
    // A chunk's length may stand between any two bytes of the text but not of a short line.
    while came(lines.read_until(b'\n', &mut line)) {
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

/// The same of a WebSocket, whose frames come unmasked.
fn of_websocket(socket: TcpStream, enough: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut reader = BufReader::new(socket);
    let mut line = Vec::new();
    while line != b"\r\n" {
        line.clear();
        assert!(came(reader.read_until(b'\n', &mut line)), "no answer to the upgrade");
    }
    let mut take = |length: usize| {
        let mut bytes = vec![0; length];
        came(reader.read_exact(&mut bytes).map(|()| length.max(1))).then_some(bytes)
    };
    while let Some(head) = take(2) {
        let length = match head[1] {
            126 => take(2).map(|b| u64::from(u16::from_be_bytes(b.try_into().unwrap()))),
            127 => take(8).map(|b| u64::from_be_bytes(b.try_into().unwrap())),
            short => Some(u64::from(short)),
        };
        let body = length.and_then(|length| take(usize::try_from(length).unwrap()));
        // The last one may be cut off in its middle.
        let Some(body) = body else { break };
        if head[0] != 0x81 {
            continue;
        }
        let said: Value = serde_json::from_slice(&body).unwrap();
        if let Some(text) = said["event"]["sequence"].as_str() {
            let position = text.parse().unwrap();
            ids.push(position);
            if enough(position) {
                break;
            }
        }
    }
    ids
}

/// A NATS connection of this name that has said something and will not read the answers.
fn nats(product: &Product, name: &str, words: &[String]) -> TcpStream {
    let address = product.nats_url.rsplit('/').next().unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let token = &product.nats_token;
    let hello = json!({ "verbose": false, "headers": true, "name": name, "auth_token": token });
    write!(socket, "CONNECT {hello}\r\n").unwrap();
    for word in words {
        write!(socket, "{word}\r\n").unwrap();
    }
    socket
}

/// The positions that the messages name which a NATS connection still holds; the last
/// message may be cut off, so it does not count.
fn of_nats(mut socket: TcpStream) -> Vec<u64> {
    let (mut bytes, mut some) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = socket.read(&mut some);
        let length = *read.as_ref().unwrap_or(&0);
        if !came(read) {
            break;
        }
        bytes.extend_from_slice(&some[..length]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let named = text.split("Taffrail-Position: ").skip(1);
    let mut ids: Vec<u64> =
        named.filter_map(|rest| rest.split("\r\n").next()?.parse().ok()).collect();
    ids.pop();
    ids
}

/// Why nats-server closed a connection, once it has.
async fn closed(product: &Product, name: &str) -> Option<String> {
    let folder = product.data_dir.join("run");
    let ports = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let ports = ports.filter(|path| path.extension().is_some_and(|kind| kind == "ports")).last();
    let ports: Value = serde_json::from_slice(&std::fs::read(ports?).unwrap()).unwrap();
    let monitoring = ports["monitoring"][0].as_str()?;
    let answer = reqwest::get(format!("{monitoring}/connz?state=closed&limit=10000")).await;
    let closed: Value = answer.unwrap().json().await.unwrap();
    let mut connections = closed["connections"].as_array()?.iter();
    let ours = connections.find(|connection| connection["name"] == name)?;
    Some(ours["reason"].as_str()?.to_owned())
}

/// All positions from behind one to another that a consumer brings, each acknowledged.
async fn positions(consumer: PullConsumer, after: u64, last: u64) -> BTreeSet<u64> {
    let (began, mut seen) = (Instant::now(), BTreeSet::new());
    while (seen.range(after + 1..=last).count() as u64) < last - after {
        assert!(began.elapsed() < SOON, "{} of {} came", seen.len(), last - after);
        let fetch = consumer.fetch().max_messages(500).messages().await.unwrap();
        let mut messages = std::pin::pin!(fetch);
        while let Some(Ok(message)) = messages.next().await {
            seen.insert(message.info().unwrap().stream_sequence);
            message.ack().await.unwrap();
        }
    }
    seen
}

/// What reached a subscriber before the cut, and what came when it asked on from there.
fn whole(seen: &[u64], resumed: &[u64]) {
    assert!(seen.len() < TASKS, "the connection was cut before everything was sent");
    let all: Vec<u64> = seen.iter().chain(resumed).copied().collect();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    assert!(all.len() >= TASKS, "{} and {} of {TASKS}", seen.len(), resumed.len());
}

#[tokio::test]
async fn subscribers_that_do_not_read_are_dropped_and_resume_without_loss() {
    let shared = product().await;
    let api = Api::new(&shared.http, &shared.token);
    let task = |n: usize| {
        let payload = "x".repeat(PAYLOAD);
        json!({ "title": format!("{n}"), "queue": "slow-readers", "payload": payload })
    };
    let (_, first) = api.post("/v1/tasks", &task(0)).await;
    let after = first["position"].as_u64().unwrap() - 1;
    let dropped = figure(&api, "taffrail_http_stalled_total").await;
    let (stuck_sse, stuck_ws) = (sse(&api, after), websocket(&api, after, "task.submitted"));
    // Its buffers never fill: it is its silence that shows.
    let _quiet_ws = websocket(&api, after, "agent.registered");
    let events = jetstream::new(shared.nats().await).get_stream(EVENTS).await.unwrap();
    let by_position = |ack_policy| pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ack_policy,
        ack_wait: ACK_WAIT,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let config =
        pull::Config { durable_name: Some(DURABLE.into()), ..by_position(AckPolicy::Explicit) };
    let durable = events.create_consumer(config).await.unwrap();
    let wanted = json!({ "batch": 100_000, "expires": 120_000_000_000_u64 }).to_string();
    let next = format!("PUB $JS.API.CONSUMER.MSG.NEXT.{EVENTS}.{DURABLE} _INBOX.slow.1");
    let pulling = ["SUB _INBOX.slow.1 1".into(), format!("{next} {}\r\n{wanted}", wanted.len())];
    let _stuck_durable = nats(shared, "slow-durable", &pulling);
    let stuck_core = nats(shared, "slow-core", &["SUB taffrail.default.evt.> 1".into()]);
    let mut last = 0;
    for n in (1..TASKS).step_by(50) {
        let items: Vec<_> = (n..n + 50).map(task).collect();
        let (status, outcome) = api.post("/v1/tasks/batch", &json!({ "items": items })).await;
        assert_eq!(status, 200, "{outcome}");
        last = outcome["position"].as_u64().unwrap();
    }

    let started = Instant::now();
    let mut left = vec!["HTTP", "slow-durable", "slow-core"];
    while !left.is_empty() {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(30), "{left:?} still there after {waited:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        if figure(&api, "taffrail_http_stalled_total").await >= dropped + 3.0 {
            left.retain(|name| *name != "HTTP");
        }
        for name in ["slow-durable", "slow-core"] {
            let Some(reason) = closed(shared, name).await else { continue };
            assert!(reason.starts_with("Slow Consumer"), "{name}: {reason}");
            left.retain(|left| *left != name);
        }
    }

    // What reached a subscriber before the cut counts; the rest comes to whoever asks on.
    spawn_blocking(move || {
        let seen = of_sse(stuck_sse, |_| false);
        let from = seen.last().copied().unwrap_or(after);
        whole(&seen, &of_sse(sse(&api, from), |id| id >= last));
        let seen = of_websocket(stuck_ws, |_| false);
        let from = seen.last().copied().unwrap_or(after);
        whole(&seen, &of_websocket(websocket(&api, from, "task.submitted"), |id| id >= last));
    })
    .await
    .unwrap();
    // Nothing was acknowledged, so the durable consumer brings everything once more.
    positions(durable, after, last).await;
    events.delete_consumer(DURABLE).await.unwrap();
    let seen = spawn_blocking(move || of_nats(stuck_core)).await.unwrap();
    assert!(seen.len() < TASKS && seen.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    let from = seen.last().copied().unwrap_or(after);
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from + 1 },
        ..by_position(AckPolicy::None)
    };
    let resumed = positions(events.create_consumer(config).await.unwrap(), from, last).await;
    assert_eq!(resumed.first(), Some(&(from + 1)));
}
