//! The scheduler's decisions made once more from the log.
//!
//! What a scheduler knows is the log up to the position that its record names, its own
//! decisions under way (which are in the log too, further on, or are told as lost), the
//! time, and the few things told as learnt. All that is put together again here, and the
//! same functions choose again. Which claims were waiting and who listened is not in the
//! log: of those the record's own list is taken, each is judged anew, and the best of
//! them must be the one that was chosen.

use std::collections::BTreeMap;

use domain::task::{Choice, Decision, Learnt, TaskAssigned, TaskEvent};
use domain::{AgentId, Event, Recorded, TaskId, TenantId, Timestamp};
use serde::Serialize;

use super::board::Board;
use super::core::ACTOR;
use super::entry::Reserved;
use super::needs::Standing;
use super::record::reason;

/// Faults that a report names at most.
const MOST_FAULTS: usize = 100;

/// What became of a check of all decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DecisionReport {
    /// Assignments of the scheduler.
    pub decisions: u64,
    /// Those that come out the same.
    pub identical: u64,
    /// Those that do not, where a decision before them came to nothing and no record says
    /// what it had taken: the next decision of its session for its tenant tells, and none
    /// was made since, because the process ended or because nothing was left to give out.
    pub unknown: u64,
    /// Those that do not.
    pub different: u64,
    /// The first of the last, in the order of the decisions.
    pub faults: Vec<DecisionFault>,
}

/// A decision that does not come out the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionFault {
    /// Of its event.
    pub position: u64,
    /// The task.
    pub task_id: TaskId,
    /// The agent that got it.
    pub agent_id: AgentId,
    /// What is different, for people.
    pub what: String,
}

/// One decision in the order in which they were made.
#[derive(Debug)]
enum Made {
    Recorded(Box<Record>),
    /// It came to nothing.
    Lost(Learnt),
}

#[derive(Debug)]
struct Record {
    position: u64,
    tenant: TenantId,
    task: TaskId,
    agent: AgentId,
    reason: Option<String>,
    decision: Decision,
}

type Key = (u64, u64);

/// All decisions of a log, which is read twice: to collect them, then to follow it.
#[derive(Debug, Default)]
pub struct Decisions {
    made: BTreeMap<Key, Made>,
    learnt: BTreeMap<Key, Vec<(TenantId, Learnt)>>,
    /// Whose are reported; all, where nobody is named.
    tenant: Option<TenantId>,
    report: DecisionReport,
}

impl Decisions {
    /// Those of a tenant are reported; the others are followed all the same.
    pub fn of(tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), ..Self::default() }
    }

    fn reports(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|of| of == tenant)
    }

    fn differs(&mut self, tenant: &TenantId, fault: DecisionFault) {
        if self.reports(tenant) {
            self.report.differs(fault);
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, event: &Recorded) {
        let Some(assigned) = by_scheduler(event) else { return };
        self.report.decisions += u64::from(self.reports(&event.tenant));
        let (task, agent) = (TaskId(event.stream_id), assigned.agent_id);
        let fault = |what: &str| DecisionFault {
            position: event.position,
            task_id: task,
            agent_id: agent,
            what: what.into(),
        };
        let Some(decision) = &assigned.decision else {
            return self.differs(&event.tenant, fault("it has no record"));
        };
        let key = (decision.session, decision.nth);
        if decision.seen >= event.position {
            let fault = fault("it names positions that came after it");
            return self.differs(&event.tenant, fault);
        }
        for learnt in &decision.learnt {
            let before = (decision.session, learnt.before());
            self.learnt.entry(before).or_default().push((event.tenant.clone(), *learnt));
            if let Learnt::Lost { nth, .. } = learnt {
                self.made.entry((decision.session, *nth)).or_insert(Made::Lost(*learnt));
            }
        }
        let record = Record {
            position: event.position,
            tenant: event.tenant.clone(),
            task,
            agent,
            reason: assigned.reason.clone(),
            decision: Decision { learnt: Vec::new(), ..(**decision).clone() },
        };
        match self.made.insert(key, Made::Recorded(Box::new(record))) {
            None | Some(Made::Lost(_)) => {}
            Some(Made::Recorded(other)) => {
                let what =
                    format!("it has the number of the decision at position {}", other.position);
                self.differs(&event.tenant, fault(&what));
            }
        }
    }

    /// Begins to follow the log from its start.
    pub fn follow(self) -> Follower {
        Follower { all: self, ..Follower::default() }
    }
}

impl DecisionReport {
    fn differs(&mut self, fault: DecisionFault) {
        self.different += 1;
        let at = self.faults.partition_point(|known| known.position <= fault.position);
        self.faults.insert(at, fault);
        self.faults.truncate(MOST_FAULTS);
    }
}

fn by_scheduler(event: &Recorded) -> Option<&TaskAssigned> {
    match event.event() {
        Ok(Event::Task(TaskEvent::Assigned(to))) if &*event.actor == ACTOR => Some(to),
        Ok(_) | Err(_) => None,
    }
}

/// Follows the log and makes each decision once more when its time has come.
#[derive(Debug, Default)]
pub struct Follower {
    all: Decisions,
    /// The log alone: what a new session starts from.
    log: Board,
    /// The log and what the session has decided.
    board: Board,
    session: Option<u64>,
    /// The decision before was this one.
    last: u64,
    /// A decision of the session is told nowhere.
    gap: bool,
}

impl Follower {
    /// Folds an event, then makes the decisions that were made on it.
    pub fn apply(&mut self, event: &Recorded) {
        self.log.apply(event, ACTOR);
        self.board.apply(event, ACTOR);
        loop {
            self.learn(event.position);
            let Some(((session, nth), made)) = self.next_made_on(event.position) else { return };
            if self.session != Some(session) {
                self.board = self.log.clone();
                self.session = Some(session);
                (self.last, self.gap) = (0, false);
                self.learn(event.position);
            }
            self.gap |= nth != self.last + 1;
            self.last = nth;
            match made {
                Made::Recorded(record) => self.decide(*record, event.position),
                Made::Lost(Learnt::Lost { task, agent, at, .. }) => {
                    self.board.advance(at);
                    self.reserve(task, agent, nth);
                }
                Made::Lost(Learnt::Found { .. }) => {}
            }
        }
    }

    /// The outcome so far.
    pub(super) fn report(&self) -> &DecisionReport {
        &self.all.report
    }

    /// The outcome. What was never reached names positions that the log does not have.
    pub fn finish(mut self) -> DecisionReport {
        for made in std::mem::take(&mut self.all.made).into_values() {
            if let Made::Recorded(record) = made {
                self.differs(&record, "it names positions that the log does not have".into());
            }
        }
        self.all.report
    }

    /// The next decision, if what it was made on is folded.
    fn next_made_on(&mut self, position: u64) -> Option<(Key, Made)> {
        let (_, made) = self.all.made.first_key_value()?;
        let seen = match made {
            Made::Recorded(record) => record.decision.seen,
            Made::Lost(Learnt::Lost { seen, .. }) => *seen,
            Made::Lost(Learnt::Found { .. }) => 0,
        };
        if seen > position { None } else { self.all.made.pop_first() }
    }

    /// Takes in what the session had learnt by this position and between these decisions.
    fn learn(&mut self, position: u64) {
        while let Some(mut entry) = self.all.learnt.first_entry() {
            let (session, before) = *entry.key();
            if Some(session) < self.session {
                // Its session had ended before it mattered.
                entry.remove();
                continue;
            }
            let ours = self.session == Some(session) && before <= self.last + 1;
            // Each when it was learnt: what is folded between two of them may depend on it.
            let reached = |(_, learnt): &mut (TenantId, Learnt)| learnt.after() <= position;
            let reached: Vec<_> =
                if ours { entry.get_mut().extract_if(.., reached).collect() } else { return };
            let more = !entry.get().is_empty();
            if !more {
                entry.remove();
            }
            for (tenant, learnt) in reached {
                match learnt {
                    Learnt::Found { task, state, archived, .. } => {
                        let found = Standing { state, archived, cause: 0, at: 0 };
                        self.board.looked_up(&tenant, task, Some(found));
                    }
                    Learnt::Lost { nth, task, rest, .. } => self.put_back(task, nth, rest),
                }
            }
            if more {
                return;
            }
        }
    }

    fn put_back(&mut self, task: TaskId, nth: u64, rest: Option<Timestamp>) {
        let entry = self.board.task(task);
        if entry.is_some_and(|entry| entry.reserved.is_some_and(|by| by.pick == nth)) {
            self.board.unreserve(task, |entry| entry.put_back(rest));
        }
    }

    fn reserve(&mut self, task: TaskId, agent: AgentId, nth: u64) {
        self.board.reserve(task, Reserved { agent, pick: nth });
    }

    fn decide(&mut self, record: Record, position: u64) {
        self.board.advance(record.decision.at);
        let found = if record.decision.seen < position {
            Some("it names an earlier position than the decision before it".to_owned())
        } else {
            self.differs_in(&record)
        };
        match found {
            _ if !self.all.reports(&record.tenant) => {}
            None => self.all.report.identical += 1,
            Some(_) if self.gap => self.all.report.unknown += 1,
            Some(what) => self.differs(&record, what),
        }
        self.reserve(record.task, record.agent, record.decision.nth);
    }

    fn differs(&mut self, record: &Record, what: String) {
        let fault = DecisionFault {
            position: record.position,
            task_id: record.task,
            agent_id: record.agent,
            what,
        };
        self.all.differs(&record.tenant, fault);
    }

    /// What comes out differently when the decision is made once more.
    fn differs_in(&self, record: &Record) -> Option<String> {
        let Record { task, agent, decision, .. } = record;
        if decision.agent_id != *agent {
            return Some(format!("the record names agent {}", decision.agent_id));
        }
        let Some(entry) = self.board.task(*task).filter(|entry| entry.tenant == record.tenant)
        else {
            return Some("no such task was open".into());
        };
        let queue = entry.queue.clone();
        let (mut level, mut of) = (0, decision.of as usize);
        match decision.choice {
            Choice::Queue | Choice::Queues => {
                let named = (decision.choice == Choice::Queue).then_some(&*queue);
                let turns = self.board.turns(*agent, named);
                let Some(first) = turns.best.first() else {
                    return Some("the agent has no room, or nothing that waits fits it".into());
                };
                if first.rank.task != *task {
                    return Some(format!("the agent's next task is {}", first.rank.task));
                }
                if turns.candidates() != decision.candidates
                    || turns.rejected != decision.rejected
                    || turns.of != of
                {
                    return Some(format!(
                        "the task is the same, but the candidates are {:?} of {}, rejected {:?}",
                        turns.candidates(),
                        turns.of,
                        turns.rejected
                    ));
                }
                (level, of) = (first.level, turns.of);
            }
            Choice::Claims | Choice::Listeners => {
                if !self.board.waiting.is_exposed(*task, entry) {
                    return Some("the task could not be given out".into());
                }
                if let Some(what) = self.judge(record) {
                    return Some(what);
                }
            }
        }
        let reason = reason(decision.choice, &queue, level, of);
        (record.reason.as_ref() != Some(&reason)).then(|| format!("the reason is: {reason}"))
    }

    /// Judges the agents that the record names.
    fn judge(&self, record: &Record) -> Option<String> {
        let Record { task, agent, decision, tenant, .. } = record;
        let entry = self.board.task(*task)?;
        let scoring = self.board.waiting.scoring(tenant, &entry.queue);
        let first = decision.candidates.first().map(|candidate| AgentId(candidate.id));
        if first != Some(*agent) {
            return Some("the first candidate is another agent".into());
        }
        for candidate in &decision.candidates {
            let id = AgentId(candidate.id);
            let Some(facts) = self.board.roster.get(id).filter(|facts| facts.tenant == *tenant)
            else {
                return Some(format!("there was no agent {id}"));
            };
            if let Err(why) = entry.shape.judge(id, facts) {
                return Some(format!("agent {id} could not have it: {why:?}"));
            }
            if self.board.free_slots(id) == 0 {
                return Some(format!("agent {id} had no room"));
            }
            let points = entry.shape.points(id, facts, self.board.count_held(id), &scoring);
            if points != candidate.score {
                return Some(format!("agent {id} has {points} points, not {}", candidate.score));
            }
        }
        let sorted = decision.candidates.windows(2).all(|two| two[0].score >= two[1].score);
        (!sorted).then(|| "the first candidate has not the most points".into())
    }
}
