//! The workloads of design/performance.md, section 7: one file each.

mod w1a;
mod w1b;
mod w1c;

use crate::cell::Cell;

/// Every cell of every workload, in the order of the specification.
#[must_use]
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    cells.extend(w1a::cells());
    cells.extend(w1b::cells());
    cells.extend(w1c::cells());
    cells
}
