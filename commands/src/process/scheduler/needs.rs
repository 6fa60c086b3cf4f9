//! What tasks wait for of others, and when that lets them go.
//!
//! A dependency may have ended before anybody waited for it, be open, or not exist yet.
//! Open tasks, failed and dead ones among them (a requeue may still make them succeed), are
//! in memory; whatever else is waited for is looked up in the log once, and from then on its
//! own events tell. Once let go, a task stays so, whatever becomes of its dependencies.

use std::collections::{BTreeSet, HashMap};

use domain::task::{Dependency, Need, TaskState};
use domain::{Recorded, TaskId, TenantId};

use super::board::Board;

/// What an open task waits for.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    pub mode: Dependency,
    /// Those that have not given what is needed of them; never empty.
    pub open: Vec<TaskId>,
    /// Since when it waits for these, in microseconds.
    pub since: i64,
    /// The event that said so.
    pub cause: u64,
}

/// How a task stands, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) struct Standing {
    pub state: TaskState,
    pub archived: bool,
    /// The event that made it so.
    pub cause: u64,
    /// When, in microseconds.
    pub at: i64,
}

/// A task that others wait for.
#[derive(Debug, Clone, Default)]
struct Awaited {
    by: BTreeSet<TaskId>,
    /// How it ended, where it is no longer in memory.
    ended: Option<Standing>,
    /// The log was asked, and knows of no such task.
    absent: bool,
}

type Key = (TenantId, TaskId);

/// Who waits for whom. Nobody learns of another tenant's tasks: the keys have the tenant.
#[derive(Debug, Clone, Default)]
pub(super) struct Dependents {
    awaited: HashMap<Key, Awaited>,
    /// Those whose fate must be looked up in the log.
    lookups: BTreeSet<Key>,
}

impl Dependents {
    fn forget(&mut self, key: &Key, task: TaskId) {
        if let Some(awaited) = self.awaited.get_mut(key) {
            awaited.by.remove(&task);
            if awaited.by.is_empty() {
                self.awaited.remove(key);
            }
        }
    }

    /// A task came into being: what was known of its absence is over.
    pub fn submitted(&mut self, tenant: &TenantId, task: TaskId) {
        if self.awaited.is_empty() {
            return;
        }
        if let Some(awaited) = self.awaited.get_mut(&(tenant.clone(), task)) {
            (awaited.ended, awaited.absent) = (None, false);
        }
    }
}

impl Board {
    /// What a task waits for from now on; `None` when nothing holds it.
    pub(super) fn needs(
        &mut self,
        event: &Recorded,
        task: TaskId,
        depends_on: &[TaskId],
        mode: Dependency,
    ) -> Option<Box<Needs>> {
        let tenant = &event.tenant;
        let mut open = depends_on.to_vec();
        open.sort_unstable();
        open.dedup();
        let met = |on: &TaskId| {
            self.standing(tenant, *on).is_some_and(|s| mode.is_met_by(s.state, s.archived))
        };
        if mode.need == Need::Any && open.iter().any(met) {
            return None;
        }
        open.retain(|on| !met(on));
        if open.is_empty() {
            return None;
        }
        for on in &open {
            let key = (tenant.clone(), *on);
            if self.task(*on).is_none() {
                self.dependents.lookups.insert(key.clone());
            }
            self.dependents.awaited.entry(key).or_default().by.insert(task);
        }
        let since = event.recorded_at.timestamp_micros();
        Some(Box::new(Needs { mode, open, since, cause: event.position }))
    }

    /// Takes a task off the lists of those that it waited for.
    pub(super) fn forget_needs(&mut self, tenant: &TenantId, task: TaskId, needs: &Needs) {
        for on in &needs.open {
            self.dependents.forget(&(tenant.clone(), *on), task);
        }
    }

    /// How a task stands, as far as that is known here.
    pub(super) fn standing(&self, tenant: &TenantId, task: TaskId) -> Option<Standing> {
        if let Some(entry) = self.task(task) {
            return (entry.tenant == *tenant).then(|| entry.standing());
        }
        self.dependents.awaited.get(&(tenant.clone(), task))?.ended
    }

    /// Whether the log was asked for a task, and has none.
    pub(super) fn is_absent(&self, tenant: &TenantId, task: TaskId) -> bool {
        let awaited = self.dependents.awaited.get(&(tenant.clone(), task));
        self.task(task).is_none() && awaited.is_some_and(|awaited| awaited.absent)
    }

    /// A task stands otherwise: those that this lets go wait for it no longer.
    pub(super) fn stands(&mut self, tenant: &TenantId, on: TaskId, now: Standing) {
        if self.dependents.awaited.is_empty() {
            return;
        }
        let key = (tenant.clone(), on);
        let gone = self.task(on).is_none();
        let Some(awaited) = self.dependents.awaited.get_mut(&key) else { return };
        awaited.ended = gone.then_some(now);
        for task in awaited.by.clone() {
            let Some(needs) = self.task(task).and_then(|entry| entry.needs.as_deref()) else {
                continue;
            };
            if !needs.mode.is_met_by(now.state, now.archived) {
                continue;
            }
            let given = match needs.mode.need {
                Need::All => vec![on],
                // One is enough: the others do not matter any more.
                Need::Any => needs.open.clone(),
            };
            for on in &given {
                self.dependents.forget(&(tenant.clone(), *on), task);
            }
            self.update(task, |entry| {
                let Some(needs) = &mut entry.needs else { return };
                needs.open.retain(|on| !given.contains(on));
                if needs.open.is_empty() {
                    entry.needs = None;
                }
            });
        }
    }

    /// Dependencies whose fate must be looked up in the log, each once.
    pub fn take_lookups(&mut self, most: usize) -> Vec<(TenantId, TaskId)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(key) = self.dependents.lookups.pop_first()
        {
            // Let go, or dropped, by now?
            if self.dependents.awaited.contains_key(&key) {
                taken.push(key);
            }
        }
        taken
    }

    /// The log could not be asked.
    pub fn look_up_again(&mut self, tenant: TenantId, task: TaskId) {
        self.dependents.lookups.insert((tenant, task));
    }

    /// What the log says of a task that is not in memory; `None`: it knows of none.
    pub fn looked_up(&mut self, tenant: &TenantId, task: TaskId, found: Option<Standing>) {
        if self.task(task).is_some() {
            // It came in the meantime, and its events tell.
            return;
        }
        match found {
            // Only these are not in memory; the log may be ahead of what is folded here, and
            // what is still to come of any other state will be.
            Some(found)
                if found.archived
                    || matches!(found.state, TaskState::Done | TaskState::Cancelled) =>
            {
                self.stands(tenant, task, found);
            }
            Some(_) => {}
            None => {
                if let Some(awaited) = self.dependents.awaited.get_mut(&(tenant.clone(), task)) {
                    awaited.absent = true;
                }
            }
        }
    }
}
