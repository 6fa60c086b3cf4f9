//! One closed-loop client: an agent, its tasks, and what it repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::StreamType;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::doors::{Door, Doors, Order, PATIENCE, task};
use crate::history::{Answer, Attempt, Done, Entry, History, Leased, Read};

/// Every command has an outcome within this time, or the system does not live.
pub const LIVENESS: Duration = Duration::from_secs(60);
/// So many queues, so that clients get in one another's way.
const QUEUES: u32 = 4;

/// What all clients share.
pub struct Shared {
    pub doors: Doors,
    pub history: History,
    /// Faults so far: some repeats wait for the next one.
    pub faults: AtomicU64,
    /// The end of new commands; those under way are seen through.
    pub stop: CancellationToken,
    /// Commands that got no outcome in time.
    pub stuck: AtomicU64,
    /// Probes that nobody waits for any more; their outcomes are noted all the same.
    pub probes: Mutex<Vec<Probes>>,
}

/// Commands that are sent to see when one is acknowledged.
pub type Probes = JoinSet<Option<Duration>>;

impl Shared {
    /// How long everything may take to be level: a stream that was deleted is filled again
    /// from the first event on, and a build for tests is in no hurry.
    pub fn patience(&self) -> Duration {
        LIVENESS + Duration::from_millis(self.history.len() as u64)
    }

    /// Sends a command once and notes what came of it.
    pub async fn attempt(&self, client: usize, gateway: usize, order: &Order) -> Answer {
        let invoked = self.history.now();
        let answer = self.doors.send(order, gateway).await;
        self.history.note(Entry::Asked(Attempt {
            client,
            command_id: order.command_id,
            what: order.what(),
            invoked,
            completed: self.history.now(),
            answer: answer.clone(),
        }));
        answer
    }
}

/// A client and its dice.
pub struct Client {
    pub n: usize,
    pub shared: Arc<Shared>,
    pub dice: StdRng,
    door: Door,
    gateway: usize,
    commands: u64,
    agent: Option<Uuid>,
    /// Tasks of its own that nobody is known to have ended.
    open: Vec<Uuid>,
    /// Repeats that wait until so many faults have happened.
    later: Vec<(u64, Order)>,
    /// The newest position that it has seen.
    seen: u64,
}

impl Client {
    /// Half of the clients come over HTTP, a quarter each by request and durably.
    pub fn new(n: usize, shared: Arc<Shared>, dice: StdRng) -> Self {
        let door = match n % 4 {
            0 | 1 => Door::Http,
            2 => Door::Request,
            _ => Door::Durable,
        };
        let (open, later) = (Vec::new(), Vec::new());
        Self {
            n,
            shared,
            dice,
            door,
            gateway: n / 2,
            commands: 0,
            agent: None,
            open,
            later,
            seen: 0,
        }
    }

    /// Works until the end of the load, then repeats what still waits for it.
    pub async fn run(mut self) {
        let mut beat = Instant::now();
        self.register().await;
        while !self.shared.stop.is_cancelled() {
            match self.dice.random_range(0..100) {
                0..3 => self.register().await,
                3..40 => self.submit().await,
                40..75 => self.work().await,
                75..85 => self.cancel().await,
                _ => self.look().await,
            }
            let faults = self.shared.faults.load(Ordering::Relaxed);
            while let Some(at) = self.later.iter().position(|(due, _)| *due <= faults) {
                let (_, order) = self.later.swap_remove(at);
                self.shared.attempt(self.n, self.gateway, &order).await;
            }
            if let Some(agent) = self.agent.filter(|_| beat.elapsed() > Duration::from_secs(5)) {
                beat = Instant::now();
                self.shared.doors.heartbeat(agent).await;
            }
            self.breathe(25).await;
        }
        for (_, order) in std::mem::take(&mut self.later) {
            self.carry(order).await;
        }
    }

    async fn breathe(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.dice.random_range(0..most_ms))).await;
    }

    fn fresh(&mut self) -> Uuid {
        Uuid::from_u128(self.dice.random())
    }

    /// Sends until there is an outcome; one unknown in ten is left as it is.
    async fn carry(&mut self, order: Order) -> Option<Done> {
        let began = Instant::now();
        let answer = loop {
            let answer = self.shared.attempt(self.n, self.gateway, &order).await;
            if !matches!(answer, Answer::Unknown(_)) {
                break answer;
            }
            if self.dice.random_ratio(1, 20) && !self.shared.stop.is_cancelled() {
                return None;
            }
            if began.elapsed() > LIVENESS {
                self.shared.stuck.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            self.gateway += 1;
            self.breathe(150).await;
        };
        self.commands += 1;
        if self.commands.is_multiple_of(5) && !self.shared.stop.is_cancelled() {
            self.repeat(&order).await;
        }
        let Answer::Accepted(done) = answer else { return None };
        self.seen = self.seen.max(done.position);
        Some(done)
    }

    /// Two to five sendings in all, some of them after the next fault.
    async fn repeat(&mut self, order: &Order) {
        for _ in 0..self.dice.random_range(1..=4) {
            if self.dice.random_bool(0.5) {
                let due = self.shared.faults.load(Ordering::Relaxed) + 1;
                self.later.push((due, order.clone()));
            } else {
                self.shared.attempt(self.n, self.gateway, order).await;
            }
        }
    }

    async fn register(&mut self) {
        let id = self.fresh();
        let body = json!({ "name": format!("agent-{}-{id}", self.n), "slots": 3 });
        let order = Order::new(self.door, StreamType::Agent, "register", body, id);
        if let Some(done) = self.carry(order).await {
            self.agent = Some(done.stream_id);
        }
    }

    fn queue(&mut self) -> String {
        format!("q{}", self.dice.random_range(0..QUEUES))
    }

    async fn submit(&mut self) {
        let (id, queue) = (self.fresh(), self.queue());
        let body = task(&queue, &format!("of client {}", self.n));
        let order = Order::new(self.door, StreamType::Task, "submit", body, id);
        if let Some(done) = self.carry(order).await {
            self.open.push(done.stream_id);
            if self.open.len() > 50 {
                self.open.remove(0);
            }
        }
    }

    async fn cancel(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let task = self.open.swap_remove(self.dice.random_range(0..self.open.len()));
        self.command(task, "cancel", json!({ "reason": "not wanted any more" })).await;
    }

    async fn command(&mut self, task: Uuid, command: &'static str, body: Value) -> Option<Done> {
        let id = self.fresh();
        self.carry(Order::on(self.door, task, command, body, id)).await
    }

    /// Claims tasks and does most of them.
    async fn work(&mut self) {
        let Some(agent) = self.agent else { return self.register().await };
        let (queue, wait_ms) = (self.queue(), self.dice.random_range(0..200));
        let claim = json!({ "agent_id": agent, "max": 2, "wait_ms": wait_ms, "lease_ms": 5_000 });
        let claimed = self.shared.doors.claim(self.door, self.gateway, &queue, &claim).await;
        let Some(tasks) = claimed else {
            self.gateway += 1;
            return self.breathe(150).await;
        };
        for given in tasks {
            let task = given["task_id"].as_str().and_then(|id| id.parse().ok());
            let (Some(task), Some(token)) = (task, given["lease"]["token"].as_u64()) else {
                continue;
            };
            self.shared.history.note(Entry::Leased(Leased { task, agent, token }));
            self.handle(task, token).await;
        }
    }

    async fn handle(&mut self, task: Uuid, token: u64) {
        let by = json!({ "lease_token": token });
        self.command(task, "start", by.clone()).await;
        match self.dice.random_range(0..100) {
            // Silent: the lease runs out.
            0..4 => {}
            4..10 => drop(self.command(task, "release", by).await),
            10..18 => {
                let body = json!({ "lease_token": token, "error": "of the dice" });
                self.command(task, "fail", body).await;
            }
            18..30 => {
                let body = json!({ "lease_token": token, "percent": 50 });
                self.command(task, "progress", body).await;
                self.command(task, "complete", by).await;
            }
            _ => drop(self.command(task, "complete", by).await),
        }
    }

    /// Reads a task of its own, demanding the newest position that it knows of.
    async fn look(&mut self) {
        let Some(task) = self.open.last().copied() else { return };
        let api = self.shared.doors.api(self.gateway);
        let request = api.request(reqwest::Method::GET, &format!("/v1/tasks/{task}"));
        let request = request.header("Taffrail-Min-Position", self.seen).timeout(PATIENCE);
        let Ok(answer) = request.send().await else {
            self.gateway += 1;
            return self.breathe(150).await;
        };
        let position = answer.headers().get("taffrail-log-position");
        let position = position.and_then(|value| value.to_str().ok()?.parse().ok());
        let found = match answer.status().as_u16() {
            200 => true,
            404 => false,
            _ => return,
        };
        let read = Read {
            client: self.n,
            task,
            demanded: self.seen,
            position: position.unwrap_or_default(),
            found,
        };
        self.seen = self.seen.max(read.position);
        self.shared.history.note(Entry::Read(read));
    }
}
