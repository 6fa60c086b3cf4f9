//! `taffrail node` on a real NATS, with managers that do what a test tells them.

mod ends;
mod fake;
mod lives;
mod probes;
mod survives;
mod whole;

pub use fake::{Managers, launch, launch_with};
