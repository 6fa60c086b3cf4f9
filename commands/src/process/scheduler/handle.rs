//! The scheduler's door for claims, and what it shows of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::agent::AgentState;
use domain::task::{Assignment, ClaimTasks, Claimed};
use domain::{AgentId, Code, Problem, Status, TaskId, TenantId};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::board::QueueDepth;
use super::core::Admission;
use super::deliver::{CLAIMANT_GONE, take_back};
use super::fits::Fits;
use super::serve;
use super::waiters::{Terms, Waiter};
use super::why::Waits;
use crate::process::perform::Session;
use crate::{Boxed, Claims};

/// How long a claim waits for the managers to have caught up with the log.
const START_WAIT: Duration = Duration::from_secs(2);
/// Tries to make an agent ready that claims out of another state.
const REVIVALS: u32 = 3;

/// Answers claims while this process runs the managers.
#[derive(Clone)]
pub struct SchedulerHandle {
    session: watch::Sender<Option<Arc<Session>>>,
}

/// The scheduler's state in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// Tasks per queue.
    pub queues: BTreeMap<(TenantId, String), QueueDepth>,
    /// Claims that wait for work.
    pub waiting_claims: usize,
    /// Agents by state.
    pub agents: BTreeMap<(TenantId, &'static str), usize>,
}

impl Default for SchedulerHandle {
    fn default() -> Self {
        Self { session: watch::Sender::new(None) }
    }
}

impl SchedulerHandle {
    /// Opens the door, or closes it with `None`.
    pub(in crate::process) fn set(&self, session: Option<Arc<Session>>) {
        self.session.send_replace(session);
    }

    /// Whether this process runs the scheduler and it has caught up.
    pub fn is_active(&self) -> bool {
        self.session.borrow().is_some()
    }

    /// The state in numbers; empty while another process schedules.
    pub fn gauges(&self) -> Gauges {
        let Some(session) = self.session.borrow().clone() else { return Gauges::default() };
        let scheduler = session.scheduler.lock();
        let queues = scheduler.board.depths();
        let mut gauges = Gauges {
            queues: queues.map(|(t, queue, depth)| ((t.clone(), queue.into()), depth)).collect(),
            waiting_claims: scheduler.waiting_claims(),
            agents: BTreeMap::new(),
        };
        for (id, agent) in scheduler.board.roster.iter() {
            let holds = !scheduler.board.held_by(id).is_empty();
            let busy = agent.state == AgentState::Ready && holds;
            let state = if busy { AgentState::Busy } else { agent.state };
            *gauges.agents.entry((agent.tenant.clone(), state.as_str())).or_default() += 1;
        }
        gauges
    }

    /// What an agent is wanted to be, for the answer to its heartbeat; `None` while no
    /// such agent is known here.
    pub fn desired_state(&self, tenant: &TenantId, agent: AgentId) -> Option<&'static str> {
        let session = self.session.borrow().clone()?;
        let scheduler = session.scheduler.lock();
        let facts = scheduler.board.roster.get(agent).filter(|facts| facts.tenant == *tenant)?;
        Some(facts.desired_state())
    }

    pub(in crate::process) async fn session(&self) -> Option<Arc<Session>> {
        let mut sessions = self.session.subscribe();
        let open = timeout(START_WAIT, sessions.wait_for(Option::is_some)).await;
        open.ok()?.ok()?.clone()
    }

    async fn claim(
        self,
        tenant: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Result<Claimed, Problem> {
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms);
        let session = self.session().await.ok_or_else(not_here)?;
        // What the claimant has seen committed, it finds considered.
        let seen = *session.source.watch().borrow();
        session.folded_to(seen).await;
        loop {
            admit(&session, &tenant, &request).await?;
            let (answer, mut answered) = oneshot::channel();
            let waiter = Waiter {
                tenant: tenant.clone(),
                queue: queue.clone(),
                agent: request.agent_id,
                max: request.max as usize,
                terms: Terms { lease_ms: request.lease_ms, start: request.start },
                answer,
            };
            let id = session.scheduler.lock().wait(waiter).ok_or_else(too_many)?;
            let waiting = Waiting { session: &session, id };
            serve(&session);
            let left = deadline.saturating_duration_since(Instant::now());
            let tasks = match timeout(left, &mut answered).await {
                Ok(answer) => answer,
                Err(_) if waiting.withdraw() => return Ok(Claimed::default()),
                // Being served just now: the answer is on its way.
                Err(_) => answered.await,
            };
            let tasks = tasks.map_err(|_| not_here())?;
            if !tasks.is_empty() || Instant::now() >= deadline {
                return Ok(Claimed { tasks });
            }
        }
    }
}

impl Claims for SchedulerHandle {
    fn claim(
        &self,
        tenant: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Boxed<Result<Claimed, Problem>> {
        Box::pin(self.clone().claim(tenant, queue, request))
    }

    fn why(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Vec<Waits>>> {
        let handle = self.clone();
        Box::pin(async move {
            let session = handle.session().await?;
            // What the caller has seen committed, it finds considered.
            let seen = *session.source.watch().borrow();
            session.folded_to(seen).await;
            session.scheduler.lock().why(&tenant, task)
        })
    }

    fn fits(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Fits>> {
        let handle = self.clone();
        Box::pin(async move {
            let session = handle.session().await?;
            // What the caller has seen committed, it finds considered.
            let seen = *session.source.watch().borrow();
            session.folded_to(seen).await;
            session.scheduler.lock().fits(&tenant, task)
        })
    }

    fn depths(&self, tenant: &TenantId) -> Option<BTreeMap<String, QueueDepth>> {
        let session = self.session.borrow().clone()?;
        let scheduler = session.scheduler.lock();
        let own = scheduler.board.depths().filter(|(whose, ..)| *whose == tenant);
        Some(own.map(|(_, queue, depth)| (queue.to_owned(), depth)).collect())
    }

    fn unheard(&self, tasks: Vec<Assignment>) -> Boxed<()> {
        let session = self.session.borrow().clone();
        Box::pin(async move {
            let Some(session) = session else { return };
            for task in tasks {
                take_back(&session, task.task_id, task.lease.token, CLAIMANT_GONE).await;
            }
        })
    }
}

/// Lets an agent in that may have work; one that was believed away is made ready.
async fn admit(session: &Session, tenant: &TenantId, request: &ClaimTasks) -> Result<(), Problem> {
    let mut looked_up = false;
    for _ in 0..=REVIVALS {
        let now = session.now().instant;
        let admission = session.scheduler.lock().admit(tenant, request.agent_id, now);
        match admission {
            Admission::Welcome => return Ok(()),
            Admission::Refused(problem) => return Err(*problem),
            Admission::Unknown if !looked_up => {
                // Registered through another process a moment ago?
                looked_up = true;
                if let Ok(head) = session.source.head().await {
                    session.folded_to(head).await;
                }
            }
            Admission::Unknown => {
                let detail = format!("there is no agent {}", request.agent_id);
                return Err(Problem::new(Code::NotFound, detail));
            }
            Admission::Revive(command) => {
                let outcome = session.execute(&command, 3).await;
                if outcome.status == Status::Busy {
                    return Err(outcome.problem.unwrap_or_else(not_here));
                }
                session.folded_to(outcome.decision().position).await;
            }
        }
    }
    Err(Problem::new(Code::NotPossible, "the agent's state changes too fast to be given work"))
}

/// A claim in the list, for as long as somebody waits for its answer.
struct Waiting<'a> {
    session: &'a Session,
    id: u64,
}

impl Waiting<'_> {
    fn withdraw(&self) -> bool {
        self.session.scheduler.lock().withdraw(self.id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

fn not_here() -> Problem {
    Problem {
        retry_after_ms: Some(500),
        ..Problem::new(Code::Unavailable, "no scheduler runs in this process at present")
    }
}

fn too_many() -> Problem {
    let detail = "too many claims are waiting already";
    Problem { retry_after_ms: Some(1_000), ..Problem::new(Code::Busy, detail) }
}
