//! `taffrail bench`: how fast this machine runs Taffrail, beside what the machine could do at
//! all.
//!
//! A [`Cell`] is one measurement: a workload with its parameters, or a limit of the machine.
//! A [`sitting`](run::sitting) measures cells in turn, several rounds of each, so that a
//! machine that changes its pace does so under all of them; every cell gets servers of its
//! own. Rules (design/performance.md, section 7):
//!
//! - The server under test is a process of its own; the load comes from this one. The one
//!   exception is a library call (W1a), which has no other side.
//! - Closed loop measures capacity, open loop latency (from the intended start); a cell is
//!   one or the other.
//! - A cell that writes ends by counting: what was acknowledged is in the log, or the run
//!   fails.

pub mod cell;
pub mod commands;
pub mod counters;
pub mod goals;
pub mod http;
pub mod hw;
pub mod limits;
pub mod line;
pub mod load;
pub mod nats;
pub mod product;
pub mod report;
pub mod run;
pub mod server;
pub mod table;
pub mod target;
pub mod workloads;

pub use cell::{Cell, Context, Host, Mode, Params};
pub use line::Line;
pub use load::{Client, Reply, Samples};
pub use product::{Hosted, Product, Tuning};
pub use target::Target;
