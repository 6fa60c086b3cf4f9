//! Real PostgreSQL and nats-server children for `taffrail up` and the tests.
//!
//! No container engine, no root and no set-up by hand: [`locate`] finds the server
//! programs or fetches pinned ones, [`DataDir`] holds a data folder exclusively, and
//! [`Embedded`] starts both servers on it and keeps them running. [`Postgres`] and
//! [`Nats`] are the same servers one at a time.
//!
//! Words: a *program* is what [`locate`] found; a *child* is a running one; the *keeper*
//! is the thread every child is spawned from; the *shim* is our own binary, re-executed
//! between fork and exec ([`run_shim`]).
//!
//! Invariants:
//! - No child outlives the process that started it, even when that is killed with -9.
//! - A server keeps its port for as long as its handle lives, whatever happens to the child.
//! - Secrets are in files of mode 0600 and in memory: never in an argument or a log.
//! - One data folder has one set of servers (`flock`).

mod data_dir;
mod embedded;
mod error;
mod health;
mod locate;
mod nats;
mod options;
mod ports;
mod postgres;
mod process;
mod shim;
mod supervise;

pub use data_dir::{DataDir, LockError};
pub use embedded::{Embedded, Stopped};
pub use error::StartError;
pub use health::{Health, ServerState};
pub use locate::{
    Attempt, LocateError, Located, Outcome, Programs, Server, Source, fetch, locate, probe,
};
pub use nats::{Nats, NatsAddress};
pub use options::Options;
pub use postgres::{Postgres, PostgresAddress};
pub use shim::{SHIM_ARG, run_shim};
pub use supervise::StopReport;
