//! The doors between the scheduler and those who carry its words.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use domain::node::{SyncReply, SyncRequest};
use domain::operation::{OperationAccepted, OperationProgress};
use domain::task::{Assignment, ClaimTasks, Claimed};
use domain::{AgentId, Problem, TaskId, TenantId, Timestamp};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use crate::Executor;
use crate::process::{Fits, QueueDepth, Waits};

/// A future that owns all it needs.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whoever answers claims: the scheduler in this process, or one behind NATS.
pub trait Claims: Send + Sync + 'static {
    /// Gives an agent up to `max` tasks of a queue; waits up to `wait_ms` for the first.
    fn claim(
        &self,
        tenant: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Boxed<Result<Claimed, Problem>>;

    /// Why an open task is not given out, the strongest reason first; `None` where no
    /// scheduler that knows of it is at hand.
    fn why(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Vec<Waits>>> {
        drop((tenant, task));
        Box::pin(async { None })
    }

    /// Who could have an open task, the best first; `None` where no scheduler that knows of
    /// it is at hand.
    fn fits(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Fits>> {
        drop((tenant, task));
        Box::pin(async { None })
    }

    /// How many tasks of each queue wait, and for what; `None` where no scheduler is at hand.
    fn depths(&self, tenant: &TenantId) -> Option<BTreeMap<String, QueueDepth>> {
        let _ = tenant;
        None
    }

    /// Takes tasks back that a claim was given and nobody was there any more to hear of;
    /// without it their leases run out.
    fn unheard(&self, tasks: Vec<Assignment>) -> Boxed<()> {
        drop(tasks);
        Box::pin(async {})
    }
}

/// What a heartbeat said, and when it came by our own clock.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Monotonic; judges silence (invariant 10).
    pub received: std::time::Instant,
    /// Wall clock; for people.
    pub at: Timestamp,
    /// What the agent says of itself.
    pub observed_state: Option<String>,
    /// Tasks it could take now.
    pub slots_free: Option<u32>,
    /// 0 to 1, or what the agent means by it.
    pub load: Option<f64>,
    /// Grows as its tasks get on.
    pub progress_seq: Option<u64>,
}

impl Observation {
    /// A sign of life that says nothing else.
    pub fn seen(received: std::time::Instant, at: Timestamp) -> Self {
        Self {
            received,
            at,
            observed_state: None,
            slots_free: None,
            load: None,
            progress_seq: None,
        }
    }
}

/// What an agent says in a heartbeat that it works on.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Whose it is.
    pub tenant: TenantId,
    /// Who says so.
    pub agent: AgentId,
    /// Monotonic.
    pub received: std::time::Instant,
    /// The tasks, each with the token of its lease.
    pub tasks: Vec<(TaskId, u64)>,
}

/// What the scheduler and the watchdog need of the agents' wire (core NATS).
pub trait AgentWire: Send + Sync + 'static {
    /// Whether anybody listens for pushed tasks of this agent.
    fn listens(&self, tenant: TenantId, agent: AgentId) -> Boxed<bool>;
    /// Pushes an assignment; false when nobody listened.
    fn push(&self, tenant: TenantId, agent: AgentId, assignment: Assignment) -> Boxed<bool>;
    /// Sends a control word: drain, stop, reload, wake.
    fn control(&self, tenant: TenantId, agent: AgentId, word: &'static str) -> Boxed<()>;
    /// The last heartbeat of an agent, if it ever sent one to this process.
    fn observed(&self, tenant: &TenantId, agent: AgentId) -> Option<Observation>;
    /// Has a node ask at once what is wanted of it.
    fn call_node(&self, _tenant: TenantId, _node: Uuid) -> Boxed<()> {
        Box::pin(async {})
    }
    /// What agents said since the last call that they work on.
    fn holdings(&self) -> Vec<Holding> {
        Vec::new()
    }
}

/// Answers nodes: what they run comes in, what they should goes out.
pub trait Nodes: Send + Sync + 'static {
    /// One exchange with a node.
    fn sync(&self, tenant: TenantId, node: Uuid, request: SyncRequest) -> Boxed<SyncReply>;
}

/// Carries out operations of a kind that is more than one command.
pub trait Work: Send + Sync + 'static {
    /// Whether this kind is its own.
    fn takes(&self, kind: &str) -> bool;
    /// Does the work and tells how far it is; the result or the problem ends the operation.
    ///
    /// It may run again after a crash, and is dropped where it stands when the operation is
    /// cancelled.
    fn run(&self, errand: Errand) -> Boxed<Result<domain::Json, Problem>>;
}

/// An operation that was taken on, and what carrying it out needs.
pub struct Errand {
    /// The operation.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// The position of its first event.
    pub position: u64,
    /// Who asked.
    pub actor: Arc<str>,
    /// What is asked for.
    pub accepted: OperationAccepted,
    /// Takes words on how far it is. Whoever is too slow to listen misses one.
    pub progress: Sender<OperationProgress>,
    /// Has commands decided, and tries again while they are not taken; not any more once
    /// this process has lost the managers' lease.
    pub executor: Arc<dyn Executor>,
}
