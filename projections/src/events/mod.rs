//! Pages of the log itself, within one tenant.

mod query;

pub use query::{EventFilter, EventPage};
