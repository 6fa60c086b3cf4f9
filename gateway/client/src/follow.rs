//! Following the log: one stream over any number of connections.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::http::answer;
use crate::sse::{Frame, Parser};
use crate::{Client, Error, EventFilter};

/// The server sends a comment every 15 s: three missed ones mean a dead connection.
const SILENCE: Duration = Duration::from_secs(45);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a followed stream gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// The next event.
    Event {
        /// The CloudEvent's type, or the stream's own word for it.
        kind: String,
        /// The event as JSON.
        event: Value,
    },
    /// The log is another one than before (a restore): it goes on from `position`.
    Reset {
        /// Where the stream goes on.
        position: Option<u64>,
    },
}

/// A stream that outlives its connections. Each item comes once and in order.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    last_id: Option<String>,
    connection: Option<(Response, Parser)>,
    ready: VecDeque<Frame>,
    pause: Duration,
    reached: bool,
}

impl Client {
    /// Follows the log's events from a position on.
    pub fn follow_events(&self, filter: &EventFilter) -> Follow {
        self.follow("v1/events/stream", filter.query())
    }

    /// Follows any stream of server-sent events.
    pub fn follow(&self, path: impl Into<String>, query: Vec<(&'static str, String)>) -> Follow {
        Follow {
            client: self.clone(),
            path: path.into(),
            query,
            last_id: None,
            connection: None,
            ready: VecDeque::new(),
            pause: FIRST_PAUSE,
            reached: false,
        }
    }
}

impl Follow {
    /// The next item; `None` when the server says that there will be none.
    ///
    /// Lost connections are made again from the last id. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the first connection fails, or a later one is refused for good.
    pub async fn next(&mut self) -> Result<Option<Followed>, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.last_id = frame.id.clone().or_else(|| self.last_id.take());
                return Ok(Some(followed(&frame)));
            }
            let Some((response, parser)) = &mut self.connection else {
                if !self.connect().await? {
                    return Ok(None);
                }
                continue;
            };
            match timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    let frames = parser.push(&bytes).map_err(|e| Error::FrameTooLong(e.0))?;
                    self.ready.extend(frames);
                    self.pause = FIRST_PAUSE;
                }
                Ok(Ok(None) | Err(_)) | Err(_) => {
                    let wish = parser.retry_ms().map(Duration::from_millis);
                    self.pause = wish.unwrap_or(self.pause).min(LONGEST_PAUSE);
                    self.connection = None;
                    sleep(self.pause).await;
                }
            }
        }
    }

    /// Makes the connection; `false` when there is nothing more to come.
    async fn connect(&mut self) -> Result<bool, Error> {
        let mut query = self.query.clone();
        let mut request = None;
        if let Some(id) = &self.last_id {
            // The header says it; both could contradict each other.
            query.retain(|(name, _)| *name != "after");
            request = Some(id.clone());
        }
        let mut builder = self
            .client
            .request(Method::GET, &self.path, &query)?
            .header("accept", "text/event-stream");
        if let Some(id) = request {
            builder = builder.header("last-event-id", id);
        }
        let url = self.client.base().to_owned();
        let outcome = match builder.send().await {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => return Ok(false),
            Ok(response) if response.status().is_success() => {
                self.connection = Some((response, Parser::default()));
                self.reached = true;
                return Ok(true);
            }
            Ok(response) => answer(url, response).await.map(|_| ()),
            Err(source) => Err(Error::Unreachable { url, source }),
        };
        match outcome {
            Err(error) if !(self.reached && error.retryable()) => Err(error),
            Ok(()) | Err(_) => {
                sleep(self.pause).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Ok(true)
            }
        }
    }
}

fn followed(frame: &Frame) -> Followed {
    let event = serde_json::from_str(&frame.data);
    let event = event.unwrap_or_else(|_| Value::String(frame.data.clone()));
    if frame.event == "reset" {
        let position = match &event {
            Value::Object(fields) => fields.get("position").and_then(Value::as_u64),
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) => None,
        };
        return Followed::Reset { position };
    }
    Followed::Event { kind: frame.event.clone(), event }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the next text and closes it; gives back the requests.
    async fn serve(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.unwrap());
                }
                seen.push(String::from_utf8(request).unwrap().to_lowercase());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        (base, seen)
    }

    fn stream(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn a_lost_connection_goes_on_behind_the_last_id_and_a_reset_is_told() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (base, seen) = serve(vec![
            stream("retry: 1\n\nid: 5\nevent: a\ndata: {\"n\":5}\n\nid: 6\ndata: {\"n\":"),
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(),
            stream("id: 6\nevent: a\ndata: {\"n\":6}\n\nid: 2.2\nevent: reset\ndata: {\"position\":2}\n\n"),
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".into(),
        ])
        .await;
        let client = Client::new(&base, Some("t")).unwrap();
        let filter = EventFilter { after: Some(4), kind: Some("a".into()), ..Default::default() };
        let mut follow = client.follow_events(&filter);
        let mut got = Vec::new();
        while let Some(item) = follow.next().await.unwrap() {
            got.push(item);
        }
        let event =
            |n: u64| Followed::Event { kind: "a".into(), event: serde_json::json!({ "n": n }) };
        assert_eq!(got, [event(5), event(6), Followed::Reset { position: Some(2) }]);
        let seen = seen.await.unwrap();
        assert!(seen[0].starts_with("get /v1/events/stream?after=4&type=a "), "{}", seen[0]);
        assert!(seen[0].contains("authorization: bearer t"));
        for (nth, id) in [(1, "5"), (2, "5"), (3, "2.2")] {
            assert!(seen[nth].contains(&format!("last-event-id: {id}\r\n")), "{}", seen[nth]);
            assert!(!seen[nth].contains("after="));
        }
    }

    #[tokio::test]
    async fn a_refused_first_connection_is_the_callers_to_know() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let body =
            r#"{"type":"https://taffrail.dev/errors/unauthorized","title":"t","status":401}"#;
        let answer = format!("HTTP/1.1 401 No\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (base, _seen) = serve(vec![answer]).await;
        let client = Client::new(&base, None).unwrap();
        let refused = client.follow_events(&EventFilter::default()).next().await.unwrap_err();
        assert_eq!(refused.status(), Some(401));
    }
}
