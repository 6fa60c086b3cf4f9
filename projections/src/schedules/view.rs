//! A schedule as it is shown.

use chrono::{DateTime, Utc};
use domain::schedule::{MisfirePolicy, OnEvent, OverlapPolicy, ScheduleKind, ScheduleState, When};
use domain::{Json, Problem, ScheduleId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ScheduleRow;

/// A schedule as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleView {
    /// Its id.
    pub id: ScheduleId,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub state: ScheduleState,
    /// What makes it fire.
    pub kind: ScheduleKind,
    /// Its cron pattern.
    pub cron: Option<String>,
    /// The pattern's time zone.
    pub timezone: Option<String>,
    /// The time between two slots.
    pub interval_ms: Option<u64>,
    /// Its one instant.
    pub at: Option<DateTime<Utc>>,
    /// The events that fire it.
    pub on_event: Option<OnEvent>,
    /// The body of the task that it submits, as it was sent.
    #[schema(value_type = domain::task::SubmitTask)]
    pub task: Json,
    /// What becomes of missed slots.
    pub misfire: MisfirePolicy,
    /// How many are made up for at most, under `run_all`.
    pub misfire_limit: u32,
    /// How late a slot may fire before it counts as missed.
    pub grace_ms: u64,
    /// What happens while an earlier task is open.
    pub overlap: OverlapPolicy,
    /// The next slot; null while it is paused, and where there is none.
    pub next_run_at: Option<DateTime<Utc>>,
    /// When it fired last.
    pub last_run_at: Option<DateTime<Utc>>,
    /// The task of its last firing.
    pub last_task_id: Option<TaskId>,
    /// How often it fired; also the number of the last run.
    pub fired: u64,
    /// Slots that passed before they could fire.
    pub misfires: u64,
    /// Slots and events that were left out, for whatever reason.
    pub skipped: u64,
    /// Firings whose task could not be submitted.
    pub failed: u64,
    /// Why the last of those could not.
    pub last_problem: Option<Problem>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed or fired.
    pub updated_at: DateTime<Utc>,
    /// The stream's version.
    pub version: u64,
    /// Of its last event.
    pub position: u64,
}

impl ScheduleRow {
    /// Its next slots; those of a paused one if it were resumed now.
    pub fn upcoming(&self, now: Timestamp, most: usize) -> Vec<Timestamp> {
        match self.schedule.state {
            Some(ScheduleState::Active | ScheduleState::Paused) => {
                self.schedule.timing().upcoming(self.schedule.cursor.max(now), most)
            }
            Some(ScheduleState::Completed | ScheduleState::Deleted) | None => Vec::new(),
        }
    }
}

impl ScheduleView {
    /// A row as it is shown.
    pub fn of(id: ScheduleId, row: ScheduleRow) -> Self {
        let next_run_at = row.schedule.next_run();
        let state = row.schedule.state.unwrap_or(ScheduleState::Deleted);
        let fired = row.schedule.run;
        let mut view = Self {
            id,
            name: String::new(),
            state,
            kind: ScheduleKind::Event,
            cron: None,
            timezone: None,
            interval_ms: None,
            at: None,
            on_event: None,
            task: Json::null(),
            misfire: MisfirePolicy::default(),
            misfire_limit: 0,
            grace_ms: 0,
            overlap: OverlapPolicy::default(),
            next_run_at,
            last_run_at: row.last_run_at,
            last_task_id: row.last_task_id,
            fired,
            misfires: row.misfires,
            skipped: row.skipped,
            failed: row.failed,
            last_problem: row.last_problem,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
            position: row.position,
        };
        // Every row has one: its first event says it.
        let Some(spec) = row.schedule.spec else { return view };
        view.kind = spec.when.kind();
        match spec.when {
            When::Cron { pattern, timezone } => {
                (view.cron, view.timezone) = (Some(pattern), Some(timezone));
            }
            When::Interval { interval_ms, .. } => view.interval_ms = Some(interval_ms),
            When::At { at } => view.at = Some(at),
            When::Event(on) => view.on_event = Some(on),
        }
        Self {
            name: spec.name,
            task: spec.task,
            misfire: spec.misfire,
            misfire_limit: spec.misfire_limit,
            grace_ms: spec.grace_ms,
            overlap: spec.overlap,
            ..view
        }
    }
}
