//! Links between tasks within a batch: what the log said of them, and what the batch's
//! earlier commands add.

use std::collections::{HashMap, HashSet};

use domain::task::{Links, MAX_WALK, SubtaskLimits, Task, check_dependencies, check_parent};
use domain::{Aggregate, Refusal, TaskId};
use store::{Append, LinkKind, Linked, Snapshot, StreamKey, TaskLink};

/// What is known of links: the log's answers, kept up to date with the batch's decisions.
#[derive(Debug, Default)]
pub(super) struct Known {
    parts: HashMap<StreamKey, u64>,
    /// Who waits for a task.
    waiting: HashMap<StreamKey, Vec<TaskId>>,
    /// Tasks for which more wait than were found.
    unseen: HashSet<StreamKey>,
    /// Tasks whose links this batch changed.
    changed: HashSet<StreamKey>,
}

impl From<Linked> for Known {
    fn from(found: Linked) -> Self {
        let mut known = Self { parts: found.parts, ..Self::default() };
        let mut pairs = HashSet::new();
        for (key, waiting) in found.waiting {
            if waiting.len() >= MAX_WALK {
                known.unseen.insert(key.clone());
            }
            for (source, target) in waiting {
                // Found from several sides, and named once.
                if pairs.insert((key.0.clone(), source, target)) {
                    let target = (key.0.clone(), target);
                    known.waiting.entry(target).or_default().push(TaskId(source));
                }
            }
        }
        known
    }
}

/// The task that a stream is, if it is one.
pub(super) fn task(stream: &Snapshot) -> Option<&Task> {
    match &stream.state {
        Aggregate::Task(task) => Some(task),
        Aggregate::Agent(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Schedule(_)
        | Aggregate::Queue(_)
        | Aggregate::Node(_)
        | Aggregate::Profile(_) => None,
    }
}

impl Known {
    /// Whether this batch has changed the links of a task; the next such change waits for
    /// its commit.
    pub fn has_changed(&self, key: &StreamKey) -> bool {
        self.changed.contains(key)
    }

    /// Whether a task may have the links that a command gives it.
    pub fn check(
        &self,
        (tenant, task): &StreamKey,
        links: Links<'_>,
        parent: Option<&Task>,
        limits: SubtaskLimits,
    ) -> Result<(), Refusal> {
        let key = |id: TaskId| (tenant.clone(), id.0);
        if let Some(id) = links.parent {
            let parts = self.parts.get(&key(id)).copied().unwrap_or_default();
            check_parent(TaskId(*task), id, parent, parts, limits)?;
        }
        if let Some(depends_on) = links.depends_on {
            let waiting = |id| {
                let key = key(id);
                let those = self.waiting.get(&key).map(Vec::as_slice).unwrap_or_default();
                (those, !self.unseen.contains(&key))
            };
            check_dependencies(TaskId(*task), depends_on, waiting)
                .map_err(|refusal| refusal.below(links.at))?;
        }
        Ok(())
    }

    /// Notes what an accepted command made of a task's links, for the log and for the
    /// commands that follow in the batch.
    pub fn decided(&mut self, key: &StreamKey, before: &Task, after: &Task, append: &mut Append) {
        let (tenant, source) = key;
        let link = |kind, target: TaskId| TaskLink {
            tenant: tenant.clone(),
            kind,
            target: target.0,
            source: *source,
        };
        if let Some(parent) = after.parent_id.filter(|_| before.state.is_none()) {
            append.linked.push(link(LinkKind::PartOf, parent));
            *self.parts.entry((tenant.clone(), parent.0)).or_default() += 1;
        }
        let of = |task: &Task| task.depends_on.iter().copied().collect::<HashSet<_>>();
        let (before, after) = (of(before), of(after));
        if before == after {
            return;
        }
        self.changed.insert(key.clone());
        let gone = before.difference(&after).map(|target| link(LinkKind::DependsOn, *target));
        append.unlinked.extend(gone);
        let new = after.difference(&before).map(|target| link(LinkKind::DependsOn, *target));
        append.linked.extend(new);
        for target in &before {
            if let Some(waiting) = self.waiting.get_mut(&(tenant.clone(), target.0)) {
                waiting.retain(|waits| waits.0 != *source);
            }
        }
        for target in &after {
            let waiting = self.waiting.entry((tenant.clone(), target.0)).or_default();
            waiting.push(TaskId(*source));
        }
    }
}
