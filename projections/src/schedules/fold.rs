//! What each event makes of a schedule's row.

use domain::schedule::{Schedule, ScheduleEvent, SkipReason, task_of};
use domain::{Event, Problem, Recorded, ScheduleId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of schedules.
#[derive(Debug, Clone, Copy)]
pub struct Schedules;

/// What is kept of a schedule; see [`super::ScheduleView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as ScheduleView, but for those explained")]
pub struct ScheduleRow {
    /// The aggregate itself: when the next slot is follows from it.
    pub schedule: Schedule,
    pub last_run_at: Option<Timestamp>,
    pub last_task_id: Option<TaskId>,
    pub misfires: u64,
    pub skipped: u64,
    pub failed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_problem: Option<Problem>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub version: u64,
    pub position: u64,
    /// Of its first event: the order of lists, which never changes.
    pub created: u64,
}

impl Projection for Schedules {
    const NAME: &'static str = "schedules";
    const COLUMNS: &'static [Column] = &[
        Column::new("created", ColumnKind::Int),
        Column::new("kind", ColumnKind::Text),
        Column::new("state", ColumnKind::Text),
    ];
    type Key = Uuid;
    type Row = ScheduleRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        match event {
            Event::Schedule(_) => vec![recorded.stream_id],
            Event::Task(_)
            | Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => Vec::new(),
        }
    }

    fn fold(
        &self,
        id: &Uuid,
        row: Option<ScheduleRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<ScheduleRow> {
        use ScheduleEvent as E;
        let Event::Schedule(event) = event else { return row };
        let mut row = match (event, row) {
            (E::Created(_), None) => ScheduleRow {
                schedule: Schedule::default(),
                last_run_at: None,
                last_task_id: None,
                misfires: 0,
                skipped: 0,
                failed: 0,
                last_problem: None,
                created_at: recorded.occurred_at,
                updated_at: recorded.occurred_at,
                version: recorded.version,
                position: recorded.position,
                created: recorded.position,
            },
            (_, None) => return None,
            (_, Some(row)) => row,
        };
        row.schedule.apply(event);
        match event {
            E::Created(_) | E::Updated(_) | E::Paused(_) | E::Resumed(_) => {}
            E::Deleted(_) => return None,
            E::Fired(fired) => {
                row.last_run_at = Some(recorded.occurred_at);
                row.last_task_id = Some(task_of(ScheduleId(*id), fired.run));
                row.misfires += fired.missed;
            }
            E::Skipped(skipped) => {
                row.skipped += skipped.count;
                if skipped.reason == SkipReason::Misfire {
                    row.misfires += skipped.count;
                }
            }
            E::SubmitFailed(failed) => {
                row.failed += 1;
                row.last_problem = Some(failed.problem.clone());
            }
        }
        row.updated_at = recorded.occurred_at;
        row.version = recorded.version;
        row.position = recorded.position;
        Some(row)
    }

    fn shown(key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::ScheduleView::of(domain::ScheduleId(*key), row))
            .unwrap_or_default()
    }

    fn index(_: &Uuid, row: &ScheduleRow) -> Vec<Cell> {
        let kind = row.schedule.kind().map_or("", |kind| kind.as_str());
        let state = row.schedule.state.map_or("", |state| state.as_str());
        vec![Cell::position(row.created), Cell::text(kind), Cell::text(state)]
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
