//! Workers as W2 has them: claim, start, complete, over NATS, each under its own name.
//!
//! What the agent SDK sends for a task is sent here too (claims for the free slots, commands
//! with ids of their own on the agent's subjects), but several workers share a connection:
//! five hundred sockets would measure the kernel. Heartbeats are left out, a claim is a sign
//! of life as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::commands::Ids;
use anyhow::{Context, bail, ensure};
use async_nats::{Client, HeaderMap, Request};
use broker::subject;
use bytes::Bytes;
use domain::agent::RegisterAgent;
use domain::task::{Assignment, ClaimTasks, CompleteTask, MAX_CLAIM, StartTask};
use domain::{AgentId, Json, Outcome, Problem, Status, StreamType, TenantId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long one claim waits for work.
const CLAIM_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for the answer to a command.
const ANSWER: Duration = Duration::from_secs(15);
/// How often a command is sent again that was answered `busy`.
const TRIES: u32 = 200;
/// Connections that all workers of a fleet share.
pub const CONNECTIONS: usize = 8;

/// Sends commands until they are decided.
#[derive(Clone)]
pub struct Wire {
    pub client: Client,
    pub tenant: TenantId,
}

impl Wire {
    /// Has one command decided; `busy` and silence lead to a repeat under the same id.
    pub async fn ask(&self, subject: String, id: Uuid, body: Bytes) -> anyhow::Result<Outcome> {
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", id.to_string());
        let mut pause = Duration::from_millis(2);
        for _ in 0..TRIES {
            let request =
                Request::new().headers(headers.clone()).payload(body.clone()).timeout(Some(ANSWER));
            if let Ok(answer) = self.client.send_request(subject.clone(), request).await {
                let outcome: Outcome =
                    serde_json::from_slice(&answer.payload).context("an outcome")?;
                if outcome.status != Status::Busy {
                    return Ok(outcome);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
        bail!("no outcome of a command on {subject}")
    }

    /// One try; anything but an acceptance is an error.
    pub async fn once(&self, subject: String, id: Uuid, body: Bytes) -> anyhow::Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert("Taffrail-Command-Id", id.to_string());
        let request = Request::new().headers(headers).payload(body).timeout(Some(ANSWER));
        let answer = self.client.send_request(subject, request).await?;
        let outcome: Outcome = serde_json::from_slice(&answer.payload).context("an outcome")?;
        ensure!(outcome.decision().status == Status::Accepted, "{:?}", outcome.status);
        Ok(())
    }

    /// The same as [`Wire::ask`] for a command that must be accepted.
    pub async fn done(&self, subject: String, body: Bytes) -> anyhow::Result<Outcome> {
        let outcome = self.ask(subject.clone(), Ids.fresh(), body).await?;
        match outcome.decision().status {
            Status::Accepted => Ok(outcome),
            Status::Refused | Status::Invalid | Status::Busy | Status::Duplicate => {
                let problem = outcome.decision().problem.as_ref();
                let why = problem.map(|p| p.detail.clone()).unwrap_or_default();
                bail!("{subject} was not accepted: {:?} {why}", outcome.status)
            }
        }
    }

    /// Submits a task over NATS.
    pub async fn submit(&self, id: Uuid, body: Bytes) -> anyhow::Result<Outcome> {
        self.done(subject::request(&self.tenant, StreamType::Task, id, "submit"), body).await
    }
}

/// Bodies as JSON.
pub fn body<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Hears of every task when it reaches its worker.
pub trait Hook: Send + Sync {
    /// An assignment has come.
    fn received(&self, task: &Assignment);
}

/// What all workers write down together.
pub struct Tally {
    hook: Option<Arc<dyn Hook>>,
    begin: Instant,
    /// Per task: microseconds from the beginning to its intended submission.
    submitted: Vec<AtomicU64>,
    /// Per task: microseconds from the beginning to the answer to its completion; 0: not yet.
    completed: Vec<AtomicU64>,
    done: AtomicU64,
    lost: AtomicU64,
    /// Commands of workers that were decided, whatever the decision.
    decided: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

impl Tally {
    /// Room for so many tasks.
    pub fn new(tasks: u64) -> Self {
        let room = || (0..tasks).map(|_| AtomicU64::new(0)).collect();
        Self {
            hook: None,
            begin: Instant::now(),
            submitted: room(),
            completed: room(),
            done: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            decided: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }

    /// Counts completions and writes nothing down; tells of each task that comes.
    pub fn hooked(hook: Arc<dyn Hook>) -> Self {
        Self { hook: Some(hook), ..Self::new(0) }
    }

    fn since(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.begin).as_micros() as u64).max(1)
    }

    /// A task is submitted, or was to be.
    pub fn submit(&self, n: u64, at: Instant) {
        self.submitted[n as usize].store(self.since(at), Ordering::Relaxed);
    }

    fn complete(&self, n: u64) -> anyhow::Result<()> {
        if self.hook.is_none() {
            let slot = self.completed.get(n as usize).context("a task of somebody else's")?;
            if slot.swap(self.since(Instant::now()), Ordering::Relaxed) != 0 {
                bail!("task {n} was completed twice");
            }
        }
        self.done.fetch_add(1, Ordering::Release);
        if let Some(waiting) = self.waiting.lock().remove(&n) {
            // Who waited may have given up.
            let _ = waiting.send(());
        }
        Ok(())
    }

    /// Tasks completed so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Assignments whose start or completion came too late for its lease.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// From the first submission to the last completion.
    pub fn span(&self) -> Duration {
        let taken = |all: &[AtomicU64]| -> Vec<u64> {
            all.iter().map(|at| at.load(Ordering::Relaxed)).filter(|at| *at > 0).collect()
        };
        let first = taken(&self.submitted).into_iter().min().unwrap_or(0);
        let last = taken(&self.completed).into_iter().max().unwrap_or(0);
        Duration::from_micros(last.saturating_sub(first))
    }

    /// Microseconds from submission to completion.
    pub fn lives(&self) -> Vec<u64> {
        let both = self.submitted.iter().zip(&self.completed);
        both.filter_map(|(from, to)| {
            let (from, to) = (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
            (to > 0).then(|| to.saturating_sub(from))
        })
        .collect()
    }

    /// Since it was made.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Ready when a task is completed.
    pub fn wait(&self, n: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(n, sender);
        receiver
    }

    /// Commands whose results must be in the log: so many submissions, and the workers' own.
    pub fn acknowledged(&self, submitted: u64) -> u64 {
        submitted + self.decided.load(Ordering::Acquire)
    }
}

/// The number that [`super::fill::task_payload`] put into a task.
pub fn number(task: &Assignment) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        n: u64,
    }
    Ok(task.payload.read::<Numbered>().context("a task of somebody else's")?.n)
}

/// Workers, registered and ready.
pub struct Fleet {
    workers: Vec<Arc<Worker>>,
}

struct Worker {
    wire: Wire,
    id: AgentId,
    queue: String,
    prefetch: usize,
}

impl Fleet {
    /// Registers so many workers of so many slots each on a queue.
    pub async fn register(
        clients: &[Client],
        queue: &str,
        workers: usize,
        prefetch: usize,
    ) -> anyhow::Result<Self> {
        let mut registering = JoinSet::new();
        for (nth, client) in (0..workers).zip(clients.iter().cycle()) {
            let wire = Wire { client: client.clone(), tenant: TenantId::default_tenant() };
            let queue = queue.to_owned();
            registering.spawn(async move {
                let id = AgentId(Ids.fresh());
                let mut agent = RegisterAgent::named(format!("{queue}-{nth}-{id}"));
                agent.slots = prefetch as u32;
                let tell = |command: &'static str| {
                    subject::agent_request(&wire.tenant, id, StreamType::Agent, id.0, command)
                };
                wire.done(tell("register"), body(&agent)).await?;
                wire.done(tell("mark_ready"), body(&json!({}))).await?;
                anyhow::Ok(Arc::new(Worker { wire, id, queue, prefetch }))
            });
        }
        let mut workers = Vec::new();
        while let Some(worker) = registering.join_next().await {
            workers.push(worker??);
        }
        Ok(Self { workers })
    }

    /// Lets all of them work until stopped; ends with the first failure of any.
    pub async fn work(&self, tally: &Arc<Tally>, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut working = JoinSet::new();
        for worker in &self.workers {
            working.spawn(worker.clone().run(tally.clone(), stop.clone()));
        }
        while let Some(ended) = working.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Claimed {
    #[serde(default)]
    tasks: Vec<Assignment>,
    problem: Option<Problem>,
}

impl Worker {
    async fn run(
        self: Arc<Self>,
        tally: Arc<Tally>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let slots = Arc::new(Semaphore::new(self.prefetch));
        let mut lives = JoinSet::new();
        while !stop.is_cancelled() {
            // Only this loop takes slots, so what is free now stays free until the claim.
            tokio::select! {
                slot = slots.acquire() => drop(slot?),
                () = stop.cancelled() => break,
            }
            let free = slots.available_permits().min(MAX_CLAIM as usize);
            // Never given up half-way: its tasks would wait for the end of their leases.
            let claimed = self.claim(free).await?;
            for task in claimed {
                if let Some(hook) = &tally.hook {
                    hook.received(&task);
                }
                let slot = slots.clone().try_acquire_owned().context("more than was claimed")?;
                let (worker, tally) = (self.clone(), tally.clone());
                lives.spawn(async move {
                    worker.live(task, &tally).await?;
                    drop(slot);
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = lives.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = lives.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn claim(&self, max: usize) -> anyhow::Result<Vec<Assignment>> {
        let claim = ClaimTasks {
            agent_id: self.id,
            max: max as u32,
            wait_ms: CLAIM_WAIT.as_millis() as u64,
            lease_ms: None,
            start: true,
        };
        let subject = subject::agent_claim(&self.wire.tenant, self.id, &self.queue);
        let request =
            Request::new().payload(body(&claim)).timeout(Some(CLAIM_WAIT + Duration::from_secs(8)));
        let answer = match self.wire.client.send_request(subject, request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "a claim was not answered");
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Ok(Vec::new());
            }
        };
        let claimed: Claimed =
            serde_json::from_slice(&answer.payload).context("a claim's answer")?;
        if let Some(problem) = claimed.problem {
            if problem.retry_after_ms.is_none() {
                bail!("a claim was refused: {}", problem.detail);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(claimed.tasks)
    }

    /// Start, unless the claim began it, and completion of one task.
    async fn live(&self, task: Assignment, tally: &Tally) -> anyhow::Result<()> {
        let (lease_token, n) = (task.lease.token, number(&task)?);
        let result = Json::of(&json!({ "summary": "three sentences", "n": n }));
        let start = (!task.started).then(|| ("start", body(&StartTask { lease_token })));
        let complete = ("complete", body(&CompleteTask { lease_token, result }));
        for (command, body) in start.into_iter().chain([complete]) {
            let (tenant, id) = (&self.wire.tenant, task.task_id.0);
            let subject = subject::agent_request(tenant, self.id, StreamType::Task, id, command);
            let outcome = self.wire.ask(subject, Ids.fresh(), body).await?;
            tally.decided.fetch_add(1, Ordering::Release);
            match outcome.decision().status {
                Status::Accepted => {}
                // The lease ran out on a crowded machine: another attempt will follow.
                Status::Refused => {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Status::Invalid | Status::Busy | Status::Duplicate => {
                    bail!("{command} ended as {:?}", outcome.status)
                }
            }
        }
        tally.complete(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_is_completed_twice_or_that_nobody_submitted_is_an_error() {
        let tally = Tally::new(2);
        tally.submit(0, Instant::now());
        tally.complete(0).unwrap();
        assert!(tally.complete(0).is_err());
        assert!(tally.complete(2).is_err());
        assert_eq!((tally.done(), tally.lives().len()), (1, 1));
    }

    #[test]
    fn lives_and_their_span_are_counted_from_the_intended_submission() {
        let tally = Tally::new(2);
        let late = Duration::from_millis(5);
        std::thread::sleep(late);
        tally.submit(1, tally.begin);
        tally.complete(1).unwrap();
        assert!(tally.span() >= late && tally.lives()[0] >= late.as_micros() as u64 - 1);
        assert_eq!(tally.acknowledged(1), 1);
    }
}
