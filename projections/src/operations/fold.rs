//! What each event makes of an operation's row.

use domain::operation::{OperationEvent, OperationProgress, OperationState, Resource};
use domain::{Event, Json, Problem, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of operations.
#[derive(Debug, Clone, Copy)]
pub struct Operations;

/// What is kept of an operation; see [`super::OperationView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as OperationView, but for the one explained")]
pub struct OperationRow {
    pub kind: String,
    pub state: OperationState,
    pub progress: OperationProgress,
    pub resource: Resource,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub result: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub version: u64,
    pub position: u64,
    /// Of its first event: the order of lists, which never changes.
    pub created: u64,
}

impl Projection for Operations {
    const NAME: &'static str = "operations";
    const COLUMNS: &'static [Column] = &[
        Column::new("created", ColumnKind::Int),
        Column::new("kind", ColumnKind::Text),
        Column::new("state", ColumnKind::Text),
    ];
    type Key = Uuid;
    type Row = OperationRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        match event {
            Event::Operation(_) => vec![recorded.stream_id],
            Event::Task(_)
            | Event::Agent(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => Vec::new(),
        }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<OperationRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<OperationRow> {
        use OperationEvent as E;
        let Event::Operation(event) = event else { return row };
        let mut row = match (event, row) {
            (E::Accepted(new), None) => OperationRow {
                kind: new.kind.clone(),
                state: OperationState::Accepted,
                progress: OperationProgress::default(),
                resource: new.resource.clone(),
                result: Json::null(),
                problem: None,
                created_at: recorded.occurred_at,
                updated_at: recorded.occurred_at,
                version: recorded.version,
                position: recorded.position,
                created: recorded.position,
            },
            (_, None) => return None,
            (_, Some(row)) => row,
        };
        match event {
            E::Accepted(_) => {}
            E::Started(_) => row.state = OperationState::Running,
            E::Progressed(far) => {
                row.state = OperationState::Running;
                row.progress = far.clone();
            }
            E::Succeeded(done) => {
                row.state = OperationState::Succeeded;
                row.result = done.result.clone();
                if let Some(total) = row.progress.total {
                    row.progress.done = total;
                }
            }
            E::Failed(failed) => {
                row.state = OperationState::Failed;
                row.problem = Some(failed.problem.clone());
            }
            E::Cancelled(_) => row.state = OperationState::Cancelled,
        }
        row.updated_at = recorded.occurred_at;
        row.version = recorded.version;
        row.position = recorded.position;
        Some(row)
    }

    fn shown(key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::OperationView::of(domain::OperationId(*key), row))
            .unwrap_or_default()
    }

    fn index(_: &Uuid, row: &OperationRow) -> Vec<Cell> {
        vec![Cell::position(row.created), Cell::text(&row.kind), Cell::text(row.state.as_str())]
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
