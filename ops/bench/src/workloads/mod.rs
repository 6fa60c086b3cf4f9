//! The workloads of design/performance.md, section 7: one file each.

mod beside;
mod fill;
mod l1;
mod l2;
mod l3;
mod l3_look;
mod many;
mod overload;
mod s1;
mod settle;
mod slow;
mod slow_clients;
mod t1;
mod v1;
mod w1a;
mod w1b;
mod w1c;
mod w2;
mod w2_agent;
mod w3;
mod w4_log;
mod w4a;
mod w4b;
mod w4c;
mod w4d;
mod w5;
mod w5_nats;
mod w5_sse;
mod w6;
mod w7;

use crate::cell::Cell;

/// Every cell of every workload, in the order of the specification.
#[must_use]
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    cells.extend(w1a::cells());
    cells.extend(w1b::cells());
    cells.extend(w1c::cells());
    cells.extend(w2::cells());
    cells.extend(w3::cells());
    cells.extend(w4a::cells());
    cells.extend(w4b::cells());
    cells.extend(w4c::cells());
    cells.extend(w4d::cells());
    cells.extend(w5::cells());
    cells.extend(w6::cells());
    cells.extend(w7::cells());
    cells.extend(overload::cells());
    cells.extend(slow::cells());
    cells.extend(s1::cells());
    cells.extend(l1::cells());
    cells.extend(l2::cells());
    cells.extend(l3::cells());
    cells.extend(l3_look::cells());
    cells.extend(v1::cells());
    cells.extend(t1::cells());
    cells.extend(w1a::sealing());
    cells
}
