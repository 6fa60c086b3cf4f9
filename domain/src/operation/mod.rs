//! Operations: long-running work on behalf of a caller, followed by its id.
//!
//! The first event carries the command that is to be run, so whoever picks the
//! operation up after a crash knows all there is to know.
//!
//! Invariant: succeeded, failed and cancelled are final.

mod aggregate;
mod command;
mod event;
mod upcast;

pub use aggregate::{Operation, OperationState};
pub use command::*;
pub use event::*;
