//! Typed client of the HTTP interface.
//!
//! Answers are the API's own JSON as [`serde_json::Value`]: what a caller prints is what
//! the server said, also where the server is newer than the client. Refusals come back as
//! the problem document they are ([`Error::Refused`]).
//!
//! The caller installs rustls' crypto provider before it makes a [`Client`].

mod agents;
mod download;
mod error;
mod events;
mod follow;
mod http;
mod nodes;
mod operations;
mod queues;
mod schedules;
mod seals;
mod sse;
mod tasks;

pub use download::Download;
pub use error::Error;
pub use events::EventFilter;
pub use follow::{Follow, Followed};
pub use http::{Client, Query};
pub use operations::is_final_operation;
pub use sse::{Frame, FrameTooLong, Parser};
pub use tasks::{is_final_task, is_success_task};
