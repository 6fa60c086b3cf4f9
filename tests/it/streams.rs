//! Event streams over HTTP: server-sent events and WebSocket, against the whole product.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::http::{Api, header, queue};

/// One frame of server-sent events.
#[derive(Debug, Clone, PartialEq)]
struct Frame {
    id: String,
    event: String,
    data: Value,
}

/// Reads frames until they are enough.
async fn frames(answer: Response, enough: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
    assert_eq!(header(&answer, "content-type"), "text/event-stream");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "x-accel-buffering"), "no");
    let read = async {
        let (mut text, mut found) = (String::new(), Vec::new());
        let mut chunks = answer.bytes_stream();
        while !enough(&found) {
            text.push_str(std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
            while let Some((frame, rest)) = text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = frame.lines().find_map(|line| line.strip_prefix(name));
                    line.map(str::to_owned)
                };
                if let Some(data) = field("data: ") {
                    found.push(Frame {
                        id: field("id: ").unwrap(),
                        event: field("event: ").unwrap(),
                        data: serde_json::from_str(&data).unwrap(),
                    });
                }
                text = rest.to_owned();
            }
        }
        found
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap()
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off_with_no_gap_and_no_double() {
    let api = Api::new().await;
    let queue = queue();
    let first = api.submit(json!({ "title": "0", "queue": queue })).await;
    let before = first["position"].as_u64().unwrap() - 1;
    for n in 1..10 {
        api.submit(json!({ "title": format!("{n}"), "queue": queue })).await;
    }
    // Other tests submit tasks, too: ours are told by their queue.
    let mine = |frames: &[Frame]| -> Vec<Frame> {
        frames.iter().filter(|frame| frame.data["data"]["queue"] == queue).cloned().collect()
    };
    let path = format!("/v1/events/stream?after={before}&type=task.submitted");
    let stream = api.ask(Method::GET, &path).send().await.unwrap();
    let mut seen = frames(stream, |found| mine(found).len() >= 5).await;
    seen.truncate(seen.len() - 1);
    let last = seen.last().unwrap().id.clone();
    let resumed = api.ask(Method::GET, &path).header("last-event-id", &last);
    let resumed = resumed.send().await.unwrap();
    for n in 10..20 {
        api.submit(json!({ "title": format!("{n}"), "queue": queue })).await;
    }
    let known = mine(&seen).len();
    seen.extend(frames(resumed, |found| mine(found).len() + known >= 20).await);
    let all = api.ask(Method::GET, &path).send().await.unwrap();
    let all = frames(all, |found| mine(found).len() >= 20).await;
    let common = seen.len().min(all.len());
    assert_eq!(seen[..common], all[..common], "two subscribers saw different events");
    let seen = mine(&seen);
    let titles: Vec<_> = seen.iter().map(|frame| frame.data["data"]["title"].clone()).collect();
    let expected: Vec<_> = (0..titles.len()).map(|n| json!(n.to_string())).collect();
    assert_eq!(titles, expected);
    let frame = &seen[0];
    assert_eq!(frame.event, "dev.taffrail.task.submitted.v1");
    assert_eq!(frame.data["sequence"], format!("{:020}", frame.id.parse::<u64>().unwrap()));
}

#[tokio::test]
async fn a_place_beyond_the_head_is_reset_once() {
    let api = Api::new().await;
    let far = (i64::MAX - 1).to_string();
    let stream = api.ask(Method::GET, "/v1/events/stream").header("last-event-id", &far);
    let stream = stream.send().await.unwrap();
    let created = api.submit(json!({ "title": "after", "queue": queue() })).await;
    let found = frames(stream, |found| found.len() >= 2).await;
    assert_eq!(found[0].event, "reset");
    assert_ne!(found[1].event, "reset");
    let reset = found[0].data["position"].as_u64().unwrap();
    assert!(reset < created["position"].as_u64().unwrap());
    for bad in ["-1", "x", "18446744073709551616"] {
        let answer = api.ask(Method::GET, "/v1/events/stream").header("last-event-id", bad);
        assert_eq!(answer.send().await.unwrap().status(), 400, "{bad}");
    }
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(api: &Api, origin: Option<&str>) -> Result<Socket, WsError> {
    let url = format!("{}/v1/ws", api.product.http.replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {}", api.product.token);
    request.headers_mut().insert("authorization", token.parse().unwrap());
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

async fn hear(socket: &mut Socket, word: &str) -> Value {
    let heard = async {
        loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                let message: Value = serde_json::from_str(&text).unwrap();
                if let Some(found) = message.get(word) {
                    return found.clone();
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap()
}

#[tokio::test]
async fn a_websocket_takes_commands_and_hands_events_over() {
    use futures::SinkExt;
    let api = Api::new().await;
    let mut socket = connect(&api, None).await.unwrap();
    let say = |value: Value| Message::text(value.to_string());
    socket
        .send(say(json!({ "subscribe": { "types": ["task.submitted"], "window": 1 } })))
        .await
        .unwrap();
    hear(&mut socket, "subscribed").await;
    let queue = queue();
    let body = json!({ "title": "by socket", "queue": queue });
    socket.send(say(json!({ "command": { "command": "submit", "body": body } }))).await.unwrap();
    let outcome = hear(&mut socket, "outcome").await;
    assert_eq!(outcome["status"], "accepted");
    socket.send(say(json!({ "command": { "command": "submt" } }))).await.unwrap();
    assert_eq!(hear(&mut socket, "outcome").await["status"], "invalid");
    socket.send(say(json!({ "subscrib": {} }))).await.unwrap();
    let problem = hear(&mut socket, "problem").await;
    assert!(problem["type"].as_str().unwrap().ends_with("/invalid-body"));
    let mut other = connect(&api, None).await.unwrap();
    let after = outcome["position"].as_u64().unwrap() - 1;
    other.send(say(json!({ "subscribe": { "after": after } }))).await.unwrap();
    let event = hear(&mut other, "event").await;
    assert_eq!(
        (&event["data"]["queue"], &event["subject"]),
        (&json!(queue), &outcome["stream_id"])
    );
    let Err(WsError::Http(refused)) = connect(&api, Some("http://evil.example")).await else {
        panic!("a page of another origin came in")
    };
    assert_eq!(refused.status(), 403);
}

#[tokio::test]
async fn a_websocket_is_closed_with_the_reason() {
    use futures::SinkExt;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    let api = Api::new().await;
    let closed = |mut socket: Socket| async move {
        let heard = async {
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Close(frame) = message {
                    return frame.map(|frame| u16::from(frame.code));
                }
            }
            None
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap()
    };
    let frame = |bytes: &'static [u8], op| Message::Frame(Frame::message(bytes, op, true));
    for (what, message, code) in [
        ("no UTF-8", frame(b"\xff\xfe", OpCode::Data(Data::Text)), 1007),
        ("a continuation of nothing", frame(b"x", OpCode::Data(Data::Continue)), 1002),
    ] {
        let mut socket = connect(&api, None).await.unwrap();
        socket.send(message).await.unwrap();
        assert_eq!(closed(socket).await, Some(code), "{what}");
    }
    let mut socket = connect(&api, None).await.unwrap();
    socket.close(None).await.unwrap();
    // The handshake ends in order: the server answers the close with its own.
    let end = async {
        while let Some(heard) = socket.next().await {
            heard.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
}
