//! What every decision is given, and what a refusal says.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::ids::OperationId;
use crate::problem::{Code, FieldError, Problem};
use crate::task::TaskTypes;

/// An instant in UTC, to the microsecond (what the database keeps).
pub type Timestamp = DateTime<Utc>;

/// What a decision may know beside the state and the command.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The database's time when the command is decided.
    pub now: Timestamp,
    /// Who asks.
    pub actor: String,
    /// What is set for whole types of tasks.
    pub task_types: Arc<TaskTypes>,
    /// The command's id: what a decision makes up derives its ids from it.
    pub command_id: Uuid,
    /// How many tasks stand above a new one: its parent, the parent's parent, and so on.
    pub depth: u32,
}

impl Facts {
    /// A decision now, on this one's behalf, with nothing set for any type of task.
    pub fn new(now: Timestamp, actor: impl Into<String>) -> Self {
        Self {
            now,
            actor: actor.into(),
            task_types: Arc::default(),
            command_id: Uuid::nil(),
            depth: 0,
        }
    }
}

/// The operation that follows what a command asked for to its end.
pub fn operation_id(command_id: Uuid) -> OperationId {
    OperationId(Uuid::new_v5(&command_id, b"operation"))
}

/// A command with its facts: what the cqrs-es adapter hands to `decide`.
#[derive(Debug, Clone)]
pub struct Stamped<C> {
    /// What is asked for.
    pub command: C,
    /// When and by whom.
    pub facts: Facts,
}

/// Why the rules refuse a command.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What stood in the way, for people.
    pub detail: String,
    /// The present state.
    pub state: Option<String>,
    /// The commands that the present state allows.
    pub allowed: Vec<&'static str>,
    /// What stands in the way.
    pub conflicting_id: Option<uuid::Uuid>,
    /// The circle that would be closed, from a thing back to itself.
    pub path: Vec<uuid::Uuid>,
    /// The fields at fault, where it is for what they say.
    pub errors: Vec<FieldError>,
}

impl Refusal {
    /// A refusal of a code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            state: None,
            allowed: vec![],
            conflicting_id: None,
            path: vec![],
            errors: vec![],
        }
    }

    /// A command that the state does not allow, with those it does.
    pub fn illegal(what: &str, state: &str, allowed: &[&'static str]) -> Self {
        let list = if allowed.is_empty() { "nothing".into() } else { allowed.join(", ") };
        Self {
            state: Some(state.into()),
            allowed: allowed.to_vec(),
            ..Self::new(
                Code::IllegalTransition,
                format!("{what} is not possible in state {state}; possible: {list}"),
            )
        }
    }

    /// The same for fields that stand below another one.
    #[must_use]
    pub fn below(mut self, pointer: &str) -> Self {
        for fault in &mut self.errors {
            fault.pointer.insert_str(0, pointer);
        }
        self
    }

    /// A command for something that was never created.
    pub fn unknown(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        Self {
            allowed: refusal.allowed.iter().map(|s| (*s).to_owned()).collect(),
            state: refusal.state.clone(),
            conflicting_id: refusal.conflicting_id,
            path: refusal.path.clone(),
            errors: refusal.errors.clone(),
            ..Self::new(refusal.code, refusal.detail.clone())
        }
    }
}
