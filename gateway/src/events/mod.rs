//! Committed events, outward: pages, server-sent events, WebSockets.
//!
//! Invariant: every subscriber gets the same events in the same order, each once, from
//! whatever position it names; what one subscriber does changes nothing for another.

pub(crate) mod cursor;
mod filter;
pub(crate) mod hub;
mod outbox;
mod page;
mod sse;
mod stream;
mod ws;

pub(crate) use filter::StreamFilter;
pub(crate) use outbox::Outbox;
pub use page::{__path_list_events, EventList, list_events};
pub(crate) use page::{at_least, cloud_events};
pub use sse::{__path_stream_events, stream_events};
pub(crate) use sse::{answer as sse_answer, event_stream};
pub(crate) use stream::{Live, Next};
pub use ws::{__path_websocket, websocket};
