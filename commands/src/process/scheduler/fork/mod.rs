//! What would have happened: a stretch of the log once more, with something different.
//!
//! Two passes over the log. The first notes how agents behaved (`observed`) and which
//! decisions were made; the second leads a [`world`] along the record. As long as nothing
//! comes out differently, every decision is only made once more and found the same; with no
//! change that is all there is, and the fork is identical to the decision. Where a change
//! shows (at once where it is about capacity, else at the first decision or failure that it
//! changes), the world leaves the record and goes on by itself.
//!
//! Pure: events come in, a report goes out.

mod agents;
mod changes;
mod dice;
mod observed;
mod redo;
mod report;
mod tally;
#[cfg(test)]
mod tests;
mod world;

use std::sync::Arc;

use domain::fork::ForkRequest;
use domain::{Code, Problem, Recorded, TenantId, Timestamp};
use uuid::Uuid;

pub use report::{
    AgentPair, Assigned, Assignments, Assumption, FirstDifference, ForkReport, Pair, Redone,
};
pub use tally::{AgentNumbers, Numbers, Spread};

use self::changes::Changed;
use self::observed::{Made, Observed};
use self::redo::Redo;
use self::report::{Compared, Outcome, assumptions};
use self::tally::Tally;
use self::world::World;
use super::verify::{Decisions, Follower};

/// The first pass: takes note of the whole stretch, from the first event of the log on.
pub struct ForkNotes {
    id: Uuid,
    tenant: TenantId,
    asked: ForkRequest,
    to: u64,
    observed: Observed,
    /// Collected twice where a changed world is compared with the one that was.
    decisions: [Decisions; 2],
    last: Timestamp,
}

/// The second pass.
pub struct Fork {
    id: Uuid,
    asked: ForkRequest,
    to: u64,
    happened: Tally,
    world: World,
    /// The same from the same place on with nothing changed.
    control: Option<World>,
    observed: Arc<Observed>,
    /// Makes the recorded decisions once more, on what happened and on what would have.
    was: Option<Follower>,
    would: Option<Follower>,
    before: Redone,
    began: Option<Timestamp>,
    ended: Timestamp,
    left_at: Option<u64>,
    redo: Redo,
}

impl ForkNotes {
    /// A fork of a tenant's tasks; `to` is where the stretch ends.
    pub fn new(id: Uuid, tenant: TenantId, asked: ForkRequest, to: u64) -> Self {
        let observed = Observed::of(tenant.clone(), asked.from);
        let decisions = [Decisions::of(tenant.clone()), Decisions::of(tenant.clone())];
        Self { id, tenant, asked, to, observed, decisions, last: Timestamp::default() }
    }

    /// Whether the recorded decisions are made once more at all, and compared with others.
    fn follows(&self) -> (bool, bool) {
        let changes = &self.asked.changes;
        (changes.keeps_capacity(), changes.keeps_capacity() && !changes.is_empty())
    }

    /// Takes note of the next event.
    pub fn note(&mut self, event: &Recorded) {
        self.observed.note(event);
        let (was, would) = self.follows();
        if was {
            self.decisions[0].note(event);
        }
        if would {
            self.decisions[1].note(event);
        }
        self.last = event.recorded_at;
    }

    /// Ends the pass; the log is to be told once more, from its start.
    pub fn end(mut self) -> Fork {
        self.observed.end(self.last.timestamp_micros());
        let (was, would) = self.follows();
        let observed = Arc::new(self.observed);
        let [first, second] = self.decisions;
        let world = |changes| {
            let changed = Changed::new(self.tenant.clone(), changes, observed.came.clone());
            World::new(self.tenant.clone(), changed, observed.clone(), self.asked.seed)
        };
        let changes = self.asked.changes.clone();
        let control = (!changes.is_empty()).then(|| world(Default::default()));
        Fork {
            id: self.id,
            to: self.to,
            happened: Tally::new(),
            world: world(changes),
            control,
            was: was.then(|| first.follow()),
            would: would.then(|| second.follow()),
            observed,
            before: Redone::default(),
            began: None,
            ended: self.last,
            left_at: None,
            redo: Redo::default(),
            asked: self.asked,
        }
    }
}

impl Fork {
    /// Takes the next event of the log.
    ///
    /// # Errors
    /// When the changes name what is not there.
    pub fn apply(&mut self, event: &Recorded) -> Result<(), Problem> {
        if event.position > self.asked.from && self.began.is_none() {
            self.begin(event)?;
        }
        let mine = event.tenant == self.world.tenant;
        if self.began.is_none() {
            self.world.before(event);
            if let Some(control) = &mut self.control {
                control.before(event);
            }
            for follower in [&mut self.was, &mut self.would].into_iter().flatten() {
                follower.apply(event);
            }
        } else if self.left_at.is_some() {
            self.world.feed(event);
            if let Some(control) = &mut self.control {
                control.feed(event);
            }
        } else {
            self.follow(event);
        }
        if mine {
            self.happened.apply(event);
        }
        Ok(())
    }

    fn begin(&mut self, event: &Recorded) -> Result<(), Problem> {
        let now = event.recorded_at.timestamp_micros();
        self.began = Some(event.recorded_at);
        self.happened.begin(now);
        let observed = self.observed.clone();
        self.world.begin(now, |queue| observed.knows(queue))?;
        if let Some(control) = &mut self.control {
            control.begin(now, |_| true)?;
        }
        if let Some(was) = &self.was {
            let report = was.report();
            let (identical, unknown) = (report.identical, report.unknown);
            self.before = Redone { identical, different: report.different, unknown };
        }
        if !self.asked.changes.keeps_capacity() {
            self.leave(self.asked.from, None);
        }
        Ok(())
    }

    fn follow(&mut self, event: &Recorded) {
        if self.asked.changes.is_empty() && event.tenant == self.world.tenant {
            self.redo.take(event, self.world.task_before(event));
        }
        let Ok(other) = self.world.follow(event) else {
            self.leave(event.position - 1, None);
            self.world.feed(event);
            if let Some(control) = &mut self.control {
                control.feed(event);
            }
            return;
        };
        if let Some(control) = &mut self.control
            && control.follow(event).is_err()
        {
            tracing::error!(position = event.position, "a world with no change left the record");
        }
        let faults = |of: &Option<Follower>| of.as_ref().map_or(0, |f| f.report().different);
        let before = (faults(&self.was), faults(&self.would));
        if let Some(was) = &mut self.was {
            was.apply(event);
        }
        let Some(would) = &mut self.would else { return };
        would.apply(other.as_ref().unwrap_or(event));
        let (was, would) = (faults(&self.was) - before.0, faults(&self.would) - before.1);
        if would > was {
            // Of several at one position the first was made first.
            let faults = self.would.as_ref().map(|f| f.report().faults.clone());
            let faults = faults.unwrap_or_default();
            let first = faults.iter().map(|fault| fault.position).find(|at| *at > event.position);
            self.leave(event.position, first);
        }
    }

    /// The record is left behind this position, with the decision of that event the first
    /// that comes out differently.
    fn leave(&mut self, position: u64, first: Option<u64>) {
        self.left_at = Some(position);
        self.would = None;
        let first = first.and_then(|at| self.observed.made.iter().find(|made| made.position == at));
        let earlier = |made: &&Made| {
            // With none that differs, what was decided on the very last event is open still.
            let before = first.map_or(made.seen < position, |first| {
                made.seen <= position && made.key < first.key
            });
            before && made.position > position
        };
        let decided: Vec<Made> = self.observed.made.iter().filter(earlier).copied().collect();
        self.world.leave(position, &decided);
        if let Some(control) = &mut self.control {
            control.leave(position, &decided);
        }
    }

    /// What came of it.
    ///
    /// # Errors
    /// When the stretch has no event.
    pub fn finish(mut self) -> Result<ForkReport, Problem> {
        let Some(began) = self.began else {
            return Err(Problem::new(Code::NotPossible, "there is no event in the stretch"));
        };
        let end = self.ended.timestamp_micros();
        if self.left_at.is_some() {
            self.world.advance_to(end);
            if let Some(control) = &mut self.control {
                control.advance_to(end);
            }
        }
        let decisions = self.was.map_or(Redone::default(), |was| {
            let report = was.finish();
            Redone {
                identical: report.identical - self.before.identical,
                different: report.different - self.before.different,
                unknown: report.unknown - self.before.unknown,
            }
        });
        self.redo.end();
        let happened = Outcome { told: self.happened.tell(end), given: &self.happened.given };
        let told = self.world.tally.tell(end);
        let what_if = Outcome { told, given: &self.world.tally.given };
        let added: Vec<_> = self.world.twins.iter().map(|twin| twin.id).collect();
        let compared = Compared::of(&happened, &what_if, &added);
        let left = self.left_at.is_some();
        let control = self.control.filter(|_| left).map(|mut world| world.tally.tell(end).all);
        let assumptions =
            assumptions(self.world.assumed, left, added.len() as u64, self.world.idle());
        let ForkRequest { from, seed, changes, .. } = self.asked;
        Ok(ForkReport {
            fork_id: self.id,
            from,
            to: self.to,
            began,
            ended: self.ended,
            seed,
            changes: serde_json::to_value(changes).unwrap_or_default(),
            identical: compared.identical
                && decisions.different == 0
                && self.redo.counts.different == 0,
            left_at: self.left_at,
            decisions,
            commands: self.redo.counts,
            happened: happened.told.all,
            what_if: what_if.told.all,
            control,
            queues: compared.queues,
            agents: compared.agents,
            assignments: compared.assignments,
            first_difference: compared.first_difference,
            assumptions,
        })
    }
}
