//! Carries every read model: reads the log in order, folds, writes rows and
//! checkpoint in one transaction.

mod aside;
mod cell;
mod commit;
mod fold;
mod folder;
pub mod memory;
mod numbers;
mod pace;
mod pages;
mod passed;
mod run;
mod statements;
mod storage;
mod tail;

use std::fmt::Debug;
use std::hash::Hash;

use domain::{Event, Recorded, StreamType};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use cell::{Cell, Column, ColumnKind, Key};
pub use fold::{INTERVAL, Parked, Rows, StreamKey, boundary};
pub use folder::{Folded, Folder};
pub use numbers::Numbers;
pub use pace::{MAX_BATCH, Pace};
pub use passed::note_passed;
pub use run::run_all;
pub(crate) use statements::column_names;
pub(crate) use storage::read_row;
pub use storage::{Checkpoint, Schema, Storage, document, stored, stored_sql};
pub(crate) use tail::Tail;

/// A pure fold of the log over keyed rows.
///
/// Invariant: `keys`, `fold` and `index` depend on their arguments alone: no clock, no
/// randomness, no other row. A row survives being written as JSON and read back
/// unchanged (so no `f64`: keep numbers of the outside as [`domain::Json`]).
pub trait Projection: Send + Sync + 'static {
    /// What a reader opens; also the name of its table.
    const NAME: &'static str;
    /// Version of the fold. Raised with every change that makes other rows of the same events;
    /// rows of another version are made anew at the start, while they are read.
    const VERSION: i32 = 1;
    /// The columns beside `tenant`, `key` and `doc` that queries filter and sort by.
    const COLUMNS: &'static [Column];
    /// Every key is met by one event alone, so nothing needs loading before the fold.
    const WRITE_ONCE: bool = false;
    /// Rows are kept as documents. Without, only key and columns are: the row is folded from
    /// its one event whenever it is read.
    const DOCUMENT: bool = true;
    /// The column that holds the position which made a row so.
    const AT: &'static str = "at";
    /// Rows can come to an end, and be no more.
    const VANISHES: bool = false;
    /// The streams of this type are counted per tenant in the order of the log, from 1, and
    /// each one's number is [given](Projection::number) to the rows of its first event.
    const NUMBERED: Option<StreamType> = None;
    /// What names a row within its tenant.
    type Key: Key;
    /// What is kept per key.
    type Row: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync;

    /// The rows that an event touches, all in the event's tenant.
    fn keys(recorded: &Recorded, event: &Event) -> Vec<Self::Key>;

    /// The row after the event; `None`: there is none.
    fn fold(
        &self,
        key: &Self::Key,
        row: Option<Self::Row>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<Self::Row>;

    /// Gives a row the number of its stream, right after the fold of the stream's first event.
    fn number(_row: &mut Self::Row, _number: u64) {}

    /// A row as readers may see it by itself: the shape that queries answer, with what they
    /// add from other rows left empty.
    fn shown(_key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(row).unwrap_or_default()
    }

    /// The values of [`Projection::COLUMNS`], in their order.
    fn index(key: &Self::Key, row: &Self::Row) -> Vec<Cell>;
}

/// Anything that can name a row.
pub trait KeyBounds: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static> KeyBounds for T {}

#[cfg(test)]
mod tests;
