//! The agent's side of Taffrail: an SDK, and a sidecar that makes any executable an agent.
//!
//! An [`Agent`] registers under its name, says that it is ready, beats every two seconds,
//! claims tasks (and takes those pushed to it), keeps their leases and answers for them.
//! What it does with a task is a [`Handler`]'s affair; [`CommandHandler`] runs a command.
//!
//! Delivery is at least once: a task may come again after a crash or a lost lease, and the
//! lease's token decides whose answer counts. An agent stops working on a task as soon as
//! the server says that the lease is lost. Silence is no such word: while the server is
//! away the work goes on, since its answer is refused should another have it by then.

mod agent;
mod auto;
mod command;
mod control;
mod dial;
mod error;
mod floor;
mod identity;
mod job;
mod journal;
mod line;
mod logs;
mod nats;
mod notice;
mod options;
mod process;
mod relay;
mod route;
mod tail;
mod transport;
mod verdict;
mod wire;
mod work;

pub use agent::{Agent, Ended};
pub use command::{CommandHandler, conclude};
pub use control::Control;
pub use error::Error;
pub use identity::{agent_id, command_id};
pub use notice::Notice;
pub use options::Options;
pub use relay::Relay;
pub use route::{Route, Server, token_file};
pub use verdict::Verdict;
pub use work::{Handler, Work};
