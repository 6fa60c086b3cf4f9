//! What the processor and the store are to the managers, in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::agent::{AgentCommand, RegisterAgent};
use domain::queue::{ConfigureQueue, QueueCommand, QueuePolicy, queue_id};
use domain::task::{Assignment, ClaimTasks, Claimed, SubmitTask, TaskCommand};
use domain::{AgentId, Code, Command, Outcome, Problem, Recorded, Status, TaskId, TenantId};
use parking_lot::Mutex;
use store::StoreError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::log::Log;
use crate::process::source::Events;
use crate::process::{Managers, ManagersConfig, SchedulerHandle, Source};
use crate::{AgentWire, Boxed, Claims, Clock, CommandEnvelope, Executor, Observation, Work};

#[derive(Clone)]
pub struct Memory {
    log: Arc<Mutex<Log>>,
    head: watch::Sender<u64>,
    pub clock: Clock,
    /// Answers `busy` to so many commands.
    pub busy: Arc<AtomicU64>,
    /// The newest token of the managers' lease.
    fence: Arc<AtomicI64>,
}

pub fn start_of_time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

/// Apart from the ids of tasks: a stream has one kind.
pub fn agent_id(n: u128) -> AgentId {
    AgentId::nth(1_000 + n)
}

pub fn tenant() -> TenantId {
    TenantId::default_tenant()
}

impl Memory {
    pub fn new() -> Self {
        Self {
            log: Arc::default(),
            head: watch::Sender::new(0),
            clock: Clock::read_at(start_of_time()),
            busy: Arc::default(),
            fence: Arc::default(),
        }
    }

    pub fn decide(&self, command: CommandEnvelope) -> Outcome {
        let (id, stream) = (command.command_id, command.stream_id);
        if self.busy.load(Ordering::SeqCst) > 0 {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            let problem = Problem::new(Code::Busy, "the test says so");
            return Outcome::undecided(Status::Busy, id, stream, problem);
        }
        let mut log = self.log.lock();
        if command.fence.is_some_and(|token| token < self.fence.load(Ordering::SeqCst)) {
            let problem = Problem::from(&crate::fence::stale());
            return Outcome::undecided(Status::Invalid, id, stream, problem);
        }
        let outcome = log.decide(&command, self.clock.now());
        let head = outcome.position;
        drop(log);
        self.head.send_if_modified(|known| {
            let grown = head > *known;
            *known = head.max(*known);
            grown
        });
        outcome
    }

    /// Has a command decided that comes from outside.
    pub fn tell(&self, stream: Uuid, command: impl Into<Command>, actor: &str) -> Outcome {
        let id = crate::Ids.fresh();
        self.decide(CommandEnvelope::new(tenant(), stream, command, id, actor))
    }

    pub fn agent(&self, n: u128, change: impl FnOnce(&mut RegisterAgent)) -> AgentId {
        let mut new = RegisterAgent::named(format!("agent-{n}"));
        change(&mut new);
        let outcome = self.tell(agent_id(n).0, AgentCommand::Register(new), "operator");
        assert_eq!(outcome.status, Status::Accepted);
        agent_id(n)
    }

    pub fn task(&self, n: u128, change: impl FnOnce(&mut SubmitTask)) -> TaskId {
        let mut new = SubmitTask::titled(format!("task {n}"));
        change(&mut new);
        let outcome = self.tell(TaskId::nth(n).0, TaskCommand::Submit(new), "operator");
        assert_eq!(outcome.status, Status::Accepted);
        TaskId::nth(n)
    }

    /// Has something decided about the queue `default`.
    pub fn queue(&self, command: QueueCommand) -> Outcome {
        self.tell(queue_id(&tenant(), "default"), command, "operator")
    }

    pub fn policy(&self, change: impl FnOnce(&mut QueuePolicy)) {
        let mut policy = QueuePolicy::default();
        change(&mut policy);
        let new = ConfigureQueue { queue: "default".into(), policy };
        assert_eq!(self.queue(QueueCommand::Configure(new)).status, Status::Accepted);
    }

    /// An answer of the agent that holds a task.
    pub fn answer(&self, command: TaskCommand, task: TaskId, agent: AgentId) -> Outcome {
        self.tell(task.0, command, &format!("agent:{agent}"))
    }

    pub fn pass(&self, time: Duration) {
        self.clock.set(self.clock.now() + time);
    }

    pub fn events(&self) -> Vec<Arc<Recorded>> {
        self.log.lock().events.clone()
    }

    /// How often something has happened.
    pub fn count(&self, name: &str) -> usize {
        self.log.lock().events.iter().filter(|event| &*event.event_type == name).count()
    }

    /// The names of a stream's events.
    pub fn story(&self, stream: Uuid) -> Vec<String> {
        let events = self.events();
        let of_stream = events.iter().filter(|event| event.stream_id == stream);
        of_stream.map(|event| event.event_type.to_string()).collect()
    }

    /// Runs managers that take the lease from those before, who go on until they notice.
    pub fn take_over(&self, wire: &Wire) -> Running {
        let token = self.fence.fetch_add(1, Ordering::SeqCst) + 1;
        self.run_under(wire, vec![], Some(token))
    }

    pub fn run(&self, wire: &Wire, works: Vec<Arc<dyn Work>>) -> Running {
        self.run_under(wire, works, None)
    }

    fn run_under(&self, wire: &Wire, works: Vec<Arc<dyn Work>>, fence: Option<i64>) -> Running {
        let (managers, handle) = Managers::new(
            Arc::new(self.clone()),
            Arc::new(self.clone()),
            Arc::new(wire.clone()),
            self.clock.clone(),
            works,
            ManagersConfig::default(),
        );
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(async move { managers.run(fence, token).await });
        Running { handle, cancel, task }
    }
}

/// Managers at work; stops them when dropped.
pub struct Running {
    pub handle: Arc<SchedulerHandle>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Running {
    pub async fn claim(&self, agent: AgentId, max: u32, wait_ms: u64) -> Vec<Assignment> {
        self.try_claim(agent, max, wait_ms).await.unwrap().tasks
    }

    pub async fn try_claim(
        &self,
        agent_id: AgentId,
        max: u32,
        wait_ms: u64,
    ) -> Result<Claimed, Problem> {
        let request = ClaimTasks { max, wait_ms, ..ClaimTasks::by(agent_id) };
        self.handle.claim(tenant(), "default".into(), request).await
    }

    pub async fn why(&self, task: TaskId) -> Vec<crate::Waits> {
        self.handle.why(tenant(), task).await.unwrap_or_default()
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Executor for Memory {
    fn execute(&self, command: CommandEnvelope) -> Boxed<Outcome> {
        let memory = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            memory.decide(command)
        })
    }
}

impl Source for Memory {
    fn head(&self) -> Boxed<Result<u64, StoreError>> {
        let head = self.log.lock().events.len() as u64;
        Box::pin(async move { Ok(head) })
    }

    fn after(&self, position: u64, limit: usize) -> Boxed<Events> {
        let log = self.log.lock();
        let page = log.events.iter().skip(position as usize).take(limit).cloned().collect();
        Box::pin(async move { Ok(page) })
    }

    fn stream(&self, tenant: TenantId, id: Uuid, version: u64, limit: usize) -> Boxed<Events> {
        let log = self.log.lock();
        let of_stream = log.events.iter().filter(|e| e.stream_id == id && e.tenant == tenant);
        let page = of_stream.filter(|e| e.version > version).take(limit).cloned().collect();
        Box::pin(async move { Ok(page) })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

/// The agents' wire in memory.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Ears>>);

#[derive(Default)]
struct Ears {
    listening: HashSet<AgentId>,
    /// Agents that vanish between the probe and the push.
    lost: HashSet<AgentId>,
    pushed: Vec<(AgentId, Assignment)>,
    words: Vec<(AgentId, &'static str)>,
    seen: HashMap<AgentId, Observation>,
}

impl Wire {
    pub fn listen(&self, agent: AgentId) {
        self.0.lock().listening.insert(agent);
    }

    pub fn lose(&self, agent: AgentId) {
        self.0.lock().lost.insert(agent);
    }

    pub fn beat(&self, agent: AgentId, state: Option<&str>) {
        let seen = Observation {
            observed_state: state.map(Into::into),
            ..Observation::seen(Instant::now(), start_of_time())
        };
        self.0.lock().seen.insert(agent, seen);
    }

    pub fn pushed(&self) -> Vec<(AgentId, Assignment)> {
        self.0.lock().pushed.clone()
    }

    /// What was pushed since the last call.
    pub fn take_pushed(&self) -> Vec<(AgentId, Assignment)> {
        std::mem::take(&mut self.0.lock().pushed)
    }

    pub fn words(&self) -> Vec<(AgentId, &'static str)> {
        self.0.lock().words.clone()
    }
}

impl AgentWire for Wire {
    fn listens(&self, _: TenantId, agent: AgentId) -> Boxed<bool> {
        let listens = self.0.lock().listening.contains(&agent);
        Box::pin(async move { listens })
    }

    fn push(&self, _: TenantId, agent: AgentId, assignment: Assignment) -> Boxed<bool> {
        let mut ears = self.0.lock();
        let heard = ears.listening.contains(&agent) && !ears.lost.contains(&agent);
        if heard {
            ears.pushed.push((agent, assignment));
        }
        Box::pin(async move { heard })
    }

    fn control(&self, _: TenantId, agent: AgentId, word: &'static str) -> Boxed<()> {
        self.0.lock().words.push((agent, word));
        Box::pin(async {})
    }

    fn observed(&self, _: &TenantId, agent: AgentId) -> Option<Observation> {
        self.0.lock().seen.get(&agent).cloned()
    }
}

/// Waits until something holds; a test that hangs says what it waited for.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}
