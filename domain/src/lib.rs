//! The words and rules of Taffrail: commands, events and the aggregates that
//! turn one into the other.
//!
//! Invariant: this crate does no I/O, reads no clock and rolls no dice. Time,
//! ids and facts about the world enter with the command, so folding the same
//! events always gives the same state.

#[macro_use]
pub mod macros;

pub mod agent;
pub mod capability;
mod catalogue;
pub mod crew;
mod decide;
pub mod expression;
pub mod fork;
pub mod frame;
pub mod ids;
pub mod json;
pub mod node;
pub mod operation;
pub mod outcome;
pub mod problem;
pub mod profile;
pub mod queue;
pub mod recorded;
pub mod schedule;
pub mod task;
pub mod upcast;
pub mod values;

pub use catalogue::{
    Aggregate, Claim, ClaimChange, Command, Event, EventType, definitions, event_id, event_types,
};
pub use decide::{Facts, Refusal, Stamped, Timestamp, operation_id};
pub use ids::{AgentId, CrewId, NodeId, OperationId, ScheduleId, StreamType, TaskId, TenantId};
pub use json::Json;
pub use outcome::{Outcome, OutcomeEvent, Status};
pub use problem::{Code, FieldError, Problem};
pub use recorded::{Hashed, Recorded};
