//! W1b: the commands of W1a through a wire: HTTP/1.1 keep-alive, NATS request, and durable
//! NATS commands whose outcome comes to an inbox after the commit.

use ::commands::Ids;
use anyhow::{Context as _, bail};
use async_nats::{HeaderMap, Request, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use crate::cell::{Cell, Context, Params};
use crate::commands::{submit_body, tenant, update_body};
use crate::http::Connection;
use crate::load::{Client, Reply, Samples, closed};
use crate::nats::PATIENCE;

/// Commands per stream where streams are changed.
const PER_STREAM: u32 = 8;
/// Clients that share a connection to NATS.
const PER_CONNECTION: usize = 64;

/// The cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (clients, work) in [(64, Work::Streams), (256, Work::Streams), (64, Work::Submits)] {
        let params = Params::default()
            .with("via", "http")
            .with("clients", clients)
            .with("work", work.as_str());
        let cell = Cell::new("http", "W1b", params, move |context| http(context, clients, work))
            .counted(&["submit", "update"])
            .limit("axum GET mem conns=32 (client on the same cores)");
        let is_main = clients == 64 && work == Work::Streams;
        cells.push(if is_main { cell.main() } else { cell });
    }
    for via in [Via::Request, Via::Durable] {
        for clients in [64, 256] {
            let params = Params::default()
                .with("via", via.as_str())
                .with("clients", clients)
                .with("work", Work::Streams.as_str());
            let cell = Cell::new("nats", "W1b", params, move |context| nats(context, clients, via))
                .counted(&["submit", "update"]);
            let cell = match via {
                Via::Request => cell,
                Via::Durable => cell.limit("sync=default publish async, acks in flight=1024"),
            };
            cells.push(if clients == 256 { cell.main() } else { cell });
        }
    }
    cells
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// W1a's streams: a task submitted, then changed seven times.
    Streams,
    /// Tasks submitted and nothing else.
    Submits,
}

impl Work {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "submit+7 updates",
            Self::Submits => "submit",
        }
    }

    const fn per_stream(self) -> u32 {
        match self {
            Self::Streams => PER_STREAM,
            Self::Submits => 1,
        }
    }
}

/// A way over NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// `req`: core request and reply.
    Request,
    /// `cmd`: JetStream; acknowledged to it after the commit.
    Durable,
}

impl Via {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "req",
            Self::Durable => "cmd",
        }
    }
}

async fn http(context: Context, clients: usize, work: Work) -> anyhow::Result<Samples> {
    let target = &context.target;
    let connections = Connection::several(&target.http, &target.token, clients).await?;
    let clients = connections.into_iter().zip(0u64..).map(|(connection, n)| Poster {
        connection,
        per_stream: work.per_stream(),
        n: n << 32,
        path: String::new(),
        step: 0,
    });
    closed(&context.budget, clients.collect()).await
}

struct Poster {
    connection: Connection,
    per_stream: u32,
    n: u64,
    path: String,
    step: u32,
}

impl Client for Poster {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.n += 1;
        let answer = if self.step == 0 {
            self.connection.send(Method::POST, "/v1/tasks", &[], submit_body(self.n)).await?
        } else {
            self.connection.send(Method::PATCH, &self.path, &[], update_body(self.n)).await?
        };
        match answer.status {
            StatusCode::CREATED => {
                let location = answer.headers.get("location").context("no Location")?;
                self.path = location.to_str()?.to_owned();
            }
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                return Ok(Reply::busy());
            }
            status => bail!("{status}: {}", String::from_utf8_lossy(&answer.body)),
        }
        self.step = (self.step + 1) % self.per_stream;
        Ok(Reply::command())
    }
}

async fn nats(context: Context, clients: usize, via: Via) -> anyhow::Result<Samples> {
    let mut all = Vec::with_capacity(clients);
    let mut connection = None;
    for n in 0..clients {
        let nats = match (&connection, n % PER_CONNECTION) {
            (None, _) | (Some(_), 0) => connection.insert(context.target.nats().await?).clone(),
            (Some(nats), _) => nats.clone(),
        };
        let inbox = match via {
            Via::Request => None,
            Via::Durable => {
                let inbox = nats.new_inbox();
                Some((nats.subscribe(inbox.clone()).await?, inbox))
            }
        };
        all.push(Sender { nats, inbox, n: (n as u64) << 32, stream: Ids.fresh(), step: 0 });
    }
    // A subscription that the server does not know yet hears nothing.
    if let Some(nats) = &connection {
        for sender in &all {
            sender.nats.flush().await?;
        }
        nats.flush().await?;
    }
    closed(&context.budget, all).await
}

struct Sender {
    nats: async_nats::Client,
    inbox: Option<(Subscriber, String)>,
    n: u64,
    stream: Uuid,
    step: u32,
}

impl Sender {
    /// The reply to one command; `None` for an answer to an earlier one.
    async fn ask(&mut self, command: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let (tenant, stream) = (tenant(), self.stream);
        let Some((answers, inbox)) = &mut self.inbox else {
            let subject = format!("taffrail.{tenant}.req.task.{stream}.{command}");
            let request = Request::new().payload(body).timeout(Some(PATIENCE));
            return Ok(self.nats.send_request(subject, request).await?.payload);
        };
        let subject = format!("taffrail.{tenant}.cmd.task.{stream}.{command}");
        let id = Ids.fresh().to_string();
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", id.as_str());
        headers.insert("Taffrail-Reply-To", inbox.as_str());
        self.nats.publish_with_headers(subject, headers, body).await?;
        loop {
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
            let answer = answer.context("no outcome in time")?.context("the inbox ended")?;
            // An answer that comes after its time was given up belongs to nobody.
            if serde_json::from_slice::<Brief<'_>>(&answer.payload)?.command_id == id {
                return Ok(answer.payload);
            }
        }
    }
}

/// As much of an outcome as a generator reads.
#[derive(Deserialize)]
struct Brief<'a> {
    status: &'a str,
    command_id: &'a str,
}

impl Client for Sender {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        self.n += 1;
        let answer = if self.step == 0 {
            self.stream = Ids.fresh();
            self.ask("submit", submit_body(self.n)).await
        } else {
            self.ask("update", update_body(self.n)).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // Whether the stream went on is not known: begin another.
                self.step = 0;
                return Err(error);
            }
        };
        match serde_json::from_slice::<Brief<'_>>(&answer)?.status {
            "accepted" => {
                self.step = (self.step + 1) % PER_STREAM;
                Ok(Reply::command())
            }
            "busy" => Ok(Reply::busy()),
            _ => bail!("{}", String::from_utf8_lossy(&answer)),
        }
    }
}
