//! The contract's Operation.

use chrono::{DateTime, Utc};
use domain::operation::{OperationProgress, OperationState, Resource};
use domain::{Json, OperationId, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::OperationRow;

/// An operation as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Operation)]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// What kind of work, such as `agent.drain`.
    pub kind: String,
    /// Where it stands.
    pub state: OperationState,
    /// How far it is.
    pub progress: OperationProgress,
    /// What it works on.
    pub resource: Resource,
    /// What came out.
    pub result: Json,
    /// Why it could not be done.
    pub problem: Option<Problem>,
    /// When it was taken on.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// The stream's version.
    pub version: u64,
    /// Of its last event.
    pub position: u64,
}

impl OperationView {
    /// A row as it is shown.
    pub fn of(id: OperationId, row: OperationRow) -> Self {
        Self {
            id,
            kind: row.kind,
            state: row.state,
            progress: row.progress,
            resource: row.resource,
            result: row.result,
            problem: row.problem,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
            position: row.position,
        }
    }
}
