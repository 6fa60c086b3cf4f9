//! The log told again: read models made anew beside the live ones, compared with them,
//! the world as of a position, and past events published once more.
//!
//! Invariant: nothing here has a fold of its own; the lines that made the live rows make
//! these.

mod bisect;
mod compare;
mod dead;
mod decisions;
mod diff;
mod fork;
mod publish;
mod rebuild;
pub mod seal;
mod work;

pub use bisect::{Flipped, Found, Predicate, VARIABLE, bisect};
pub use compare::{Comparison, Difference, compare, world_at};
pub use dead::{DeadLettersReport, DeadLettersWork};
pub use decisions::{VERIFY_DECISIONS, VerifyDecisionsWork, verify_decisions};
pub use diff::{Diff, DiffAsked, FieldDiff, ModelDiff, Moment, RowChange, RowDiff, diff};
pub use fork::{FORK, ForkError, ForkWork, fork};
pub use publish::{PUBLISH, PublishInput, PublishReport, PublishWork};
pub use rebuild::{
    Differences, DifferingRow, Outdated, Phase, Rebuild, RebuildReport, RollbackReport, Standing,
    outdated, rebuild, sweep,
};
pub use work::{FORGET, REBUILD, ROLLBACK, RebuildWork, refresh};

pub use projections::{Model, ProjectionError};
