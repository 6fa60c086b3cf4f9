//! Work liveness: tasks that stand still on agents that live.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use domain::task::TaskEvent;
use domain::{AgentId, Recorded, TaskId};

/// A task in an agent's hands.
#[derive(Debug)]
struct Work {
    /// `None` since the last look: it moved.
    moved: Option<Instant>,
    /// It waits for somebody, which is no fault of the agent.
    waits: bool,
}

/// What each agent works on, and how long it stands still.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// Of tasks that set one, until their end.
    limits: HashMap<TaskId, Duration>,
    holders: HashMap<TaskId, AgentId>,
    works: HashMap<AgentId, BTreeMap<TaskId, Work>>,
    /// The last progress counter of an agent's heartbeats.
    counters: HashMap<AgentId, u64>,
}

impl Stalls {
    pub fn apply(&mut self, recorded: &Recorded, event: &TaskEvent) {
        use TaskEvent as E;
        let task = TaskId(recorded.stream_id);
        match event {
            E::Submitted(new) => {
                if let Some(ms) = new.stall_ms {
                    self.limits.insert(task, Duration::from_millis(ms));
                }
            }
            E::Updated(changes) => match changes.stall_ms {
                Some(Some(ms)) => drop(self.limits.insert(task, Duration::from_millis(ms))),
                Some(None) => drop(self.limits.remove(&task)),
                None => {}
            },
            E::Assigned(given) => {
                self.take(task);
                self.holders.insert(task, given.agent_id);
                let works = self.works.entry(given.agent_id).or_default();
                works.insert(task, Work { moved: None, waits: true });
            }
            // Until it begins, its lease alone says whether it is forgotten.
            E::Started(_) | E::Progressed(_) | E::Unblocked(_) => self.moved(task, false),
            E::Blocked(_) => self.moved(task, true),
            E::Unassigned(_)
            | E::Released(_)
            | E::LeaseExpired(_)
            | E::ReviewRequested(_)
            | E::AttemptFailed(_)
            | E::Failed(_)
            | E::DeadLettered(_) => self.take(task),
            E::Completed(_) | E::Cancelled(_) | E::Archived(_) => {
                self.take(task);
                self.limits.remove(&task);
            }
            E::Approved(_)
            | E::Rejected(_)
            | E::LeaseExtended(_)
            | E::Requeued(_)
            | E::Overdue(_)
            | E::Escalated(_) => {}
        }
    }

    fn take(&mut self, task: TaskId) {
        let Some(agent) = self.holders.remove(&task) else { return };
        if let Some(works) = self.works.get_mut(&agent) {
            works.remove(&task);
            if works.is_empty() {
                self.works.remove(&agent);
                self.counters.remove(&agent);
            }
        }
    }

    fn moved(&mut self, task: TaskId, waits: bool) {
        let Some(agent) = self.holders.get(&task) else { return };
        let work = self.works.get_mut(agent).and_then(|works| works.get_mut(&task));
        if let Some(work) = work {
            (work.moved, work.waits) = (None, waits);
        }
    }

    /// The task of an agent that has stood still longest beyond its limit, and for how long.
    /// `counter` is what its last heartbeat said of its progress.
    pub fn stalled(
        &mut self,
        agent: AgentId,
        counter: Option<u64>,
        usual: Option<Duration>,
        now: Instant,
    ) -> Option<(TaskId, Duration)> {
        let works = self.works.get_mut(&agent)?;
        let gets_on = match counter {
            Some(counter) => self.counters.insert(agent, counter) != Some(counter),
            None => false,
        };
        let mut worst: Option<(TaskId, Duration)> = None;
        for (task, work) in works.iter_mut() {
            if gets_on {
                work.moved = None;
            }
            let still = now.saturating_duration_since(*work.moved.get_or_insert(now));
            let Some(limit) = self.limits.get(task).copied().or(usual) else { continue };
            if !work.waits && still > limit && worst.is_none_or(|(_, longest)| still > longest) {
                worst = Some((*task, still));
            }
        }
        worst
    }

    /// The shortest limit there is, for the time of the next look.
    pub fn shortest(&self) -> Option<Duration> {
        if self.works.is_empty() { None } else { self.limits.values().min().copied() }
    }
}
