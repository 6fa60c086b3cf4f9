//! Who did what, when and because of what: one line per event, with the refused
//! commands beside them.
//!
//! Refusals are no events: they are read from the command results at query time, up to
//! the position that the lines reflect, so both kinds stand in one order.

mod fold;
mod query;
mod summary;
mod view;

pub(crate) use fold::request;
pub use fold::{Audit, AuditRow};
pub use query::{AuditFilter, AuditOrder, Bound};
pub(crate) use summary::excerpt;
pub use summary::summary;
pub use view::{AuditEntry, AuditOutcome};
