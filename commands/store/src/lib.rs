//! The event log on PostgreSQL: the one place that appends, and how it is read.

mod append;
mod error;
mod feed;
mod lease;
mod links;
mod log;
mod reader;
mod row;
mod scan;
pub mod seeded;
mod server;
mod wake;

pub use append::{Append, LinkKind, NewEvent, NewResult, Origin, TaskLink, Writer, Written};
pub use error::StoreError;
pub use feed::Feed;
pub use lease::{Lease, Leases};
pub use links::Linked;
pub use log::{CommandRecord, Head, Log, Rehydrated, Snapshot, StreamKey};
pub use reader::Reader;
pub use row::{RECORDED_COLUMNS, recorded_from_columns, recorded_from_row};
pub use scan::Scan;
pub use server::{check_server, check_tenant_wall, connect_pool};
pub use wake::{listen, notify};
