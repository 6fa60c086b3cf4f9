//! What each event makes of a queue's row.

use domain::queue::{QueueEvent, QueueState};
use domain::{Event, Json, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of what was decided about queues.
#[derive(Debug, Clone, Copy)]
pub struct Queues;

/// What is kept of a queue; see [`super::QueueView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as QueueView, but for those explained")]
pub struct QueueRow {
    pub name: String,
    pub state: QueueState,
    /// Of the event that led to its state.
    pub state_since: Timestamp,
    /// The same as a position; 0 where it was always so.
    pub state_position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// As it was set; null where none was.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub policy: Json,
    pub version: u64,
    pub position: u64,
}

impl Projection for Queues {
    const NAME: &'static str = "queues";
    const COLUMNS: &'static [Column] = &[Column::new("name", ColumnKind::Text)];
    type Key = Uuid;
    type Row = QueueRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        match event {
            Event::Queue(_) => vec![recorded.stream_id],
            Event::Task(_)
            | Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Node(_)
            | Event::Profile(_) => Vec::new(),
        }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<QueueRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<QueueRow> {
        let Event::Queue(event) = event else { return row };
        let mut row = row.unwrap_or_else(|| QueueRow {
            name: event.queue().to_owned(),
            state: QueueState::Active,
            state_since: recorded.occurred_at,
            state_position: 0,
            reason: None,
            policy: Json::null(),
            version: 0,
            position: 0,
        });
        let state = match event {
            QueueEvent::Configured(new) => {
                row.policy = Json::of(&new.policy);
                None
            }
            QueueEvent::Paused(why) => Some((QueueState::Paused, &why.reason)),
            QueueEvent::Resumed(why) => Some((QueueState::Active, &why.reason)),
            QueueEvent::Draining(why) => Some((QueueState::Draining, &why.reason)),
        };
        if let Some((state, reason)) = state {
            row.state = state;
            row.reason.clone_from(reason);
            row.state_since = recorded.occurred_at;
            row.state_position = recorded.position;
        }
        row.version = recorded.version;
        row.position = recorded.position;
        Some(row)
    }

    fn index(_: &Uuid, row: &QueueRow) -> Vec<Cell> {
        vec![Cell::text(&row.name)]
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
