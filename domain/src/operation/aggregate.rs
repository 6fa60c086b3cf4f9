//! The operation's rules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::*;
use super::event::*;
use crate::decide::{Facts, Refusal};
use crate::problem::Code;
use crate::task::TaskNoted;

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Taken on, not begun.
    Accepted,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Could not be done.
    Failed,
    /// No longer wanted.
    Cancelled,
}

impl OperationState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it has come to an end.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The commands that this state allows.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Accepted => &["start", "progress", "succeed", "fail", "cancel"],
            Self::Running => &["progress", "succeed", "fail", "cancel"],
            Self::Succeeded | Self::Failed | Self::Cancelled => &[],
        }
    }
}

/// Long-running work on behalf of a caller.
///
/// Invariant: a final state stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// `None` until accepted.
    pub state: Option<OperationState>,
}

impl Operation {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command.
    pub fn decide(
        &self,
        command: &OperationCommand,
        _facts: &Facts,
    ) -> Result<Vec<OperationEvent>, Refusal> {
        use OperationCommand as C;
        use OperationEvent as E;

        let Some(state) = self.state else {
            let C::Accept(new) = command else {
                return Err(Refusal::unknown("operation"));
            };
            return Ok(vec![E::Accepted(OperationAccepted {
                kind: new.kind.clone(),
                resource: new.resource.clone(),
                command: new.command.clone(),
                input: new.input.clone(),
            })]);
        };
        if matches!(command, C::Accept(_)) {
            return Err(Refusal::new(
                Code::AlreadyExists,
                "an operation of this id exists already",
            ));
        }
        if !state.allowed().contains(&command.name()) {
            return Err(Refusal::illegal(command.name(), state.as_str(), state.allowed()));
        }
        let noted = |why: &Reason| TaskNoted { reason: why.reason.clone() };
        Ok(match command {
            C::Accept(_) => vec![],
            C::Start(why) => vec![E::Started(noted(why))],
            C::Progress(far) => vec![E::Progressed(far.clone())],
            C::Succeed(done) => {
                vec![E::Succeeded(OperationSucceeded { result: done.result.clone() })]
            }
            C::Fail(why) => vec![E::Failed(OperationFailed { problem: why.problem.clone() })],
            C::Cancel(why) => vec![E::Cancelled(noted(why))],
        })
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &OperationEvent) {
        self.state = Some(match event {
            OperationEvent::Accepted(_) => OperationState::Accepted,
            OperationEvent::Started(_) | OperationEvent::Progressed(_) => OperationState::Running,
            OperationEvent::Succeeded(_) => OperationState::Succeeded,
            OperationEvent::Failed(_) => OperationState::Failed,
            OperationEvent::Cancelled(_) => OperationState::Cancelled,
        });
    }
}

aggregate!(Operation, "operation", OperationCommand, OperationEvent);
