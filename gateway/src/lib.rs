//! The public API over HTTP: extract, one call, answer; judgement lives a room deeper.
//!
//! Invariants: a request under `/v1` has a caller; every refusal is a problem document;
//! every answer of a read model names the position that it reflects; a caller who hangs
//! up leaves no work half done; no queue and no buffer here is unbounded.

mod agent;
mod app;
mod asyncapi;
mod audit;
mod auth;
mod batch;
mod body;
mod causes;
mod change;
mod conditional;
mod error;
mod events;
mod export;
mod fleet;
mod fork;
mod health;
mod idempotency;
mod io;
mod layer;
mod mend;
mod metrics;
mod models;
mod node;
mod openapi;
mod operation;
mod params;
mod prefer;
mod profile;
mod query;
mod queue;
mod rebuild;
mod replay;
mod room;
mod router;
mod schedule;
mod seal;
mod server;
mod service;
mod shapes;
mod task;
mod time;
mod trace;
mod view;

pub use agent::{NatsAgents, NatsHeartbeats, NatsLogs};
pub use app::{AgentDoor, AgentLogs, App, Doors, ForAgent, Heartbeats, Limits, LogStream};
pub use asyncapi::document as asyncapi_document;
pub use auth::{PgTokens, TokenDigest, TokenRow, TokenSource, Tokens};
pub use health::{Check, Health, Report};
pub use metrics::{Counter, Gauge, Histogram, Metrics};
pub use openapi::document as openapi_document;
pub use router::router;
pub use server::serve;

pub(crate) const TASK: domain::StreamType = domain::StreamType::Task;
