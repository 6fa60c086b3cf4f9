//! Every reader of ours, each with a way to see that it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::{Agent, Handler, Notice, Options, Verdict, Work};
use domain::{Json, StreamType};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::doors::{Door, Doors, Order, task};
use crate::history::Answer;
use crate::support::Api;
use crate::system::System;

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
/// The queue of the agent.
const AGENTS: &str = "agents";

/// Clients that have been there since before the fault: nobody restarts anything.
pub struct Readers {
    system: System,
    doors: Doors,
    /// The agent in whose name is claimed over HTTP.
    claimant: Uuid,
    /// Positions that the subscribers have come to.
    sse: Arc<AtomicU64>,
    websocket: Arc<AtomicU64>,
    /// Titles of the tasks that the agent did.
    done: Arc<Mutex<Vec<String>>>,
    /// When the agent said that it waits for the server.
    waits: Arc<Mutex<Vec<Instant>>>,
    _clients: Vec<AbortOnDropHandle<()>>,
}

/// How long each reader took.
pub type Times = Vec<(&'static str, Duration)>;

impl Readers {
    /// All readers on a fleet with one process per role, and at work.
    pub async fn start() -> Self {
        let system = System::fleet(1).await;
        let doors = system.doors().await;
        let (sse, websocket) = (Arc::default(), Arc::default());
        let (done, waits) = (Arc::default(), Arc::default());
        let api = doors.api(0).clone();
        let clients = vec![
            spawned(hear_sse(api.clone(), Arc::clone(&sse))),
            spawned(hear_websocket(api, Arc::clone(&websocket))),
            agent(&system, Arc::clone(&done), Arc::clone(&waits)).await,
        ];
        let body = json!({ "name": "claimant", "slots": 1000 });
        let id = Uuid::new_v4();
        let claimant = Order::new(Door::Request, StreamType::Agent, "register", body, id);
        let Answer::Accepted(claimant) = doors.send(&claimant, 0).await else {
            panic!("the claimant is not registered");
        };
        let claimant = claimant.stream_id;
        let readers =
            Self { system, doors, claimant, sse, websocket, done, waits, _clients: clients };
        readers.work(Instant::now(), Duration::from_secs(30)).await.unwrap();
        readers
    }

    pub fn system(&self) -> &System {
        &self.system
    }

    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Until each reader has dealt with something that came after `since`; the ones that
    /// have not within the patience are the error.
    pub async fn work(&self, since: Instant, patience: Duration) -> Result<Times, String> {
        let beyond = async |looked: &AtomicU64| {
            let position = self.accepted(Door::Request, "other").await;
            until(|| looked.load(Ordering::Relaxed) >= position).await;
        };
        let submitted = async |door| {
            self.accepted(door, "other").await;
        };
        let all: [(&'static str, BoxFuture<'_, ()>); 9] = [
            ("requests", Box::pin(submitted(Door::Request))),
            ("HTTP", Box::pin(submitted(Door::Http))),
            ("durable commands", Box::pin(submitted(Door::Durable))),
            ("relay", Box::pin(self.relayed())),
            ("read models", Box::pin(self.projected())),
            ("SSE", Box::pin(beyond(&self.sse))),
            ("WebSocket", Box::pin(beyond(&self.websocket))),
            ("managers", Box::pin(self.claimed())),
            ("agent", Box::pin(self.worked())),
        ];
        let all = all.map(|(name, work)| async move {
            let left = patience.saturating_sub(since.elapsed());
            timeout(left, work).await.map(|()| (name, since.elapsed())).map_err(|_| name)
        });
        let all = futures::future::join_all(all).await;
        let late: Vec<_> = all.iter().filter_map(|one| one.as_ref().err()).collect();
        if late.is_empty() {
            return Ok(all.into_iter().flatten().collect());
        }
        Err(format!("{late:?} not within {patience:?}"))
    }

    /// When each process said one of these words in its log, and the agent that it waits.
    pub async fn notice(
        &self,
        since: Instant,
        words: &[(&'static str, &str)],
        agent: bool,
        before: &[String],
        patience: Duration,
    ) -> Result<Times, String> {
        let mut seen = Times::new();
        loop {
            for (slot, before) in self.system.slots.iter().zip(before) {
                let log = slot.log();
                let said = |(role, word): &(&str, &str)| {
                    *role == slot.role && log[before.len()..].contains(word)
                };
                if !seen.iter().any(|(role, _)| *role == slot.role) && words.iter().any(said) {
                    seen.push((slot.role, since.elapsed()));
                }
            }
            let told = self.waits.lock().iter().find(|at| **at > since).copied();
            if let Some(at) = told.filter(|_| !seen.iter().any(|(role, _)| *role == "agent")) {
                seen.push(("agent", at - since));
            }
            let wanted = words.iter().map(|(role, _)| *role).chain(agent.then_some("agent"));
            let missing: Vec<_> =
                wanted.filter(|role| !seen.iter().any(|(seen, _)| seen == role)).collect();
            if missing.is_empty() {
                return Ok(seen);
            }
            if since.elapsed() > patience {
                return Err(format!("{missing:?} said nothing within {patience:?}"));
            }
            sleep(STEP).await;
        }
    }

    /// What each process has logged so far.
    pub fn logs(&self) -> Vec<String> {
        self.system.slots.iter().map(crate::system::Slot::log).collect()
    }

    /// Submits a task, again and again, until it is accepted; its position.
    async fn accepted(&self, door: Door, queue: &str) -> u64 {
        self.submitted(door, queue, "a probe").await
    }

    async fn submitted(&self, door: Door, queue: &str, title: &str) -> u64 {
        let id = Uuid::new_v4();
        let order = Order::new(door, StreamType::Task, "submit", task(queue, title), id);
        loop {
            if let Answer::Accepted(done) = self.doors.send(&order, 0).await {
                return done.position;
            }
            sleep(STEP).await;
        }
    }

    async fn relayed(&self) {
        let position = self.accepted(Door::Request, "other").await;
        let jetstream = async_nats::jetstream::new(self.doors.nats.clone());
        loop {
            let looked =
                timeout(Duration::from_secs(1), jetstream.get_stream(broker::streams::EVENTS));
            if let Ok(Ok(stream)) = looked.await
                && stream.cached_info().state.last_sequence >= position
            {
                return;
            }
            sleep(STEP).await;
        }
    }

    async fn projected(&self) {
        let position = self.accepted(Door::Request, "other").await;
        let checkpoints = "SELECT min(position) FROM read.checkpoints";
        loop {
            if let Some(client) = self.system.sql().await
                && let Ok(row) = client.query_one(checkpoints, &[]).await
                && row.get::<_, i64>(0) as u64 >= position
            {
                return;
            }
            sleep(STEP).await;
        }
    }

    /// A task of a queue of its own is given to a claim.
    async fn claimed(&self) {
        let queue = format!("claims-{}", Uuid::new_v4().simple());
        self.accepted(Door::Request, &queue).await;
        let claim = json!({ "agent_id": self.claimant, "max": 1, "wait_ms": 1000 });
        loop {
            let given = self.doors.claim(Door::Http, 0, &queue, &claim).await;
            if given.is_some_and(|tasks| !tasks.is_empty()) {
                return;
            }
            sleep(STEP).await;
        }
    }

    async fn worked(&self) {
        let title = Uuid::new_v4().to_string();
        self.submitted(Door::Request, AGENTS, &title).await;
        until(|| self.done.lock().contains(&title)).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(STEP).await;
    }
}

fn spawned(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// One connection for the whole test: it is not made anew.
async fn hear_sse(api: Api, heard: Arc<AtomicU64>) {
    let request = api.request(reqwest::Method::GET, "/v1/events/stream?after=0");
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let mut rest = Vec::new();
    while let Some(Ok(chunk)) = bytes.next().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(id) = line.strip_prefix("id: ") {
                heard.store(id.trim().parse().unwrap(), Ordering::Relaxed);
            }
        }
    }
    println!("the SSE connection ended");
}

/// The same over a WebSocket.
async fn hear_websocket(api: Api, heard: Arc<AtomicU64>) {
    let url = format!("{}/v1/ws", api.base.replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {}", api.token);
    request.headers_mut().insert("authorization", token.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let wanted = json!({ "subscribe": { "after": 0 } }).to_string();
    socket.send(Message::text(wanted)).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let said: Value = serde_json::from_str(&text).unwrap();
        if let Some(position) = said["event"]["sequence"].as_str() {
            heard.store(position.parse().unwrap(), Ordering::Relaxed);
        }
    }
    println!("the WebSocket ended");
}

/// Notes what it is given and is done.
struct Notes(Arc<Mutex<Vec<String>>>);

impl Handler for Notes {
    async fn handle(&self, work: Work) -> Verdict {
        self.0.lock().push(work.assignment().title.clone());
        Verdict::Done(Json::null())
    }
}

async fn agent(
    system: &System,
    done: Arc<Mutex<Vec<String>>>,
    waits: Arc<Mutex<Vec<Instant>>>,
) -> AbortOnDropHandle<()> {
    let (url, token) = system.nats();
    let options = Options { queues: vec![AGENTS.into()], ..Options::named("stalls") };
    let mut agent = Agent::connect(url, Some(token), options).await.unwrap();
    agent.on_notice(move |notice| {
        if matches!(notice, Notice::Waiting(_)) {
            waits.lock().push(Instant::now());
        }
    });
    spawned(async move {
        let ended = agent.run(Notes(done)).await;
        println!("the agent ended: {ended:?}");
    })
}
