//! Everything NATS: subjects, streams, the CloudEvents envelope, the relay that mirrors
//! the log into JetStream, the consumers of commands, and the agents' wire.
//!
//! Invariant: nothing here is the truth. Every stream may be deleted at any moment; what was
//! acknowledged is in PostgreSQL, and the mirror grows back from there (invariants 1 and 5).

pub mod agents;
mod connect;
pub mod consume;
pub mod envelope;
mod error;
pub mod ids;
pub mod logs;
pub mod relay;
pub mod remote;
pub mod seals;
pub mod streams;
pub mod subject;

pub use agents::{Heartbeat, HeldTask, Presence};
pub use connect::connect;
pub use consume::{Consumer, TenantCheck, serve_claims, serve_nodes};
pub use envelope::{CloudEvent, cloud_event_json};
pub use error::BrokerError;
pub use logs::LogLimits;
pub use relay::{Relay, Standing};
pub use remote::{RemoteClaims, RemoteExecutor};
pub use seals::SealStream;
pub use streams::Streams;
