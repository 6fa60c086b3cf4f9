//! `GET /v1/ws`: events, acknowledgements and commands over one connection, and all that an
//! agent says.
//!
//! The client sends `{"subscribe": {…}}`, `{"ack": position}` or `{"command": {…}}`, each
//! as one text frame; it gets `{"subscribed"}`, `{"event"}`, `{"reset"}`, `{"outcome"}`
//! and `{"problem"}`. An agent's frames are `domain::frame`'s. Both ways are bounded: commands beyond the window wait unread, and
//! events wait for the peer to read and, where it asked so, to acknowledge.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use domain::frame::{Attach, ClaimFrame};
use domain::{Code, Json, Problem};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_util::sync::CancellationToken;

use super::cursor;
use super::filter::StreamFilter;
use super::outbox::{Outbox, write};
use super::stream::{Live, Next};
use crate::agent::AgentLine;
use crate::app::{App, StreamSlot};
use crate::auth::Caller;
use crate::batch::BatchCommand;
use crate::body::MAX_BODY;
use crate::error::{ApiError, ApiResult};
use crate::layer::Asked;
use crate::query::{NoParams, Params};
use crate::trace::Trace;

/// Commands under way at once.
const COMMANDS: usize = 64;
/// How often the peer is asked for a sign of life.
const PING: Duration = Duration::from_secs(10);
/// A peer that says nothing for so long, not even a pong, is gone or does not read: one that
/// has stopped is dropped within 30 s, however little there is to send (reliability R20).
const SILENCE: Duration = Duration::from_secs(25);
/// Bad messages after which the connection is closed.
const MAX_FAULTS: u32 = 100;

/// What a client may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Said {
    /// Events from behind a place; replaces the subscription before it.
    Subscribe(Subscribe),
    /// Everything up to this position was dealt with.
    Ack(u64),
    /// A command; its outcome comes when it is decided.
    Command(Box<BatchCommand>),
    /// From now on this connection speaks for an agent (`domain::frame`), and so on.
    Attach(Attach),
    Claim(ClaimFrame),
    GiveUp(u64),
    Heartbeat(Json),
    Log(Json),
    Here(u64),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    /// A position, or `<position>.<epoch>`; absent: from now on.
    #[serde(default)]
    after: Option<Place>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    stream: Option<String>,
    /// Most events sent beyond the last acknowledged one; absent: no limit but the peer's reading.
    #[serde(default)]
    window: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Place {
    Position(u64),
    Text(String),
}

/// Opens a WebSocket; the token goes into the `Authorization` header, never into the URL.
#[utoipa::path(get, path = "/ws", tag = "events", responses(
    (status = 101, description = "The protocol changes to WebSocket"),
    (status = "4XX", response = crate::openapi::Refused),
))]
pub async fn websocket(
    State(app): State<App>,
    caller: Caller,
    asked: Asked,
    Params(NoParams {}): Params<NoParams>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult {
    let upgrade = upgrade
        .map_err(|rejection| ApiError::new(Code::InvalidParameter, rejection.body_text()))?;
    check_origin(&headers)?;
    let slot = Arc::new(app.stream_slot(&caller)?);
    let upgrade = upgrade.max_message_size(MAX_BODY).max_frame_size(MAX_BODY);
    let session = Session::new(app, caller, asked.0.trace, slot);
    Ok(upgrade.on_upgrade(move |socket| session.run(socket)))
}

/// A browser names the page that connects; pages of other sites are refused.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(ApiError::new(Code::Forbidden, "pages of another origin may not connect")),
    }
}

struct Session {
    app: App,
    caller: Caller,
    trace: Trace,
    slot: Arc<StreamSlot>,
    /// How far the peer has acknowledged the present subscription.
    acked: watch::Sender<u64>,
    commands: Arc<Semaphore>,
    agent: AgentLine,
    /// Ends the present subscription.
    subscription: CancellationToken,
    /// Hands the present subscription's events over.
    pushing: Option<JoinHandle<()>>,
    faults: u32,
}

impl Session {
    fn new(app: App, caller: Caller, trace: Trace, slot: Arc<StreamSlot>) -> Self {
        Self {
            agent: AgentLine::new(app.clone(), caller.clone()),
            app,
            caller,
            trace,
            slot,
            acked: watch::Sender::new(0),
            commands: Arc::new(Semaphore::new(COMMANDS)),
            subscription: CancellationToken::new(),
            pushing: None,
            faults: 0,
        }
    }

    async fn run(mut self, socket: WebSocket) {
        let (mut sink, mut stream) = socket.split();
        let (outbox, mut queued) = Outbox::new();
        // The connection itself gives up on a peer that does not read.
        let mut writer = tokio::spawn(async move {
            let mut broken = false;
            while let Some(queued_now) = queued.recv().await {
                match write(&mut sink, queued_now, &mut queued).await {
                    Ok(false) => {}
                    ended => {
                        broken = ended.is_err();
                        break;
                    }
                }
            }
            // Answers the peer's close, where it sent one (RFC 6455, 5.5.1).
            let _ = sink.close().await;
            broken
        });
        let closing = self.app.closing.clone();
        let mut ping = tokio::time::interval(PING);
        let mut heard = tokio::time::Instant::now();
        let mut silent = false;
        let reason = loop {
            let message = tokio::select! {
                () = closing.cancelled() => break Some((1001, "the server is leaving")),
                () = outbox.closed() => break None,
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    silent = true;
                    break Some((1011, "nothing was heard for 25 s"));
                }
                _ = ping.tick() => {
                    if !self.app.doors.tokens.holds(&self.caller.digest) {
                        break Some((4401, "the token is not valid any more"));
                    }
                    // A full outbox needs no ping: there is something to read.
                    outbox.try_send(Message::Ping(Default::default()));
                    continue;
                }
                message = stream.next() => message,
            };
            let answer = match message {
                Some(Ok(Message::Text(text))) => self.hear(text.as_bytes(), &outbox).await,
                Some(Ok(Message::Binary(_))) => {
                    Err(Problem::new(Code::InvalidBody, "messages are JSON in text frames"))
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_))) | None => break None,
                Some(Err(error)) => break breach(error),
            };
            if let Err(problem) = answer {
                self.faults += 1;
                let text = json!({ "problem": problem }).to_string();
                if outbox.send(Message::text(text)).await.is_err() {
                    break None;
                }
                if self.faults >= MAX_FAULTS {
                    break Some((1008, "too many bad messages"));
                }
            }
            // Not before: while a command waits for room here, the peer's words wait unread.
            heard = tokio::time::Instant::now();
        };
        self.subscription.cancel();
        if let Some((code, reason)) = reason {
            let frame = CloseFrame { code, reason: reason.into() };
            let close = outbox.send(Message::Close(Some(frame)));
            let _ = tokio::time::timeout(Duration::from_secs(1), close).await;
        }
        drop(outbox);
        let written = tokio::time::timeout(Duration::from_secs(2), &mut writer).await;
        // A peer that does not read would hold the writer, and with it the connection.
        writer.abort();
        // Where writing failed the connection was given up before, and counted there.
        if silent && !matches!(written, Ok(Ok(true))) {
            self.app.figures.stalled.add(1);
        }
    }

    async fn hear(&mut self, text: &[u8], outbox: &Outbox) -> Result<(), Problem> {
        let said = domain::json::read(text).map_err(|fault| Problem::invalid(vec![fault]))?;
        match said {
            Said::Subscribe(wanted) => {
                let subscribed = self.subscribe(wanted, outbox).await;
                subscribed.map_err(|refusal| {
                    if let Some(cause) = refusal.cause() {
                        tracing::warn!(cause, trace_id = self.trace.trace_id(), "no subscription");
                    }
                    refusal.problem().clone()
                })
            }
            Said::Ack(position) => {
                self.acked.send_if_modified(|known| {
                    let grown = position > *known;
                    *known = position.max(*known);
                    grown
                });
                Ok(())
            }
            Said::Command(command) => {
                // The next message is not read before there is room for its command.
                let Ok(room) = self.commands.clone().acquire_owned().await else { return Ok(()) };
                let (app, caller) = (self.app.clone(), self.agent.caller());
                let (trace, outbox) = (self.trace, outbox.clone());
                self.app.tracker.spawn(async move {
                    let outcome = crate::batch::execute(&app, &caller, &trace, *command).await;
                    let text = json!({ "outcome": outcome }).to_string();
                    let _ = outbox.send(Message::text(text)).await;
                    drop(room);
                });
                Ok(())
            }
            Said::Attach(attach) => self.agent.attach(attach, outbox).await,
            Said::Claim(claim) => self.agent.claim(claim, outbox).await,
            Said::GiveUp(reference) => {
                self.agent.give_up(reference);
                Ok(())
            }
            Said::Heartbeat(body) => self.agent.heartbeat(body).await,
            Said::Log(line) => self.agent.log(line).await,
            Said::Here(number) => {
                self.agent.here(number).await;
                Ok(())
            }
        }
    }

    async fn subscribe(&mut self, wanted: Subscribe, outbox: &Outbox) -> Result<(), ApiError> {
        let types = (!wanted.types.is_empty()).then(|| wanted.types.join(","));
        let filter = StreamFilter::read(types.as_deref(), wanted.stream.as_deref())?;
        let place = match wanted.after {
            None => None,
            Some(Place::Position(position)) => Some(position.to_string()),
            Some(Place::Text(text)) => Some(text),
        };
        let place = cursor::of_request(&HeaderMap::new(), place.as_deref())?;
        let live = Live::open(&self.app, &self.caller, self.slot.clone(), filter, place).await?;
        // The old subscription says nothing more once the new one is answered.
        self.subscription.cancel();
        if let Some(pushing) = self.pushing.take() {
            let _ = pushing.await;
        }
        self.subscription = CancellationToken::new();
        let (after, epoch) = (live.start.after, live.start.epoch);
        let word = if live.start.reset { "reset" } else { "subscribed" };
        let text = json!({ word: { "position": after, "epoch": epoch } }).to_string();
        self.acked = watch::Sender::new(after);
        let push = push(live, text, outbox.clone(), self.acked.subscribe(), wanted.window);
        let ended = self.subscription.clone();
        self.pushing = Some(tokio::spawn(async move {
            // Nothing that is cut short here holds a query; see `Live::next`.
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = push => {}
            }
        }));
        Ok(())
    }
}

/// How the connection of a peer is closed that broke the protocol (RFC 6455, 7.4.1);
/// nothing can be said to one that is gone.
fn breach(error: axum::Error) -> Option<(u16, &'static str)> {
    let error = error.into_inner();
    let breach = error.downcast_ref::<WsError>()?;
    if matches!(breach, WsError::Protocol(_)) {
        return Some((1002, "the frame breaks the protocol"));
    }
    if matches!(breach, WsError::Utf8(_)) {
        return Some((1007, "text is UTF-8"));
    }
    matches!(breach, WsError::Capacity(_)).then_some((1009, "a message may have at most 1 MiB"))
}

/// Hands a subscription's events over, at the pace of the peer.
async fn push(
    mut live: Live,
    hello: String,
    outbox: Outbox,
    mut acked: watch::Receiver<u64>,
    window: Option<u32>,
) {
    if outbox.send(Message::text(hello)).await.is_err() {
        return;
    }
    let mut unacked = std::collections::VecDeque::new();
    loop {
        let page = match live.next().await {
            Next::Events(page) => page,
            Next::KeepAlive => continue,
            Next::Broken => {
                let detail = "the log could not be read; subscribe again at your position";
                let text = json!({ "problem": Problem::new(Code::Unavailable, detail) });
                let _ = outbox.send(Message::text(text.to_string())).await;
                return;
            }
            // The session notices these itself and says good-bye.
            Next::Closing | Next::Revoked => return,
        };
        for frame in &page.frames {
            if let Some(window) = window {
                while unacked.len() >= window.max(1) as usize {
                    let done = *acked.borrow_and_update();
                    while unacked.front().is_some_and(|position| *position <= done) {
                        unacked.pop_front();
                    }
                    if unacked.len() >= window.max(1) as usize && acked.changed().await.is_err() {
                        return;
                    }
                }
                unacked.push_back(frame.event.position);
            }
            if outbox.send(Message::Text(frame.ws().clone())).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_our_own_origin_connect() {
        let with = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:7117".parse().expect("header"));
            headers.insert(header::ORIGIN, origin.parse().expect("header"));
            headers
        };
        assert!(check_origin(&HeaderMap::new()).is_ok());
        assert!(check_origin(&with("http://127.0.0.1:7117")).is_ok());
        for bad in ["null", "http://evil.example", "http://127.0.0.1:7117.evil.example", "x"] {
            assert!(check_origin(&with(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_read_strictly() {
        let read = |text: &str| domain::json::read::<Said>(text.as_bytes());
        assert!(matches!(read(r#"{"ack":7}"#), Ok(Said::Ack(7))));
        assert!(matches!(read(r#"{"subscribe":{"after":"7.2"}}"#), Ok(Said::Subscribe(_))));
        assert!(read(r#"{"subscribe":{"afer":1}}"#).is_err());
        assert!(read(r#"{"shout":1}"#).is_err());
    }

    #[test]
    fn every_frame_of_an_agent_is_understood() {
        use domain::frame::{CommandFrame, FromAgent, Listen};
        let agent = domain::AgentId::nth(1);
        let claim = domain::task::ClaimTasks { start: true, ..domain::task::ClaimTasks::by(agent) };
        let frames = [
            FromAgent::Attach(Attach { agent, listen: vec![Listen::Tasks], ask: true }),
            FromAgent::Command(CommandFrame {
                kind: domain::StreamType::Agent,
                id: agent.0,
                command: "mark_ready".into(),
                command_id: agent.0,
                body: Json::null(),
                traceparent: Some("00-1-2-01".into()),
            }),
            FromAgent::Claim(ClaimFrame::of(1, "default", &claim)),
            FromAgent::GiveUp(1),
            FromAgent::Heartbeat(Json::null()),
            FromAgent::Log(Json::null()),
            FromAgent::Here(1),
        ];
        for frame in frames {
            let text = serde_json::to_vec(&frame).expect("JSON");
            domain::json::read::<Said>(&text)
                .unwrap_or_else(|fault| panic!("{frame:?}: {fault:?}"));
        }
    }
}
