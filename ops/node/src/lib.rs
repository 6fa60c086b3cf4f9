//! The host daemon: it starts agents, watches them, stops them, and tells what it sees.
//!
//! Every few seconds it tells the managers what runs here and is told what should. The answer
//! is a level, not a row of messages: whatever was lost on the way, the next one carries it.
//! [`Node::run`] is the whole of it.
//!
//! Words: the *book* is what the daemon has on disk of each agent; a *keeper* is the task that
//! brings one agent's process to where it should be; a *driver* is what processes are started
//! in; a *run* is one process, from its start to its end.
//!
//! Invariants:
//! - One process per agent: an older generation is over before the next begins. (`keeper.rs`)
//! - What is seen is on disk before it is told, and stays there until there is an outcome; its
//!   command id follows from agent, generation and number, so a repeat is no second one.
//!   (`book.rs`, `outbox.rs`)
//! - The end of the daemon is not the end of its agents: the next daemon finds them by the book.
//! - Silence of the managers changes nothing here.

mod book;
mod driver;
mod error;
mod folder;
mod ground;
mod health;
mod host;
mod keeper;
mod link;
mod logs;
mod node;
mod options;
mod outbox;
mod per_task;
mod plan;
mod probe;
mod secrets;
mod warmup;

pub use error::Error;
pub use host::{capacity, hostname};
pub use node::{Ended, Node};
pub use options::Options;
