//! The decisions: which waiting task goes to which agent. Pure: time comes in, picks
//! go out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use domain::agent::AgentEvent;
use domain::task::{
    AssignTask, Assignment, AssignmentLease, Reason, TaskCommand, TaskEvent, TaskState,
};
use domain::{AgentId, Code, Event, Json, Problem, Recorded, TaskId, TenantId, Timestamp};

use super::board::Board;
use super::entry::{Entry, Payload, Rank, Reserved};
use super::listeners::Live;
use super::rules::level_name;
use super::waiters::{Terms, Waiter, Waiters};
use super::waiting::{Next, QueueId};
use crate::CommandEnvelope;
use crate::process::roster::{Abilities, agent_of};
use crate::process::{command_id, watchdog};

/// Who the commands are from.
pub(super) const ACTOR: &str = "manager:scheduler";
/// How long a task rests after an assignment that was refused or not taken.
const REST: chrono::Duration = chrono::Duration::seconds(1);
/// Tasks that a queue gives out in one pass when it gives out again.
const MOST_AT_ONCE: usize = 16;

/// A task on its way to an agent.
#[derive(Debug)]
pub(super) struct Pick {
    pub task: TaskId,
    pub agent: AgentId,
    pub tenant: TenantId,
    /// Its number, which its reservation carries; for an assignment that is only told
    /// once more, the lease's token.
    pub id: u64,
    /// Assigns it; `None` when the agent has the assignment and may not know.
    pub assign: Option<CommandEnvelope>,
    /// Where the payload is, when it is not in memory.
    pub payload: Payload,
}

/// Picks with the way they go.
#[derive(Debug)]
pub(super) enum Hand {
    /// They answer a claim.
    Claim(Waiter, Vec<Pick>),
    /// It is pushed.
    Push(Box<Pick>),
}

/// Whether an agent may claim.
#[derive(Debug)]
pub(super) enum Admission {
    Welcome,
    /// Nobody of that id is known (yet).
    Unknown,
    /// It is there after all: this says so.
    Revive(Box<CommandEnvelope>),
    Refused(Box<Problem>),
}

/// What one pass gives out.
#[derive(Debug, Default)]
struct Hands {
    claims: BTreeMap<u64, Vec<Pick>>,
    pushes: Vec<Pick>,
}

/// Agents by what they can do, then by when they were served.
pub(super) type Listed = BTreeMap<Abilities, BTreeSet<(u64, AgentId)>>;

impl Hands {
    fn of(&self, claim: u64) -> usize {
        self.claims.get(&claim).map_or(0, Vec::len)
    }
}

#[derive(Debug, Default)]
pub(in crate::process) struct Scheduler {
    pub(super) board: Board,
    pub(super) waiters: Waiters,
    pub(super) live: HashMap<AgentId, Live>,
    /// Agents who listen and have a free slot, least recently served first.
    pub(super) listeners: BTreeMap<TenantId, Listed>,
    /// Agents of whom nobody knows whether they listen.
    pub(super) unheard: BTreeSet<AgentId>,
    /// Agents who let a lease run out and gave no sign of life since.
    pub(super) doubted: BTreeSet<AgentId>,
    /// Agents who did not listen when they were asked, in turn.
    pub(super) deaf: VecDeque<AgentId>,
    pub(super) given: u64,
}

impl Scheduler {
    pub fn apply(&mut self, event: &Recorded) {
        if let Some(agent) = agent_of(&event.actor) {
            self.spoke(agent);
        }
        if let Ok(Event::Task(TaskEvent::LeaseExpired(_))) = event.event()
            && let Some(entry) = self.board.task(TaskId(event.stream_id))
            && let Some(lease) = entry.lease
        {
            self.doubt(lease.agent_id);
        }
        self.board.apply(event, ACTOR);
        if let Ok(Event::Agent(
            AgentEvent::Registered(_) | AgentEvent::Reconnected(_) | AgentEvent::Ready(_),
        )) = event.event()
        {
            self.reconnected(AgentId(event.stream_id));
        }
    }

    /// Lets time pass: what has come due may be given out.
    pub fn advance(&mut self, now: Timestamp) {
        self.board.advance(now);
    }

    /// When the next task comes due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.board.next_due()
    }

    /// Whether an agent may have work at all.
    pub(super) fn admit(&mut self, tenant: &TenantId, agent: AgentId, now: Instant) -> Admission {
        let Some(facts) = self.board.roster.get(agent).filter(|facts| facts.tenant == *tenant)
        else {
            return Admission::Unknown;
        };
        let (takes_work, state) = (facts.state.takes_work(), facts.state.as_str());
        let revival =
            facts.can_be_revived().then(|| watchdog::ready(agent, facts, ACTOR, "it claims work"));
        self.live.entry(agent).or_default().claimed = Some(now);
        self.spoke(agent);
        if takes_work {
            return Admission::Welcome;
        }
        if let Some(ready) = revival {
            return Admission::Revive(Box::new(ready));
        }
        let detail = format!("an agent in state {state} is given no work");
        Admission::Refused(Box::new(Problem {
            state: Some(state.into()),
            ..Problem::new(Code::NotPossible, detail)
        }))
    }

    /// Takes a claim in; the next [`Self::serve`] may answer it at once.
    pub(super) fn wait(&mut self, waiter: Waiter) -> Option<u64> {
        self.board.touch(waiter.agent);
        self.waiters.add(waiter)
    }

    /// Takes a claim out, unless it is being served already.
    pub(super) fn withdraw(&mut self, waiter: u64) -> bool {
        self.waiters.remove(waiter).is_some()
    }

    /// The last sign of life that a claim was.
    pub fn claimed(&self, agent: AgentId, now: Instant) -> Option<Instant> {
        if self.waiters.has(agent) {
            return Some(now);
        }
        self.live.get(&agent)?.claimed
    }

    /// Gives out what can be given out; afterwards no waiting task fits a waiting
    /// claim, or a listener, with a free slot.
    pub(super) fn serve(&mut self) -> Vec<Hand> {
        let mut hands = Hands::default();
        let mut fresh = self.board.waiting.take_fresh();
        // Touched agents first: one that has a slot again takes the first of all that
        // waits, not what happened to come in together with it.
        let touched = self.board.take_touched();
        let claims: BTreeSet<u64> =
            touched.iter().flat_map(|agent| self.waiters.of_agent(*agent)).collect();
        for agent in &touched {
            self.relist(*agent);
        }
        for waiter in claims {
            self.fill(waiter, &mut hands, &mut fresh);
        }
        for agent in touched {
            self.push_to(agent, &mut hands, &mut fresh);
        }
        let reopened = self.board.waiting.take_reopened();
        for rank in fresh {
            // What came into a lane as its queue opened waits its turn among the others
            // there: else the next of a key that is freed would always come before them.
            let waits = |entry: &Entry| {
                reopened.iter().any(|(of, queue)| *of == entry.tenant && *queue == entry.queue)
            };
            if !self.board.task(rank.task).is_some_and(waits) {
                self.offer(rank, &mut hands);
            }
        }
        for queue in reopened {
            self.give_out(queue, &mut hands);
        }
        let answered = hands.claims.into_iter();
        let mut served: Vec<Hand> = answered
            .filter_map(|(id, picks)| Some(Hand::Claim(self.waiters.remove(id)?, picks)))
            .collect();
        served.extend(hands.pushes.into_iter().map(|pick| Hand::Push(Box::new(pick))));
        served
    }

    /// Whether a pass left something to give out.
    pub(super) fn is_unfinished(&self) -> bool {
        self.board.waiting.has_reopened()
    }

    /// Offers what a queue that gives out again has, the next in turn first.
    fn give_out(&mut self, queue: QueueId, hands: &mut Hands) {
        for _ in 0..MOST_AT_ONCE {
            let heads = self.board.waiting.heads(&queue);
            if !heads.into_iter().any(|rank| self.offer(rank, hands)) {
                return;
            }
        }
        self.board.waiting.reopen_again(queue);
    }

    /// Fills a waiting claim with what is its agent's already, then with the next tasks.
    fn fill(&mut self, id: u64, hands: &mut Hands, fresh: &mut BTreeSet<Rank>) {
        let Some(waiter) = self.waiters.get(id) else { return };
        let (agent, max, terms) = (waiter.agent, waiter.max, waiter.terms);
        let queue = waiter.queue.clone();
        let Some(facts) = self.board.roster.get(agent) else { return };
        if !facts.state.takes_work() && !facts.can_be_revived() {
            // An empty answer: whoever asks again learns why there is nothing.
            hands.claims.entry(id).or_default();
            return;
        }
        for task in self.undelivered(agent) {
            let Some(entry) = self.board.task(task) else { continue };
            // An operator's own choice comes through whichever queue is asked.
            if hands.of(id) < max && (*entry.queue == *queue || !entry.ours) {
                let pick = self.again(task, agent);
                hands.claims.entry(id).or_default().extend(pick);
            }
        }
        while hands.of(id) < max
            && let Some(Next { rank, level }) = self.next(agent, Some(&queue))
        {
            // Just come: an older claim may be waiting for it.
            if fresh.remove(&rank) && self.offer(rank, hands) {
                continue;
            }
            let reason = format!(
                "claimed; next in turn ({}) and oldest of the tasks in queue {queue} that fit",
                level_name(level),
            );
            let pick = self.reserve(rank.task, agent, terms, reason);
            hands.claims.entry(id).or_default().extend(pick);
        }
        if hands.of(id) >= max {
            self.waiters.fill(id);
        }
        self.relist(agent);
    }

    /// Pushes to a listener what is its own already, then the next tasks of any queue.
    fn push_to(&mut self, agent: AgentId, hands: &mut Hands, fresh: &mut BTreeSet<Rank>) {
        if !self.listens(agent) {
            return;
        }
        for task in self.undelivered(agent) {
            hands.pushes.extend(self.again(task, agent));
        }
        while let Some(Next { rank, level }) = self.next(agent, None) {
            // Just come: a claim may be waiting for it, and whoever asks comes first.
            if fresh.remove(&rank) && self.offer(rank, hands) {
                continue;
            }
            let reason = format!(
                "pushed; next in turn ({}) and oldest of the waiting tasks that fit",
                level_name(level),
            );
            hands.pushes.extend(self.reserve(rank.task, agent, Terms::default(), reason));
        }
        self.relist(agent);
    }

    /// Offers a task that came into a lane: to waiting claims, then to listeners.
    fn offer(&mut self, rank: Rank, hands: &mut Hands) -> bool {
        let Some(entry) = self.board.task(rank.task) else { return false };
        if !self.board.waiting.is_exposed(rank.task, entry) {
            return false;
        }
        let (tenant, shape) = (&entry.tenant, &entry.shape);
        let claim = self.claimant(tenant, &entry.queue, shape);
        if let Some((id, waiter)) = claim.and_then(|id| Some((id, self.waiters.get(id)?))) {
            let (agent, terms, max) = (waiter.agent, waiter.terms, waiter.max);
            let reason = format!("longest waiting claim of queue {} that fits", entry.queue);
            let pick = self.reserve(rank.task, agent, terms, reason);
            hands.claims.entry(id).or_default().extend(pick);
            if hands.of(id) >= max {
                self.waiters.fill(id);
            }
            self.relist(agent);
            return true;
        }
        let Some(agent) = self.listener(tenant, shape) else { return false };
        let reason = "pushed; the least recently served listener with a free slot that fits";
        hands.pushes.extend(self.reserve(rank.task, agent, Terms::default(), reason.into()));
        self.relist(agent);
        true
    }

    pub(super) fn next(&self, agent: AgentId, queue: Option<&str>) -> Option<Next> {
        if self.board.free_slots(agent) == 0 {
            return None;
        }
        let facts = self.board.roster.get(agent)?;
        self.board.waiting.next(agent, facts, queue)
    }

    /// Takes a task out of the queue for an agent, and says how it is assigned.
    fn reserve(
        &mut self,
        task: TaskId,
        agent: AgentId,
        Terms { lease_ms, start }: Terms,
        reason: String,
    ) -> Option<Pick> {
        self.given += 1;
        let id = self.given;
        self.live.entry(agent).or_default().given = id;
        self.board.update(task, |entry| entry.reserved = Some(Reserved { agent, pick: id }));
        let entry = self.board.task(task)?;
        let cause = format_args!("assign:{}", entry.version);
        let body = AssignTask { agent_id: agent, lease_ms, reason: Some(reason), start };
        let command = CommandEnvelope {
            // Decided on what was seen, or not at all: else a command that was long under
            // way could give an agent more than its slots.
            expected_version: Some(entry.version),
            correlation_id: entry.correlation,
            causation_position: Some(entry.cause),
            trace: entry.trace.as_deref().map(Into::into),
            ..CommandEnvelope::new(
                entry.tenant.clone(),
                task.0,
                TaskCommand::Assign(body),
                command_id(task.0, ACTOR, cause),
                ACTOR,
            )
        };
        let (tenant, payload) = (entry.tenant.clone(), entry.payload.clone());
        Some(Pick { task, agent, tenant, id, assign: Some(command), payload })
    }

    /// What an agent has and may not know of.
    pub(super) fn undelivered(&self, agent: AgentId) -> Vec<TaskId> {
        let mut tasks = self.board.held_by(agent);
        tasks.retain(|task| self.board.task(*task).is_some_and(|entry| entry.is_undelivered()));
        tasks
    }

    /// Tells an agent once more of what it has, under the lease it has.
    fn again(&mut self, task: TaskId, agent: AgentId) -> Option<Pick> {
        self.board.update(task, |entry| entry.delivered = true);
        let entry = self.board.task(task)?;
        let (tenant, payload) = (entry.tenant.clone(), entry.payload.clone());
        Some(Pick { task, agent, tenant, id: entry.tokens, assign: None, payload })
    }

    /// The assignment as its event made it, once that is folded; `None` when the task
    /// has gone elsewhere since.
    pub(super) fn assignment(&mut self, pick: &Pick, payload: Json) -> Option<Assignment> {
        if !self.board.task(pick.task).is_some_and(|entry| concerns(entry, pick)) {
            return None;
        }
        if pick.assign.is_some() {
            self.board.update(pick.task, |entry| entry.reserved = None);
        }
        let entry = self.board.task(pick.task)?;
        let lease = entry.lease.filter(|lease| lease.agent_id == pick.agent)?;
        Some(Assignment {
            task_id: pick.task,
            title: entry.title.as_ref().into(),
            attempt: entry.attempt,
            lease: AssignmentLease { token: lease.token, expires_at: lease.expires_at },
            kind: entry.kind.as_ref().into(),
            queue: entry.queue.as_ref().into(),
            priority: entry.priority,
            payload,
            deadline: entry.due_at,
            traceparent: entry.trace.as_deref().map(Into::into),
            started: entry.state == TaskState::InProgress,
        })
    }

    /// The assignment did not come about: the task waits again, perhaps after a rest.
    pub(super) fn put_back(&mut self, pick: &Pick, rest: bool) {
        let until = rest.then(|| self.board.now() + REST);
        if !self.board.task(pick.task).is_some_and(|entry| concerns(entry, pick)) {
            return;
        }
        let change = |entry: &mut Entry| {
            if pick.assign.is_some() {
                entry.reserved = None;
                entry.retry_at = entry.retry_at.max(until);
            }
            // Where it was assigned all the same, nobody was told.
            entry.delivered = false;
        };
        self.board.unreserve(pick.task, change);
        self.board.touch(pick.agent);
    }

    /// The agent did not hear of its assignment. Says how to take the task from it
    /// again, when the scheduler gave it; an operator's choice stays.
    pub(super) fn undeliverable(
        &mut self,
        task: TaskId,
        token: u64,
        why: &str,
    ) -> Option<CommandEnvelope> {
        let current = |entry: &&Entry| entry.lease.is_some_and(|lease| lease.token == token);
        let entry = self.board.task(task).filter(current)?;
        let begun_by_agent = entry.state != TaskState::Assigned && !entry.begun_with_claim;
        if !entry.ours || begun_by_agent {
            self.not_told(task, token);
            return None;
        }
        let body = TaskCommand::Unassign(Reason { reason: Some(why.into()) });
        let id = command_id(task.0, ACTOR, format_args!("unassign:{token}:{}", entry.version));
        Some(CommandEnvelope {
            // Not from whoever may have got it since.
            expected_version: Some(entry.version),
            correlation_id: entry.correlation,
            causation_position: Some(entry.cause),
            ..CommandEnvelope::new(entry.tenant.clone(), task.0, body, id, ACTOR)
        })
    }

    /// The agent may not know of its assignment: its next claim is told.
    pub(super) fn not_told(&mut self, task: TaskId, token: u64) {
        self.board.update(task, |entry| {
            if entry.lease.is_some_and(|lease| lease.token == token) {
                entry.delivered = false;
            }
        });
    }

    /// What a purge is to cancel: the tenant, and the position of its first event.
    pub fn purge(&self, operation: uuid::Uuid) -> Option<(TenantId, u64)> {
        self.board.purge(operation)
    }

    /// What waits in a queue and was submitted before a position, with its version.
    pub fn waiting_in(&self, tenant: &TenantId, queue: &str, before: u64) -> Vec<(TaskId, u64)> {
        self.board.waiting_in(tenant, queue, before)
    }

    pub(super) fn waiting_claims(&self) -> usize {
        self.waiters.len()
    }
}

/// Whether a task is still as a pick left it.
fn concerns(entry: &Entry, pick: &Pick) -> bool {
    if pick.assign.is_some() {
        entry.reserved.is_some_and(|by| by.pick == pick.id)
    } else {
        entry.lease.is_some_and(|lease| lease.token == pick.id)
    }
}
