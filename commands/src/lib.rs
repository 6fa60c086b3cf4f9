//! The write side: commands in, committed events and outcomes out.

pub mod claims;
pub mod clock;
pub mod command;
pub mod fence;
pub mod leader;
pub mod process;
pub mod processor;

pub use claims::{AgentWire, Boxed, Claims, Errand, Holding, Nodes, Observation, Work};
pub use clock::{Clock, Ids};
pub use command::{CommandEnvelope, Executor, Fingerprint};
pub use process::{
    DecisionFault, DecisionReport, Decisions, Fit, Fits, LONG_COMMANDS, LifecycleHandle,
    NODE_DRAIN, PURGE, QueueDepth, ROLLING_RESTART, Waits, command_id, fork,
};
pub use processor::{Processor, ProcessorConfig, ProcessorRole, processor};
