//! What can have happened to an operation.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::{CommandSpec, OperationProgress, Resource};
use super::upcast::UPCASTS;
use crate::json::Json;
use crate::problem::Problem;
use crate::task::TaskNoted;

events! {
    /// The events of an operation.
    OperationEvent of "operation" upcast UPCASTS;
    {
        /// It was taken on.
        Accepted(OperationAccepted) = "accepted" v 1,
        /// Work has begun.
        Started(TaskNoted) = "started" v 1,
        /// How far it is.
        Progressed(OperationProgress) = "progressed" v 1,
        /// It is done.
        Succeeded(OperationSucceeded) = "succeeded" v 1,
        /// It could not be done.
        Failed(OperationFailed) = "failed" v 1,
        /// It is no longer wanted.
        Cancelled(TaskNoted) = "cancelled" v 1,
    }
}

/// It was taken on, with all that its runner needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationAccepted {
    /// What kind of work.
    pub kind: String,
    /// What it works on.
    pub resource: Resource,
    /// The command to run, for work that is one command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandSpec>,
    /// Further input.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub input: Json,
}

/// It is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationSucceeded {
    /// What came out.
    pub result: Json,
}

/// It could not be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationFailed {
    /// Why.
    pub problem: Problem,
}
