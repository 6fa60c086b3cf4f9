//! Consumers that ask for events and never read what comes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::http::Connection;
use crate::target::Target;

/// What a stuck client's own end takes in: little, so that it is stuck at once.
const ROOM: u32 = 4_096;
/// Between two looks at who is still there.
const LOOK: Duration = Duration::from_millis(250);
/// How long the server may take to know a new token, or a new stream.
const SOON: Duration = Duration::from_secs(15);

/// A second principal: one alone may not hold as many streams.
pub struct TokenOfOurOwn(String);

impl TokenOfOurOwn {
    /// Makes one and waits until the server takes it.
    pub async fn make(target: &Target) -> anyhow::Result<Self> {
        let token = format!("{}-other", target.token);
        let sql = "INSERT INTO api_tokens (digest, tenant, principal, role)
                   VALUES (sha256($1), 'default', 'other', 'admin')";
        target.database().await?.execute(sql, &[&token.as_bytes()]).await?;
        let began = Instant::now();
        while Connection::open(&target.http, &token).await?.get("/v1/tasks").await.is_err() {
            if began.elapsed() > SOON {
                bail!("the second token is not taken");
            }
            sleep(LOOK).await;
        }
        Ok(Self(token))
    }
}

/// All of them; dropped, they hang up.
pub struct Stuck {
    since: Instant,
    /// What `/metrics` counted before.
    dropped: u64,
    clients: usize,
    durable: String,
    _sockets: Vec<TcpStream>,
}

impl Stuck {
    /// Connects so many of each kind, and one durable consumer from the first event on.
    pub async fn connect(
        target: &Target,
        other: &TokenOfOurOwn,
        clients: usize,
        turn: usize,
    ) -> anyhow::Result<Self> {
        let (dropped, since) = (stalled(target).await?, Instant::now());
        let mut sockets = Vec::with_capacity(2 * clients + 1);
        for _ in 0..clients {
            sockets.push(sse(target, &target.token).await?);
            sockets.push(websocket(target, &other.0).await?);
        }
        let durable = format!("stuck-{turn}");
        sockets.push(nats(target, &durable).await?);
        let open = async || figure(target, "taffrail_http_streams").await;
        while open().await? < 2 * clients as u64 {
            if since.elapsed() > SOON {
                bail!("only {} streams are open", open().await?);
            }
            sleep(LOOK).await;
        }
        Ok(Self { since, dropped, clients, durable, _sockets: sockets })
    }

    /// Waits until the servers have dropped all of them; how long that took since they began.
    pub async fn gone(self, target: &Target, patience: Duration) -> anyhow::Result<Duration> {
        let mut cut = false;
        loop {
            let dropped = stalled(target).await? - self.dropped;
            cut = cut || is_cut(target, &self.durable).await?;
            if cut && dropped >= 2 * self.clients as u64 {
                return Ok(self.since.elapsed());
            }
            if self.since.elapsed() > patience {
                bail!("{dropped} dropped after {patience:?}; the durable consumer's: {cut}");
            }
            sleep(LOOK).await;
        }
    }
}

async fn stalled(target: &Target) -> anyhow::Result<u64> {
    figure(target, "taffrail_http_stalled_total").await
}

async fn figure(target: &Target, name: &str) -> anyhow::Result<u64> {
    let page = Connection::open(&target.http, "").await?.get("/metrics").await?;
    let text = String::from_utf8_lossy(&page);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.parse()?)
}

async fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(ROOM)?;
    Ok(socket.connect(address.parse()?).await?)
}

async fn request(
    target: &Target,
    token: &str,
    path: &str,
    more: &str,
) -> anyhow::Result<TcpStream> {
    let mut socket = connect(&target.http).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n{more}\r\n",
        target.http
    );
    socket.write_all(head.as_bytes()).await?;
    Ok(socket)
}

async fn sse(target: &Target, token: &str) -> anyhow::Result<TcpStream> {
    request(target, token, "/v1/events/stream", "").await
}

async fn websocket(target: &Target, token: &str) -> anyhow::Result<TcpStream> {
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = request(target, token, "/v1/ws", upgrade).await?;
    let text = br#"{"subscribe":{}}"#;
    // One short text frame; a mask of zeros leaves it as it is (RFC 6455, 5.3).
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    socket.write_all(&frame).await?;
    Ok(socket)
}

/// A connection of this name that pulls for a durable consumer of the same name.
async fn nats(target: &Target, name: &str) -> anyhow::Result<TcpStream> {
    let jetstream = jetstream::new(target.nats().await?);
    let config = pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let stream = broker::streams::EVENTS;
    jetstream.create_consumer_on_stream(config, stream).await?;
    let address = target.nats_url.rsplit('/').next().unwrap_or_default();
    let mut socket = connect(address).await?;
    let hello = json!({
        "verbose": false, "headers": true, "name": name, "auth_token": target.nats_token,
    });
    let wanted = json!({ "batch": 1_000_000, "expires": 300_000_000_000_u64 }).to_string();
    let words = format!(
        "CONNECT {hello}\r\nSUB _INBOX.{name} 1\r\n\
         PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{name} _INBOX.{name} {}\r\n{wanted}\r\n",
        wanted.len()
    );
    socket.write_all(words.as_bytes()).await?;
    Ok(socket)
}

/// The part of nats-server's ports file and of its `/connz` that matters here.
#[derive(Deserialize)]
struct Ports {
    monitoring: Vec<String>,
}

#[derive(Deserialize)]
struct Connections {
    connections: Vec<Closed>,
}

#[derive(Deserialize)]
struct Closed {
    #[serde(default)]
    name: String,
}

/// Whether nats-server has closed the connection of this name.
async fn is_cut(target: &Target, name: &str) -> anyhow::Result<bool> {
    let pid = target.nats_pid.context("nats-server's pid")?;
    let file = target.folder.join(format!("run/nats-server_{pid}.ports"));
    let ports: Ports = serde_json::from_slice(&std::fs::read(file)?)?;
    let address = ports.monitoring.first().and_then(|url| url.strip_prefix("http://"));
    let mut page = Connection::open(address.context("no monitoring page")?, "").await?;
    let closed = page.get("/connz?state=closed&limit=10000").await?;
    let closed: Connections = serde_json::from_slice(&closed)?;
    Ok(closed.connections.iter().any(|connection| connection.name == name))
}
