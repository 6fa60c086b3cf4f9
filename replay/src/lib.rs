//! The log told again: read models made anew beside the live ones, compared with them,
//! and the world as of a position.
//!
//! Invariant: nothing here has a fold of its own; the lines that made the live rows make
//! these.

mod compare;
mod dead;
mod decisions;
mod rebuild;
pub mod seal;
mod work;

pub use compare::{Comparison, Difference, compare, world_at};
pub use dead::{DeadLettersReport, DeadLettersWork};
pub use decisions::{VERIFY_DECISIONS, VerifyDecisionsWork, verify_decisions};
pub use rebuild::{RebuildReport, rebuild};
pub use work::{KIND, RebuildWork};

pub use projections::{Model, ProjectionError};
