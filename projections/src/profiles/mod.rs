//! Profiles: one row each; a deleted one has none.

mod fold;
mod query;

pub use fold::{ProfileRow, Profiles};
pub(crate) use query::BY_ID;
pub use query::ProfileView;
