//! Why a task waits, from the same state that decides.

use domain::{TaskId, TenantId, Timestamp};

use super::core::Scheduler;
use super::entry::Place;

impl Scheduler {
    /// What keeps a task from being given out, for people; `None` when it is not open.
    pub(super) fn why(&self, tenant: &TenantId, task: TaskId) -> Option<Vec<String>> {
        let entry = self.board.task(task).filter(|entry| entry.tenant == *tenant)?;
        let mut reasons = Vec::new();
        match &entry.place {
            Place::Held(agent) => reasons.push(format!("agent {agent} has it")),
            Place::Nowhere => reasons.push(format!("it is in state {}", entry.state.as_str())),
            Place::Dependent => {
                let missing = entry.missing.iter().map(|id| format!("task {id} is not done"));
                reasons.extend(missing);
            }
            Place::Timed(at) => reasons.push(format!("not before {}", stamp(*at))),
            Place::Waiting => {
                if let Some(key) = &entry.key
                    && self.board.waiting.is_held(tenant, key)
                {
                    reasons.push(format!("another task holds the concurrency key `{key}`"));
                }
                let of_tenant = self.board.roster.iter().filter(|(_, a)| a.tenant == *tenant);
                let fitting: Vec<_> =
                    of_tenant.filter(|(id, agent)| entry.shape.fits(*id, agent)).collect();
                let working = fitting.iter().filter(|(_, agent)| agent.state.takes_work());
                let free = fitting.iter().filter(|(id, _)| self.board.free_slots(*id) > 0).count();
                reasons.push(format!(
                    "{} known agents fit, {} of them take work, {free} have a free slot and have not asked",
                    fitting.len(),
                    working.count(),
                ));
            }
        }
        Some(reasons)
    }
}

fn stamp(at: Timestamp) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
