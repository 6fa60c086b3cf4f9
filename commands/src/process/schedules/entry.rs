//! One schedule in the fold: what it waits for, and which step comes next.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use chrono::TimeDelta;
use domain::expression::Condition;
use domain::schedule::{
    FireSchedule, MisfirePolicy, OnEvent, OverlapPolicy, Schedule, ScheduleCommand, ScheduleSpec,
    ScheduleState, SkipReason, SkipSchedule, Template, Timing, When,
};
use domain::{StreamType, Timestamp};
use uuid::Uuid;

use super::{ACTOR, Ask, Key};
use crate::CommandEnvelope;
use crate::process::command_id;

/// Events that may wait for one schedule; beyond that they are left out, oldest first.
const MOST_WAITING: usize = 10_000;

/// A schedule.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub state: Schedule,
    timing: Option<Timing>,
    pub template: Option<Arc<Template>>,
    pub condition: Option<Condition>,
    event: Option<(StreamType, &'static str)>,
    /// The last event that changed what is due: part of the ids of commands.
    revision: u64,
    /// Tasks of its firings that have not ended.
    pub open: BTreeSet<Uuid>,
    /// Events that are to fire it, in order.
    pub waiting: VecDeque<Waiting>,
    /// The command that is under way.
    pub asked: Option<Uuid>,
    /// How often the same step was refused.
    pub tries: u32,
    pub again_at: Option<Timestamp>,
    /// When it stands in the list of what is due.
    pub due: Option<Timestamp>,
}

/// An event that is to fire a schedule.
#[derive(Debug)]
pub(super) struct Waiting {
    pub position: u64,
    pub correlation: Option<Uuid>,
    /// What the template is filled with, if it has placeholders.
    pub event: Option<serde_json::Value>,
}

impl Entry {
    /// Takes over what the schedule says now.
    pub fn reread(&mut self, position: u64, retimed: bool) {
        self.changed(position);
        let Some(spec) = &self.state.spec else { return };
        let on = match &spec.when {
            When::Event(on) => Some(on),
            When::Cron { .. } | When::Interval { .. } | When::At { .. } => None,
        };
        self.event = on.and_then(OnEvent::parts);
        let filter = on.and_then(|on| on.filter.as_deref());
        self.condition = filter.and_then(|filter| Condition::parse(filter, "event").ok());
        if filter.is_some() && self.condition.is_none() {
            // A release that no longer reads the condition must not fire on everything.
            tracing::warn!(schedule = spec.name, "its condition cannot be read; it does not fire");
            self.event = None;
        }
        if retimed {
            self.waiting.clear();
        }
        self.timing = Some(Timing::of(&spec.when));
        self.template = Template::parse(&spec.task, None).ok().map(Arc::new);
    }

    /// Something else is due from here on.
    pub fn changed(&mut self, position: u64) {
        self.revision = position;
        self.decided();
        if self.state.state != Some(ScheduleState::Active) {
            self.waiting.clear();
        }
    }

    /// The step that was asked for is taken, or is none any more.
    pub fn decided(&mut self) {
        (self.asked, self.tries, self.again_at) = (None, 0, None);
    }

    /// The event that fires it, while it does.
    pub fn fires_on(&self) -> Option<(StreamType, &'static str)> {
        self.event.filter(|_| self.state.state == Some(ScheduleState::Active))
    }

    /// Drops the events up to a position; yields what the one at it is filled with.
    pub fn take(&mut self, position: u64) -> Option<serde_json::Value> {
        let mut found = None;
        while let Some(first) = self.waiting.pop_front_if(|first| first.position <= position) {
            found = Some(first).filter(|first| first.position == position);
        }
        found.and_then(|first| first.event)
    }

    fn spec(&self) -> Option<&ScheduleSpec> {
        let active = self.state.state == Some(ScheduleState::Active);
        self.state.spec.as_ref().filter(|_| active)
    }

    /// When there is something to ask for, as far as is known now.
    pub fn next_step(&self, now: Timestamp) -> Option<Timestamp> {
        let spec = self.spec().filter(|_| self.asked.is_none())?;
        // The end of the task makes it look again.
        let full = self.waiting.len() > MOST_WAITING;
        if spec.overlap == OverlapPolicy::Queue && !self.open.is_empty() && !full {
            return None;
        }
        let at = match self.waiting.front() {
            Some(_) => now,
            None => self.timing.as_ref()?.next_after(self.state.cursor)?,
        };
        Some(self.again_at.map_or(at, |again| at.max(again)))
    }

    /// What to ask for now.
    pub fn step(&mut self, key: &Key, now: Timestamp) -> Option<CommandEnvelope> {
        let spec = self.spec()?;
        let overlaps = !self.open.is_empty() && spec.overlap == OverlapPolicy::Skip;
        let (ask, place, cause, correlation) = match self.waiting.front() {
            Some(first) => {
                let ask = if self.waiting.len() > MOST_WAITING {
                    Ask::Skip(SkipReason::TooMany)
                } else if overlaps {
                    Ask::Skip(SkipReason::Overlap)
                } else {
                    Ask::Fire
                };
                (ask, Place::Event(first.position), first.position, first.correlation)
            }
            None => {
                let (ask, slot) = self.slot(spec, overlaps, now)?;
                (ask, Place::Slot(slot), self.revision, None)
            }
        };
        let command = command(key, &ask, place, self.revision, self.tries);
        self.asked = Some(command.command_id);
        Some(CommandEnvelope {
            causation_position: Some(cause),
            correlation_id: correlation,
            ..command
        })
    }

    /// What becomes of the slots that lie behind: the first decision about them.
    fn slot(
        &self,
        spec: &ScheduleSpec,
        overlaps: bool,
        now: Timestamp,
    ) -> Option<(Ask, Timestamp)> {
        let timing = self.timing.as_ref()?;
        let cursor = self.state.cursor;
        let newest = timing.last_within(cursor, now)?;
        if overlaps {
            return Some((Ask::Skip(SkipReason::Overlap), newest));
        }
        let grace = TimeDelta::milliseconds(i64::try_from(spec.grace_ms).unwrap_or(i64::MAX / 2));
        match spec.misfire {
            MisfirePolicy::Skip if now - newest > grace => {
                Some((Ask::Skip(SkipReason::Misfire), newest))
            }
            MisfirePolicy::Skip | MisfirePolicy::RunOnce => Some((Ask::Fire, newest)),
            MisfirePolicy::RunAll => {
                let limit = spec.misfire_limit as usize;
                match too_old(timing, cursor, newest, limit) {
                    Some(last) => Some((Ask::Skip(SkipReason::Misfire), last)),
                    None => Some((Ask::Fire, timing.next_after(cursor)?)),
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Slot(Timestamp),
    Event(u64),
}

fn command(key: &Key, ask: &Ask, place: Place, revision: u64, tries: u32) -> CommandEnvelope {
    let (slot_at, position) = match place {
        Place::Slot(slot) => (Some(slot), None),
        Place::Event(position) => (None, Some(position)),
    };
    let command = match ask {
        Ask::Fire => ScheduleCommand::Fire(FireSchedule { slot_at, position }),
        Ask::Skip(reason) => {
            ScheduleCommand::Skip(SkipSchedule { slot_at, position, reason: *reason })
        }
    };
    let name = command.name();
    let id = match place {
        Place::Slot(slot) => {
            let micros = slot.timestamp_micros();
            command_id(key.1, name, format_args!("{revision}:{micros}:{tries}"))
        }
        Place::Event(at) => command_id(key.1, name, format_args!("{revision}:event:{at}:{tries}")),
    };
    CommandEnvelope::new(key.0.clone(), key.1, command, id, ACTOR)
}

/// The last of the slots that are too many to make up for; `None` where all may fire.
fn too_old(
    timing: &Timing,
    after: Timestamp,
    newest: Timestamp,
    limit: usize,
) -> Option<Timestamp> {
    let mut window = TimeDelta::hours(1);
    loop {
        let begin = (newest - window).max(after);
        let mut slots = vec![];
        let mut at = begin;
        while let Some(next) = timing.next_after(at).filter(|slot| *slot <= newest) {
            slots.push(next);
            at = next;
        }
        if slots.len() > limit {
            return slots.get(slots.len() - limit - 1).copied();
        }
        if begin == after {
            return None;
        }
        window = window * 8;
    }
}
