//! The decisions: which waiting task goes to which agent. Pure: time comes in, picks
//! go out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use domain::agent::AgentEvent;
use domain::task::{
    AssignTask, Assignment, AssignmentLease, Choice, Decision, Learnt, Reason, TaskCommand,
    TaskEvent, TaskState,
};
use domain::{AgentId, Code, Event, Json, Problem, Recorded, TaskId, TenantId, Timestamp};

use super::board::Board;
use super::entry::{Entry, Payload, Rank, Reserved};
use super::listeners::Live;
use super::matching::Listed;
use super::needs::Standing;
use super::record::Why;
use super::stuck::Watches;
use super::waiters::{Terms, Waiter, Waiters};
use super::waiting::{Next, QueueId, Turns};
use crate::CommandEnvelope;
use crate::process::roster::agent_of;
use crate::process::{command_id, watchdog};

/// Who the commands are from.
pub(super) const ACTOR: &str = domain::task::SCHEDULER;
/// How long a task rests after an assignment that was refused or not taken.
const REST: chrono::Duration = chrono::Duration::seconds(1);
/// Tasks that a queue gives out in one pass when it gives out again.
const MOST_AT_ONCE: usize = 16;

/// Things learnt that one record tells at most.
const MOST_LEARNT: usize = 64;
/// Things learnt that are kept for later records.
const MOST_KEPT: usize = 10_000;

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
    /// Agents who listen and have a free slot.
    pub(super) listeners: BTreeMap<TenantId, Listed>,
    /// Agents of whom nobody knows whether they listen.
    pub(super) unheard: BTreeSet<AgentId>,
    /// Agents who let a lease run out and gave no sign of life since.
    pub(super) doubted: BTreeSet<AgentId>,
    /// Agents who did not listen when they were asked, in turn.
    pub(super) deaf: VecDeque<AgentId>,
    pub(super) given: u64,
    /// The token under which it decides.
    session: u64,
    /// What it learnt beside the log, and wrote down nowhere yet. A tenant's events tell
    /// of that tenant alone.
    learnt: HashMap<TenantId, VecDeque<Learnt>>,
}

impl Scheduler {
    /// Decides under this token of the managers' lease, and has what stands still for so
    /// long escalated.
    pub fn under(session: u64, escalate_after: Option<Duration>) -> Self {
        let mut scheduler = Self { session, ..Self::default() };
        scheduler.board.watches = Watches::new(escalate_after);
        scheduler
    }

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
    /// Whether work waits that an agent could do, were it awake.
    pub fn is_work_for(&self, agent: AgentId) -> bool {
        let facts = self.board.roster.get(agent);
        facts.is_some_and(|facts| !self.board.waiting.turns(agent, facts, None).best.is_empty())
    }

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
        while hands.of(id) < max {
            let turns = self.turns(agent, Some(&queue));
            let Some(Next { rank, .. }) = turns.best.first().copied() else { break };
            // Just come: another claim may be waiting for it, and fit better.
            if fresh.remove(&rank) && self.offer(rank, hands) {
                continue;
            }
            let why = Why::turns(Choice::Queue, &queue, &turns);
            let pick = self.reserve(rank.task, agent, terms, why);
            hands.claims.entry(id).or_default().extend(pick);
        }
        if hands.of(id) >= max {
            self.waiters.fill(id);
        }
    }

    /// Pushes to a listener what is its own already, then the next tasks of any queue.
    fn push_to(&mut self, agent: AgentId, hands: &mut Hands, fresh: &mut BTreeSet<Rank>) {
        if !self.listens(agent) {
            return;
        }
        for task in self.undelivered(agent) {
            hands.pushes.extend(self.again(task, agent));
        }
        loop {
            let turns = self.turns(agent, None);
            let Some(Next { rank, .. }) = turns.best.first().copied() else { break };
            // Just come: a claim may be waiting for it, and whoever asks comes first.
            if fresh.remove(&rank) && self.offer(rank, hands) {
                continue;
            }
            let why = Why::turns(Choice::Queues, "", &turns);
            hands.pushes.extend(self.reserve(rank.task, agent, Terms::default(), why));
        }
    }

    /// Offers a task that came into a lane: to waiting claims, then to listeners.
    fn offer(&mut self, rank: Rank, hands: &mut Hands) -> bool {
        let Some(entry) = self.board.task(rank.task) else { return false };
        if !self.board.waiting.is_exposed(rank.task, entry) {
            return false;
        }
        let claims = self.best_claims(entry);
        let claim = claims.best.first().map(|(_, (_, id, _))| *id);
        if let Some((id, waiter)) = claim.and_then(|id| Some((id, self.waiters.get(id)?))) {
            let (agent, terms, max) = (waiter.agent, waiter.terms, waiter.max);
            let why = Why::matched(Choice::Claims, &entry.queue, &claims);
            let pick = self.reserve(rank.task, agent, terms, why);
            hands.claims.entry(id).or_default().extend(pick);
            if hands.of(id) >= max {
                self.waiters.fill(id);
            }
            return true;
        }
        let listeners = self.best_listeners(entry);
        let Some((_, (_, _, agent))) = listeners.best.first().copied() else { return false };
        let why = Why::matched(Choice::Listeners, &entry.queue, &listeners);
        hands.pushes.extend(self.reserve(rank.task, agent, Terms::default(), why));
        true
    }

    /// The next tasks for an agent; none where it has no room.
    pub(super) fn turns(&self, agent: AgentId, queue: Option<&str>) -> Turns {
        self.board.turns(agent, queue)
    }

    /// Takes a task out of the queue for an agent, and says how it is assigned.
    fn reserve(
        &mut self,
        task: TaskId,
        agent: AgentId,
        Terms { lease_ms, start }: Terms,
        why: Why,
    ) -> Option<Pick> {
        self.given += 1;
        let id = self.given;
        self.live.entry(agent).or_default().given = id;
        let decision = self.decision(task, agent, &why);
        self.board.reserve(task, Reserved { agent, pick: id });
        // Its hands are fuller: the next choice must see that.
        self.relist(agent);
        let entry = self.board.task(task)?;
        let cause = format_args!("assign:{}", entry.version);
        let body = AssignTask {
            agent_id: agent,
            lease_ms,
            reason: Some(why.reason),
            start,
            decision: Some(Box::new(decision)),
        };
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

    /// The record of a choice, and of what it took into account beside the log.
    fn decision(&mut self, task: TaskId, agent: AgentId, why: &Why) -> Decision {
        let mut learnt = Vec::new();
        let tenant = self.board.task(task).map(|entry| &entry.tenant);
        if let Some(tenant) = tenant
            && let Some(all) = self.learnt.get_mut(tenant)
        {
            learnt.extend(all.drain(..all.len().min(MOST_LEARNT)));
            if all.is_empty() {
                self.learnt.remove(tenant);
            }
        }
        Decision {
            session: self.session,
            nth: self.given,
            seen: self.board.seen(),
            at: self.board.now(),
            agent_id: agent,
            choice: why.choice,
            candidates: why.candidates.clone(),
            of: u32::try_from(why.of).unwrap_or(u32::MAX),
            rejected: why.rejected,
            learnt,
        }
    }

    /// Keeps what was learnt for the next record; of very much the oldest is lost, and
    /// what it explains can't be decided once more.
    fn learn(&mut self, tenant: &TenantId, learnt: Learnt) {
        let all = self.learnt.entry(tenant.clone()).or_default();
        if all.len() >= MOST_KEPT {
            all.pop_front();
        }
        all.push_back(learnt);
    }

    /// Whether it lost a decision that no record tells of yet: those made between may have
    /// gone by it, and until the next record nobody else can know.
    #[cfg(test)]
    pub(super) fn keeps_a_loss(&self) -> bool {
        let mut all = self.learnt.values().flatten();
        all.any(|learnt| matches!(learnt, Learnt::Lost { .. }))
    }

    /// What the log says of a dependency that is not in memory; `None`: it knows of none.
    pub(super) fn looked_up(&mut self, tenant: &TenantId, task: TaskId, found: Option<Standing>) {
        if let Some(Standing { state, archived, .. }) = found {
            let (before, after) = (self.given + 1, self.board.seen());
            self.learn(tenant, Learnt::Found { task, state, archived, before, after });
        }
        self.board.looked_up(tenant, task, found);
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
        if let Some(lost) = pick.assign.as_ref().and_then(decision_in) {
            let (task, agent, tenant) = (pick.task, pick.agent, &pick.tenant);
            let Decision { nth, seen, at, .. } = *lost;
            let (before, after) = (self.given + 1, self.board.seen());
            // What its record had to tell goes into another one.
            lost.learnt.iter().for_each(|learnt| self.learn(tenant, *learnt));
            let learnt = Learnt::Lost { nth, task, agent, seen, at, before, after, rest: until };
            self.learn(tenant, learnt);
        }
        if !self.board.task(pick.task).is_some_and(|entry| concerns(entry, pick)) {
            return;
        }
        let change = |entry: &mut Entry| {
            if entry.reserved.is_some_and(|by| pick.assign.is_some() && by.pick == pick.id) {
                entry.put_back(until);
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

    /// What waits in a queue and was submitted before a position, with its version.
    pub fn waiting_in(&self, tenant: &TenantId, queue: &str, before: u64) -> Vec<(TaskId, u64)> {
        self.board.waiting_in(tenant, queue, before)
    }

    pub(super) fn waiting_claims(&self) -> usize {
        self.waiters.len()
    }
}

/// The record in the command that carries a decision out.
fn decision_in(command: &CommandEnvelope) -> Option<&Decision> {
    let domain::Command::Task(TaskCommand::Assign(to)) = &command.command else { return None };
    to.decision.as_deref()
}

/// Whether a task is still as a pick left it.
fn concerns(entry: &Entry, pick: &Pick) -> bool {
    if pick.assign.is_some() {
        let given = entry.picked == Some(pick.id) && entry.ours;
        let to_it = entry.lease.is_some_and(|lease| lease.agent_id == pick.agent);
        entry.reserved.is_some_and(|by| by.pick == pick.id) || (given && to_it)
    } else {
        entry.lease.is_some_and(|lease| lease.token == pick.id)
    }
}
