//! Long-running operations: one row each, as `GET /v1/operations/{id}` shows it.

mod fold;
mod query;
mod view;

pub use fold::{OperationRow, Operations};
pub(crate) use query::BY_ID;
pub use query::OperationFilter;
pub use view::OperationView;
