//! The schedule's rules.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::*;
use super::event::*;
use super::spec::{MAX_FIRINGS, ScheduleSpec, check_template};
use super::timing::{ScheduleKind, Timing, When};
use crate::decide::{Facts, Refusal, Timestamp};
use crate::problem::{Code, FieldError};

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// It fires.
    Active,
    /// It fires when it is resumed.
    Paused,
    /// It has no more slots.
    Completed,
    /// It is no more.
    Deleted,
}

impl ScheduleState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::Completed, Self::Deleted];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Deleted => "deleted",
        }
    }
}

/// A standing order to submit tasks.
///
/// Invariant: `cursor` and `event_cursor` only grow while the timing stays, and no firing
/// of theirs lies behind them: a slot fires once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// `None` until created.
    pub state: Option<ScheduleState>,
    /// What it says.
    pub spec: Option<ScheduleSpec>,
    /// The last slot that was decided about, or where slots begin to count.
    pub cursor: Timestamp,
    /// The last event that was decided about.
    pub event_cursor: u64,
    /// The number of the last firing.
    pub run: u64,
}

impl Schedule {
    /// The commands that people may give it now.
    pub fn allowed(&self) -> Vec<&'static str> {
        let mut all = match self.state {
            Some(ScheduleState::Active) => vec!["update", "pause", "trigger", "delete"],
            Some(ScheduleState::Paused) => vec!["update", "resume", "trigger", "delete"],
            Some(ScheduleState::Completed) => vec!["update", "trigger", "delete"],
            Some(ScheduleState::Deleted) | None => return vec![],
        };
        if matches!(self.kind(), Some(ScheduleKind::Cron | ScheduleKind::Interval)) {
            all.push("backfill");
        }
        all
    }

    /// What makes it fire.
    pub fn kind(&self) -> Option<ScheduleKind> {
        self.spec.as_ref().map(|spec| spec.when.kind())
    }

    /// Its slots.
    pub fn timing(&self) -> Timing {
        self.spec.as_ref().map_or(Timing::Event, |spec| Timing::of(&spec.when))
    }

    /// The next slot, if it is active and has one.
    pub fn next_run(&self) -> Option<Timestamp> {
        let active = self.state == Some(ScheduleState::Active);
        active.then(|| self.timing().next_after(self.cursor)).flatten()
    }

    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state, the time or the timing do not allow the command.
    pub fn decide(
        &self,
        command: &ScheduleCommand,
        facts: &Facts,
    ) -> Result<Vec<ScheduleEvent>, Refusal> {
        use ScheduleCommand as C;
        use ScheduleEvent as E;

        if let C::Create(new) = command {
            return self.create(new, facts.now);
        }
        let (Some(spec), Some(state)) = (&self.spec, self.state) else {
            return Err(Refusal::unknown("schedule"));
        };
        if state == ScheduleState::Deleted {
            return Err(Refusal::unknown("schedule"));
        }
        let changed = |why: &Reason| ScheduleChanged { reason: why.reason.clone(), at: facts.now };
        match (state, command) {
            (ScheduleState::Active, C::Pause(why)) => Ok(vec![E::Paused(changed(why))]),
            (ScheduleState::Paused, C::Resume(why)) => Ok(vec![E::Resumed(changed(why))]),
            (ScheduleState::Active, C::Fire(what)) => self.fire(what, facts.now),
            (ScheduleState::Active, C::Skip(what)) => self.skip(what, facts.now),
            (_, C::Pause(_) | C::Resume(_) | C::Fire(_) | C::Skip(_)) => {
                Err(Refusal::illegal(command.name(), state.as_str(), &self.allowed()))
            }
            (_, C::Delete(why)) => Ok(vec![E::Deleted(changed(why))]),
            (_, C::Update(change)) => update(spec, change, facts.now),
            (_, C::Trigger(_)) => Ok(vec![self.fired(1, FiredBy::Trigger, facts.now)]),
            (_, C::Backfill(range)) => self.backfill(range, state, facts.now),
            (_, C::ReportFailure(failed)) if failed.run > self.run || failed.run == 0 => {
                Err(Refusal::new(Code::NotFound, format!("there was no run {}", failed.run)))
            }
            (_, C::ReportFailure(failed)) => Ok(vec![E::SubmitFailed(failed.clone())]),
            (_, C::Create(_)) => Ok(vec![]),
        }
    }

    fn create(&self, new: &CreateSchedule, now: Timestamp) -> Result<Vec<ScheduleEvent>, Refusal> {
        if self.state.is_some() {
            return Err(Refusal::new(Code::AlreadyExists, "a schedule of this id exists already"));
        }
        // `check` has seen to it that there is one.
        let when = new.given().when(now).ok_or_else(|| Refusal::unknown("schedule"))?;
        in_future(&when, now)?;
        let spec = ScheduleSpec {
            name: new.name.clone(),
            when,
            task: new.task.clone(),
            misfire: new.misfire,
            misfire_limit: new.misfire_limit,
            grace_ms: new.grace_ms,
            overlap: new.overlap,
        };
        Ok(vec![ScheduleEvent::Created(ScheduleCreated { spec, created_at: now })])
    }

    fn fired(&self, nth: u64, by: FiredBy, slot_at: Timestamp) -> ScheduleEvent {
        let run = self.run + nth;
        ScheduleEvent::Fired(ScheduleFired { run, by, slot_at, position: None, missed: 0 })
    }

    /// Refuses a slot that is none, was decided about, or lies ahead.
    fn due(&self, slot_at: Timestamp, now: Timestamp) -> Result<Timing, Refusal> {
        let refused = |text: String| Err(Refusal::new(Code::NotPossible, text));
        let timing = self.timing();
        if slot_at <= self.cursor {
            return refused(format!(
                "{slot_at} was decided about; the last one is {}",
                self.cursor
            ));
        }
        if slot_at > now {
            return refused(format!("{slot_at} has not come; it is {now}"));
        }
        if !timing.is_slot(slot_at) {
            return refused(format!("the schedule does not fire at {slot_at}"));
        }
        Ok(timing)
    }

    /// Refuses an event that was decided about, or that cannot fire this schedule.
    fn turn(&self, position: u64) -> Result<(), Refusal> {
        if self.kind() != Some(ScheduleKind::Event) || position <= self.event_cursor {
            let text = format!("the event at position {position} does not fire it (again)");
            return Err(Refusal::new(Code::NotPossible, text));
        }
        Ok(())
    }

    fn fire(&self, what: &FireSchedule, now: Timestamp) -> Result<Vec<ScheduleEvent>, Refusal> {
        let run = self.run + 1;
        let fired = match (what.slot_at, what.position) {
            (Some(slot_at), _) => {
                let missed = self.due(slot_at, now)?.count_between(self.cursor, slot_at);
                ScheduleFired { run, by: FiredBy::Time, slot_at, position: None, missed }
            }
            (None, position) => {
                self.turn(position.unwrap_or_default())?;
                ScheduleFired { run, by: FiredBy::Event, slot_at: now, position, missed: 0 }
            }
        };
        Ok(vec![ScheduleEvent::Fired(fired)])
    }

    fn skip(&self, what: &SkipSchedule, now: Timestamp) -> Result<Vec<ScheduleEvent>, Refusal> {
        let reason = what.reason;
        let skipped = match (what.slot_at, what.position) {
            (Some(slot_at), _) => {
                let count = self.due(slot_at, now)?.count_between(self.cursor, slot_at) + 1;
                ScheduleSkipped { slot_at, position: None, count, reason }
            }
            (None, position) => {
                self.turn(position.unwrap_or_default())?;
                ScheduleSkipped { slot_at: now, position, count: 1, reason }
            }
        };
        Ok(vec![ScheduleEvent::Skipped(skipped)])
    }

    fn backfill(
        &self,
        range: &BackfillSchedule,
        state: ScheduleState,
        now: Timestamp,
    ) -> Result<Vec<ScheduleEvent>, Refusal> {
        let allowed = self.allowed();
        if !allowed.contains(&"backfill") {
            return Err(Refusal::illegal("backfill", state.as_str(), &allowed));
        }
        if range.to > now {
            return Err(faulty(
                "/to",
                "in_the_future",
                format!("it is {now}; a backfill makes up for the past"),
            ));
        }
        let timing = self.timing();
        let before = range.from - TimeDelta::microseconds(1);
        let mut slots = timing.upcoming(before, MAX_FIRINGS as usize + 1);
        slots.retain(|slot| *slot < range.to);
        match slots.len() as u64 {
            0 => Err(faulty("/from", "no_slot", "no slot lies in the range".into())),
            many if many > MAX_FIRINGS => {
                let text = format!("the range has more than {MAX_FIRINGS} slots");
                Err(faulty("/to", "too_many", text))
            }
            _ => {
                let fired = |(n, slot)| self.fired(n, FiredBy::Backfill, slot);
                Ok((1..).zip(slots).map(fired).collect())
            }
        }
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &ScheduleEvent) {
        use ScheduleEvent as E;
        match event {
            E::Created(new) => {
                self.state = Some(ScheduleState::Active);
                self.spec = Some(new.spec.clone());
                self.cursor = new.created_at;
            }
            E::Updated(change) => {
                self.spec = Some(change.spec.clone());
                if change.retimed {
                    self.cursor = change.updated_at;
                    if self.state == Some(ScheduleState::Completed) {
                        self.state = Some(ScheduleState::Active);
                    }
                }
            }
            E::Paused(_) => self.state = Some(ScheduleState::Paused),
            E::Resumed(change) => {
                self.state = Some(ScheduleState::Active);
                self.cursor = self.cursor.max(change.at);
                self.complete_if_over();
            }
            E::Deleted(_) => self.state = Some(ScheduleState::Deleted),
            E::Fired(fired) => {
                self.run = fired.run;
                match fired.by {
                    FiredBy::Time => self.decided(fired.slot_at),
                    FiredBy::Event => self.event_cursor = fired.position.unwrap_or_default(),
                    FiredBy::Trigger | FiredBy::Backfill => {}
                }
            }
            E::Skipped(skipped) => match skipped.position {
                Some(position) => self.event_cursor = position,
                None => self.decided(skipped.slot_at),
            },
            E::SubmitFailed(_) => {}
        }
    }

    fn decided(&mut self, slot: Timestamp) {
        self.cursor = slot;
        self.complete_if_over();
    }

    /// A one-shot whose instant lies behind has nothing more to do.
    fn complete_if_over(&mut self) {
        if let Some(ScheduleSpec { when: When::At { at }, .. }) = &self.spec
            && *at <= self.cursor
        {
            self.state = Some(ScheduleState::Completed);
        }
    }
}

fn faulty(pointer: &str, code: &str, text: String) -> Refusal {
    let errors = vec![FieldError::new(pointer, code, text.clone())];
    Refusal { errors, ..Refusal::new(Code::NotPossible, text) }
}

fn in_future(when: &When, now: Timestamp) -> Result<(), Refusal> {
    match when {
        When::At { at } if *at <= now => {
            Err(faulty("/at", "in_the_past", format!("`at` lies in the past: it is {now}")))
        }
        When::At { .. } | When::Cron { .. } | When::Interval { .. } | When::Event(_) => Ok(()),
    }
}

fn update(
    spec: &ScheduleSpec,
    change: &UpdateSchedule,
    now: Timestamp,
) -> Result<Vec<ScheduleEvent>, Refusal> {
    let mut when = change.given().when(now);
    if let (None, Some(zone)) = (&when, &change.timezone) {
        let When::Cron { pattern, .. } = &spec.when else {
            return Err(faulty(
                "/timezone",
                "needs_cron",
                "`timezone` goes with `cron` alone".into(),
            ));
        };
        if let Err((field, code, text)) = super::cron::CronTimes::parse(pattern, zone) {
            return Err(faulty(&format!("/{field}"), code, text));
        }
        when = Some(When::Cron { pattern: pattern.clone(), timezone: zone.clone() });
    }
    let retimed = when.is_some();
    let when = when.unwrap_or_else(|| spec.when.clone());
    if retimed {
        in_future(&when, now)?;
    }
    let task = change.task.as_ref().unwrap_or(&spec.task);
    // A template with an event needs a schedule that has one.
    if let Err(errors) = check_template(task, Some(when.kind() == ScheduleKind::Event)) {
        let text = errors.first().map(|fault| fault.message.clone()).unwrap_or_default();
        return Err(Refusal { errors, ..Refusal::new(Code::NotPossible, text) });
    }
    let spec = ScheduleSpec {
        name: change.name.clone().unwrap_or_else(|| spec.name.clone()),
        when,
        task: task.clone(),
        misfire: change.misfire.unwrap_or(spec.misfire),
        misfire_limit: change.misfire_limit.unwrap_or(spec.misfire_limit),
        grace_ms: change.grace_ms.unwrap_or(spec.grace_ms),
        overlap: change.overlap.unwrap_or(spec.overlap),
    };
    Ok(vec![ScheduleEvent::Updated(ScheduleUpdated { spec, retimed, updated_at: now })])
}

aggregate!(Schedule, "schedule", ScheduleCommand, ScheduleEvent);
