//! What can be asked of an operation.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::StreamType;
use crate::json::Json;
use crate::macros::Body;
use crate::problem::{FieldError, Problem};
pub use crate::task::Reason;
use crate::values::Check;

commands! {
    /// The commands of an operation.
    OperationCommand {
        /// Takes it on.
        Accept(AcceptOperation) = "accept",
        /// Work has begun.
        Start(Reason) = "start",
        /// How far it is.
        Progress(OperationProgress) = "progress",
        /// It is done.
        Succeed(SucceedOperation) = "succeed",
        /// It could not be done.
        Fail(FailOperation) = "fail",
        /// It is no longer wanted.
        Cancel(Reason) = "cancel",
    }
}

/// Largest body of a command that an operation carries, its input counted in: a task with
/// every field at its limit fits, and so does the event in a NATS message of 1 MiB.
pub const MAX_COMMAND_BYTES: usize = 768 * 1024;

/// What an operation works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Such as `agent`, `task`, `projection`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id or name.
    pub id: String,
}

/// A command that an operation is to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The stream's type.
    #[serde(rename = "type")]
    pub kind: StreamType,
    /// The stream.
    pub id: Uuid,
    /// The command's name.
    pub command: String,
    /// The command's id.
    pub command_id: Uuid,
    /// Its body.
    pub body: Json,
    /// The stream version that it expects (`If-Match`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<u64>,
}

/// Takes an operation on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptOperation {
    /// What kind of work, such as `agent.drain` or `projection.rebuild`.
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

impl Body for AcceptOperation {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check::default()
            .text("kind", &self.kind, 1, 128)
            .text("resource/type", &self.resource.kind, 1, 64)
            .text("resource/id", &self.resource.id, 1, 128)
            .value("input", &self.input);
        if let Some(spec) = &self.command {
            let length = spec.body.as_str().len() + self.input.as_str().len();
            check = check.text("command/command", &spec.command, 1, 64).bytes(
                "command/body",
                length,
                MAX_COMMAND_BYTES,
            );
        }
        check.done()
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationProgress {
    /// Steps done.
    pub done: u64,
    /// Steps in all, where known.
    #[serde(default)]
    pub total: Option<u64>,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl Body for OperationProgress {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().text("message", &self.message, 0, 2_000).done()
    }
}

/// It is done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SucceedOperation {
    /// What came out.
    pub result: Json,
}

impl Body for SucceedOperation {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("result", &self.result).done()
    }
}

/// It could not be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailOperation {
    /// Why.
    pub problem: Problem,
}

impl Body for FailOperation {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("problem", &Json::of(&self.problem)).done()
    }
}
