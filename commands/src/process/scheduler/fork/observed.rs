//! What the log says of how agents behaved: each run of each task step by step, and how each
//! agent asks for work.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use domain::agent::{AgentEvent, AgentRegistered};
use domain::task::{Choice, TaskEvent};
use domain::{AgentId, Event, Json, Recorded, TaskId, TenantId};

use super::super::core::ACTOR;

/// Queues that may have tasks at once for it to matter which an agent takes from first.
const MOST_QUEUES: usize = 16;
/// Samples kept of each distribution; what comes later says little more.
const MOST_SAMPLES: usize = 10_000;

/// What an agent does with a task that it has.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Start,
    Extend(u64),
    Block { reason: String },
    Unblock,
    Review { result: Json },
    Release,
    Complete { result: Json },
    Fail { error: Json, class: Option<String>, retryable: bool, wait_ms: Option<u64> },
}

/// One step, so long after the assignment.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub after_us: i64,
    pub position: u64,
    pub step: Step,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By its own last step.
    Itself,
    /// Its lease ran out: the agent was silent.
    Silent,
    /// Somebody else ended it, or it had not ended: how it would have gone on is unknown.
    Cut { after_us: i64 },
}

/// From one assignment to its end.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub agent: AgentId,
    /// Its claim had it started.
    pub started: bool,
    pub steps: Vec<Done>,
    pub ended: Ended,
    at_us: i64,
}

impl Run {
    /// When it began, in microseconds.
    pub fn at_us(&self) -> i64 {
        self.at_us
    }
}

/// How an agent asks for work.
#[derive(Debug, Clone, Default)]
pub(super) struct Ways {
    /// It is pushed its work.
    pub listens: bool,
    /// Queues that it claims from.
    pub queues: BTreeSet<Arc<str>>,
    /// How often it took from a queue while others had tasks, and how often it left one for
    /// another.
    taken: HashMap<Arc<str>, (u32, u32)>,
    pub lease_ms: Option<u64>,
    pub start: bool,
    /// From when on it is known to have been there, in microseconds.
    pub from_us: Option<i64>,
    /// From a free slot to its next question while work waited, in microseconds.
    pub pauses: Vec<i64>,
    /// When slots of its became free and were not filled yet.
    pub free: VecDeque<i64>,
}

impl Ways {
    /// Its queues, the one first that it prefers to the others.
    pub fn in_order(&self) -> Vec<Arc<str>> {
        let left = |queue: &Arc<str>| {
            let (taken, left) = self.taken.get(queue).copied().unwrap_or_default();
            u64::from(left) * 1_000 / u64::from(taken + left).max(1)
        };
        let mut queues: Vec<Arc<str>> = self.queues.iter().cloned().collect();
        queues.sort_by_key(left);
        queues
    }

    /// It took a task from a queue; these had tasks as well.
    pub fn took(&mut self, queue: &str, others: &[Arc<str>]) {
        if let Some(queue) = self.queues.get(queue).filter(|_| !others.is_empty()) {
            self.taken.entry(queue.clone()).or_default().0 += 1;
        }
        for other in others {
            self.taken.entry(other.clone()).or_default().1 += 1;
        }
    }
}

/// A decision that the log shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub seen: u64,
    pub position: u64,
    pub key: (u64, u64),
    pub task: TaskId,
    pub agent: AgentId,
}

/// What the log says of behaviour.
#[derive(Debug)]
pub(crate) struct Observed {
    tenant: TenantId,
    from: u64,
    pub(super) runs: HashMap<TaskId, Vec<Run>>,
    open: HashMap<TaskId, Run>,
    /// About how many tasks wait, by queue.
    waiting: BTreeMap<Arc<str>, i64>,
    kinds: HashMap<TaskId, u32>,
    names: HashMap<(String, String), u32>,
    /// Whole runs by queue and type: what is drawn from.
    pub(super) of_kind: BTreeMap<u32, Vec<(TaskId, usize)>>,
    pub(super) whole: Vec<(TaskId, usize)>,
    pub(super) ways: BTreeMap<AgentId, Ways>,
    pub(super) made: Vec<Made>,
    /// Agents that came in the stretch, as they said at first.
    pub(super) came: HashMap<AgentId, AgentRegistered>,
    /// From decision to commit.
    landing: Vec<i64>,
    /// Of the first event behind `from`, in microseconds.
    began_us: Option<i64>,
    /// Positions that it has read.
    pub(super) read: u64,
}

impl Observed {
    pub fn of(tenant: TenantId, from: u64) -> Self {
        Self {
            tenant,
            from,
            runs: HashMap::new(),
            open: HashMap::new(),
            waiting: BTreeMap::new(),
            kinds: HashMap::new(),
            names: HashMap::new(),
            of_kind: BTreeMap::new(),
            whole: Vec::new(),
            ways: BTreeMap::new(),
            made: Vec::new(),
            came: HashMap::new(),
            landing: Vec::new(),
            began_us: None,
            read: 0,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, event: &Recorded) {
        self.read = event.position;
        if event.tenant != self.tenant {
            return;
        }
        let now = event.recorded_at.timestamp_micros();
        if event.position > self.from {
            self.began_us.get_or_insert(now);
        }
        match event.event() {
            Ok(Event::Task(happened)) => self.note_task(event, happened, now),
            Ok(Event::Agent(AgentEvent::Registered(said) | AgentEvent::Reconnected(said)))
                if event.position > self.from =>
            {
                let id = AgentId(event.stream_id);
                self.came.entry(id).or_insert_with(|| said.clone());
                let ways = self.ways.entry(id).or_default();
                ways.from_us.get_or_insert(now);
            }
            Ok(
                Event::Agent(_)
                | Event::Operation(_)
                | Event::Crew(_)
                | Event::Schedule(_)
                | Event::Queue(_)
                | Event::Node(_)
                | Event::Profile(_),
            )
            | Err(_) => {}
        }
    }

    fn note_task(&mut self, event: &Recorded, happened: &TaskEvent, now: i64) {
        use TaskEvent as E;
        let task = TaskId(event.stream_id);
        match happened {
            E::Submitted(new) => {
                let next = self.names.len() as u32;
                let name = (new.queue.clone(), new.kind.clone());
                let kind = *self.names.entry(name).or_insert(next);
                self.kinds.insert(task, kind);
                self.waits(&new.queue, 1);
            }
            E::Assigned(to) => {
                self.close(task, now, None);
                let lease_us = to.lease_expires_at.timestamp_micros() - now;
                let (at_us, steps) = (now, Vec::new());
                let (ended, started) = (Ended::Cut { after_us: 0 }, false);
                let run = Run { agent: to.agent_id, started, steps, ended, at_us };
                self.open.insert(task, run);
                self.waits(&to.queue, -1);
                let from_us = self.began_us;
                let others = self.others(&to.queue);
                let ways = self.ways.entry(to.agent_id).or_default();
                let Some(decision) = to.decision.as_deref().filter(|_| &*event.actor == ACTOR)
                else {
                    ways.from_us = ways.from_us.or(from_us).or(Some(now));
                    return;
                };
                // In whole tenths of a second: the clock ran on between decision and lease.
                ways.lease_ms = u64::try_from((lease_us + 50_000) / 100_000 * 100).ok();
                let asked = match decision.choice {
                    Choice::Queue | Choice::Claims => {
                        if !ways.queues.contains(to.queue.as_str()) {
                            ways.queues.insert(to.queue.as_str().into());
                        }
                        decision.choice == Choice::Queue
                    }
                    Choice::Queues | Choice::Listeners => {
                        ways.listens = true;
                        false
                    }
                };
                if asked {
                    ways.took(&to.queue, &others);
                }
                let at = decision.at.timestamp_micros();
                // Of whom a task waited for it is known when it asked, of others that they
                // had asked before.
                let since = if asked { Some(at) } else { from_us };
                ways.from_us = ways.from_us.or(since).or(Some(at));
                if let Some(free) = ways.free.pop_front()
                    && asked
                    && ways.pauses.len() < MOST_SAMPLES
                {
                    ways.pauses.push((at - free).max(0));
                }
                if self.landing.len() < MOST_SAMPLES {
                    self.landing.push((now - at).max(0));
                }
                let key = (decision.session, decision.nth);
                let (seen, position, agent) = (decision.seen, event.position, to.agent_id);
                if position > self.from {
                    self.made.push(Made { seen, position, key, task, agent });
                }
            }
            E::Started(_) if &*event.actor == ACTOR => {
                let agent = self.open.get_mut(&task).map(|run| {
                    run.started = true;
                    run.agent
                });
                if let Some(ways) = agent.and_then(|agent| self.ways.get_mut(&agent)) {
                    ways.start = true;
                }
            }
            E::Started(_) => self.step(event, task, now, Step::Start),
            E::LeaseExtended(to) => {
                let left = to.lease_expires_at.timestamp_micros() - now;
                let ms = u64::try_from(left / 1_000).unwrap_or_default();
                self.step(event, task, now, Step::Extend(ms));
            }
            E::Blocked(by) => {
                self.step(event, task, now, Step::Block { reason: by.reason.clone() })
            }
            E::Unblocked(_) if event.actor.starts_with("agent:") => {
                self.step(event, task, now, Step::Unblock);
            }
            E::ReviewRequested(_) => {
                self.step(event, task, now, Step::Review { result: Json::null() });
                self.close(task, now, Some(Ended::Itself));
            }
            E::Completed(done) if done.agent_id.is_some() => {
                let result =
                    if told_usage(&done.result) { done.result.clone() } else { Json::null() };
                self.step(event, task, now, Step::Complete { result });
                self.close(task, now, Some(Ended::Itself));
            }
            E::AttemptFailed(failed) => {
                let wait = failed.retry_at.map(|at| at.timestamp_micros() - now);
                let wait_ms = wait.and_then(|us| u64::try_from(us / 1_000).ok());
                let error = Json::null();
                let class = failed.class.clone();
                let fail = Step::Fail { error, class, retryable: true, wait_ms };
                self.waits(&failed.queue, 1);
                self.step(event, task, now, fail);
                self.close(task, now, Some(Ended::Itself));
            }
            // Behind its last attempt, in the same commit.
            E::Failed(failed) => {
                self.waits(&failed.queue, -1);
                if let Some(run) = self.runs.get_mut(&task).and_then(|runs| runs.last_mut())
                    && let Some(Step::Fail { retryable, .. }) =
                        run.steps.last_mut().map(|done| &mut done.step)
                {
                    *retryable = false;
                }
            }
            E::Released(_) => {
                self.step(event, task, now, Step::Release);
                self.close(task, now, Some(Ended::Itself));
            }
            E::LeaseExpired(expired) => {
                self.waits(&expired.queue, 1);
                self.close(task, now, Some(Ended::Silent));
            }
            E::DeadLettered(dead) => self.waits(&dead.queue, -1),
            E::Unassigned(_) | E::Cancelled(_) | E::Archived(_) | E::Requeued(_) => {
                self.close(task, now, None);
            }
            E::Completed(_)
            | E::Unblocked(_)
            | E::Updated(_)
            | E::Progressed(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::Overdue(_)
            | E::Escalated(_) => {}
        }
    }

    /// About: what is cancelled, or handed back, is not counted again.
    fn waits(&mut self, queue: &str, by: i64) {
        match self.waiting.get_mut(queue) {
            Some(count) => {
                *count = (*count + by).max(0);
                if *count == 0 {
                    self.waiting.remove(queue);
                }
            }
            None if by > 0 => drop(self.waiting.insert(queue.into(), by)),
            None => {}
        }
    }

    /// The other queues that have tasks, where those are few.
    fn others(&self, queue: &str) -> Vec<Arc<str>> {
        if self.waiting.len() > MOST_QUEUES {
            return vec![];
        }
        self.waiting.keys().filter(|of| ***of != *queue).cloned().collect()
    }

    fn step(&mut self, event: &Recorded, task: TaskId, now: i64, step: Step) {
        let Some(run) = self.open.get_mut(&task) else { return };
        // An answer that implies the start is one command.
        if !matches!(step, Step::Start)
            && let Some(last) = run.steps.last()
            && matches!(last.step, Step::Start)
            && last.position + 1 == event.position
            && last.after_us == now - run.at_us
        {
            run.steps.pop();
        }
        run.steps.push(Done { after_us: now - run.at_us, position: event.position, step });
    }

    fn close(&mut self, task: TaskId, now: i64, ended: Option<Ended>) {
        let Some(mut run) = self.open.remove(&task) else { return };
        let after_us = now - run.at_us;
        run.ended = ended.unwrap_or(Ended::Cut { after_us });
        if let Some(ways) = self.ways.get_mut(&run.agent)
            && ways.free.len() < 1_000
        {
            ways.free.push_back(now);
        }
        if self.read <= self.from {
            return;
        }
        let runs = self.runs.entry(task).or_default();
        if !matches!(run.ended, Ended::Cut { .. }) {
            let this = (task, runs.len());
            let kind = self.kinds.get(&task).copied().unwrap_or(u32::MAX);
            let known = self.of_kind.entry(kind).or_default();
            if known.len() < MOST_SAMPLES {
                known.push(this);
            }
            if self.whole.len() < MOST_SAMPLES {
                self.whole.push(this);
            }
        }
        runs.push(run);
    }

    /// The end of what is read: what goes on there is cut.
    pub fn end(&mut self, now_us: i64) {
        let open: Vec<TaskId> = self.open.keys().copied().collect();
        for task in open {
            self.close(task, now_us, None);
        }
        self.landing.sort_unstable();
        let all: Vec<i64> = self.ways.values().flat_map(|ways| ways.pauses.clone()).collect();
        for ways in self.ways.values_mut() {
            // Too few of its own say less than everybody's.
            if ways.pauses.len() < 5 {
                ways.pauses.clone_from(&all);
            }
        }
    }

    /// From decision to commit, in the median, in microseconds.
    pub(super) fn landing_us(&self) -> i64 {
        self.landing.get(self.landing.len() / 2).copied().unwrap_or_default()
    }

    /// Whether any task named the queue.
    pub(super) fn knows(&self, queue: &str) -> bool {
        self.names.keys().any(|(of, _)| of == queue)
    }

    pub(super) fn kind_of(&self, task: TaskId) -> Option<u32> {
        self.kinds.get(&task).copied()
    }

    /// How the fleet mostly asks, for agents of whom nothing is known.
    pub(super) fn usual(&self) -> Ways {
        let mut usual = Ways::default();
        for ways in self.ways.values() {
            usual.queues.extend(ways.queues.iter().cloned());
            usual.lease_ms = usual.lease_ms.max(ways.lease_ms);
            usual.start |= ways.start;
            if usual.pauses.len() < MOST_SAMPLES {
                usual.pauses.extend(ways.pauses.iter().take(100));
            }
        }
        usual.listens = usual.queues.is_empty();
        usual
    }
}

/// Whether a result tells what it used.
pub(super) fn told_usage(result: &Json) -> bool {
    result.as_str().contains("\"usage\"")
}
