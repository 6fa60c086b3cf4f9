//! Tamper evidence: seals of the log, proofs of single events, and logs as files that prove
//! themselves.
//!
//! A **leaf** is an event's hash with what the append gave it ([`leaf`]); the leaves of all
//! positions make one growing Merkle tree ([`tree`]); a **seal** is its root at a size,
//! signed, naming the seal before it ([`record`], [`chain`]); seals are published **outside**
//! the database ([`outside`]). Whoever holds a seal and the public key can tell whether a log
//! is the one that it was made of ([`check`]).
//!
//! Invariants: the tree counts positions, whatever the epoch; a chain of seals has one epoch
//! and names where it left the one before; nothing of the hot path waits for a seal.

pub mod chain;
pub mod check;
pub mod export;
pub mod fast;
pub mod import;
pub mod key;
pub mod leaf;
pub mod line;
pub mod outside;
pub mod record;
pub mod sealer;
pub mod table;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod testing;
pub mod tree;

pub use chain::Break;
pub use check::{Checker, Fault, Report};
pub use outside::{Outside, OutsideError, SealFile};
pub use record::{Kind, Left, Next, Seal};
pub use sealer::{Sealed, Sealer};
pub use table::{ProofError, Table};
