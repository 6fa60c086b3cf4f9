//! Schedules: fires what is due and submits the tasks of firings.
//!
//! Both steps are commands whose ids derive from what they are about (schedule, slot or
//! event, run), and both follow from what is open in the fold: a slot that lies behind and
//! was not decided about, a firing whose task is not there. So a restart goes on where the
//! last process stopped, and two managers at once ask for the same things under the same
//! ids. The schedule's own rules refuse a slot twice or before its time.

mod entry;
mod submits;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use domain::schedule::{FiredBy, ScheduleCommand, ScheduleEvent, SkipReason, task_of};
use domain::task::TaskEvent;
use domain::{
    Command, Event, Outcome, Recorded, ScheduleId, Status, StreamType, TenantId, Timestamp,
};
use uuid::Uuid;

use super::{Manager, Moment, until};
use crate::CommandEnvelope;
use entry::{Entry, Waiting};
use submits::{Submit, Submits};

/// Who the commands are from.
const ACTOR: &str = "manager:schedules";
/// First wait after an answer that was no decision, or a refusal.
const AGAIN: Duration = Duration::from_millis(100);

/// A stream within its tenant.
type Key = (TenantId, Uuid);

/// Every schedule, what it waits for, and the firings whose tasks are not there yet.
#[derive(Debug, Default)]
pub struct Schedules {
    schedules: HashMap<Key, Entry>,
    due: BTreeSet<(Timestamp, Key)>,
    /// Those whose next step must be found anew.
    changed: BTreeSet<Key>,
    /// Schedules by the event that fires them.
    by_event: HashMap<(StreamType, &'static str), BTreeSet<Key>>,
    /// Tasks of firings that have not ended, with their schedules.
    open: HashMap<Key, Key>,
    submits: Submits,
}

impl Schedules {
    fn task_event(&mut self, event: &Recorded, happened: &TaskEvent) {
        use TaskEvent as E;
        if self.open.is_empty() && self.submits.is_empty() {
            return;
        }
        let task = (event.tenant.clone(), event.stream_id);
        match happened {
            E::Submitted(_) => self.submits.done(&task),
            E::Completed(_)
            | E::Failed(_)
            | E::DeadLettered(_)
            | E::Cancelled(_)
            | E::Archived(_) => self.ended(&task),
            E::Updated(_)
            | E::Assigned(_)
            | E::Unassigned(_)
            | E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::ReviewRequested(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::AttemptFailed(_)
            | E::LeaseExtended(_)
            | E::Released(_)
            | E::LeaseExpired(_)
            | E::Overdue(_)
            | E::Escalated(_)
            | E::Requeued(_) => {}
        }
    }

    /// A task of a firing holds up nothing any more.
    fn ended(&mut self, task: &Key) {
        if let Some(key) = self.open.remove(task) {
            if let Some(entry) = self.schedules.get_mut(&key) {
                entry.open.remove(&task.1);
            }
            self.changed.insert(key);
        }
    }

    fn schedule_event(&mut self, event: &Recorded, happened: &ScheduleEvent) {
        use ScheduleEvent as E;
        let key = (event.tenant.clone(), event.stream_id);
        self.unlist(&key);
        if let E::Deleted(_) = happened {
            self.forget(&key);
            return;
        }
        let entry = self.schedules.entry(key.clone()).or_default();
        let decided = (entry.state.cursor, entry.state.event_cursor);
        entry.state.apply(happened);
        if decided != (entry.state.cursor, entry.state.event_cursor) {
            entry.decided();
        }
        match happened {
            E::Created(_) => entry.reread(event.position, true),
            E::Updated(change) => entry.reread(event.position, change.retimed),
            E::Paused(_) | E::Resumed(_) => entry.changed(event.position),
            E::Fired(fired) => {
                let from = match fired.by {
                    FiredBy::Event => entry.take(fired.position.unwrap_or_default()),
                    FiredBy::Time | FiredBy::Trigger | FiredBy::Backfill => None,
                };
                let task = task_of(ScheduleId(key.1), fired.run);
                if let Some(template) = &entry.template {
                    let submit = Submit::of(event, fired, template.clone(), from);
                    self.submits.add((key.0.clone(), task.0), submit);
                    entry.open.insert(task.0);
                    self.open.insert((key.0.clone(), task.0), key.clone());
                }
            }
            E::Skipped(skipped) => {
                entry.take(skipped.position.unwrap_or_default());
            }
            E::SubmitFailed(failed) => {
                let task = (key.0.clone(), task_of(ScheduleId(key.1), failed.run).0);
                self.submits.done(&task);
                self.ended(&task);
            }
            E::Deleted(_) => {}
        }
        self.list(&key);
        self.changed.insert(key);
    }

    fn forget(&mut self, key: &Key) {
        // What had fired is submitted all the same.
        if let Some(entry) = self.schedules.remove(key) {
            for task in &entry.open {
                self.open.remove(&(key.0.clone(), *task));
            }
            if let Some(at) = entry.due {
                self.due.remove(&(at, key.clone()));
            }
        }
    }

    fn list(&mut self, key: &Key) {
        if let Some(kind) = self.schedules.get(key).and_then(Entry::fires_on) {
            self.by_event.entry(kind).or_default().insert(key.clone());
        }
    }

    fn unlist(&mut self, key: &Key) {
        if let Some(kind) = self.schedules.get(key).and_then(Entry::fires_on)
            && let Some(listed) = self.by_event.get_mut(&kind)
        {
            listed.remove(key);
            if listed.is_empty() {
                self.by_event.remove(&kind);
            }
        }
    }

    /// Notes the event for every schedule that fires on it. What a schedule itself brought
    /// about does not fire it: it would go on for ever.
    fn note(&mut self, event: &Recorded, happened: &Event) {
        let Some(listed) = self.by_event.get(&(happened.stream_type(), happened.name())) else {
            return;
        };
        let mut shown = None;
        for key in listed.iter().filter(|key| key.0 == event.tenant) {
            let own = key.1 == event.stream_id
                || self.open.get(&(event.tenant.clone(), event.stream_id)) == Some(key);
            let Some(entry) = self.schedules.get_mut(key).filter(|_| !own) else { continue };
            let value = shown.get_or_insert_with(|| domain::schedule::Filling::event_of(event));
            if entry.condition.as_ref().is_some_and(|condition| !condition.holds(value)) {
                continue;
            }
            let filled = entry.template.as_ref().is_some_and(|t| t.has_placeholders());
            entry.waiting.push_back(Waiting {
                position: event.position,
                correlation: event.correlation_id,
                event: filled.then(|| value.clone()),
            });
            self.changed.insert(key.clone());
        }
    }

    /// Finds the next step of those that changed.
    fn settle_changed(&mut self, now: Timestamp) {
        while let Some(key) = self.changed.pop_first() {
            let Some(entry) = self.schedules.get_mut(&key) else { continue };
            if let Some(at) = entry.due.take() {
                self.due.remove(&(at, key.clone()));
            }
            entry.due = entry.next_step(now);
            if let Some(at) = entry.due {
                self.due.insert((at, key));
            }
        }
    }
}

impl Manager for Schedules {
    fn apply(&mut self, event: &Recorded) {
        let Ok(happened) = event.event() else { return };
        if !self.by_event.is_empty() {
            self.note(event, happened);
        }
        match happened {
            Event::Task(happened) => self.task_event(event, happened),
            Event::Schedule(happened) => self.schedule_event(event, happened),
            Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = self.submits.react(now.time);
        self.settle_changed(now.time);
        while let Some((at, key)) = self.due.first().cloned()
            && at <= now.time
        {
            self.due.remove(&(at, key.clone()));
            if let Some(entry) = self.schedules.get_mut(&key) {
                entry.due = None;
                match entry.step(&key, now.time) {
                    Some(command) => commands.push(command),
                    // Not yet, after all: its time is found anew.
                    None => drop(self.changed.insert(key)),
                }
            }
        }
        self.settle_changed(now.time);
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, now: Moment) {
        let key = (command.tenant.clone(), command.stream_id);
        let Command::Schedule(ScheduleCommand::Fire(_) | ScheduleCommand::Skip(_)) =
            &command.command
        else {
            self.submits.settle(command, outcome, now.time);
            return;
        };
        let Some(entry) = self.schedules.get_mut(&key) else { return };
        if entry.asked != Some(command.command_id) {
            return;
        }
        match outcome.decision().status {
            // Its event is on the way here.
            Status::Accepted | Status::Duplicate => return,
            // Early by the database's clock, or an event behind us that changes the
            // picture. A refusal is remembered under its id, so the next try has another.
            Status::Refused => entry.tries += 1,
            Status::Busy | Status::Invalid => {}
        }
        entry.asked = None;
        entry.again_at = Some(now.time + AGAIN * (1 << entry.tries.min(6)));
        self.changed.insert(key);
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        if !self.changed.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.due.first().map(|(at, _)| *at);
        let at = next.into_iter().chain(self.submits.due(now.time)).min()?;
        Some(until(now.time, at))
    }
}

/// What an entry decides to ask for.
enum Ask {
    Fire,
    Skip(SkipReason),
}
