//! The write side: commands in, committed events and outcomes out.

pub mod clock;
pub mod command;
pub mod process;
pub mod processor;

pub use clock::{Clock, Ids};
pub use command::{CommandEnvelope, Executor, Fingerprint};
pub use processor::Processor;
