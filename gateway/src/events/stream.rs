//! What SSE and WebSocket streams have in common: room, an end, and their events.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cursor::{self, Cursor, Start};
use super::filter::StreamFilter;
use super::hub::{Page, Subscription};
use crate::app::{App, StreamSlot};
use crate::auth::{Caller, REFRESH};
use crate::error::ApiError;

/// How long a stream may be silent before it says that it is still there.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A caller's open stream.
pub(crate) struct Live {
    pub(crate) app: App,
    pub(crate) caller: Caller,
    pub(crate) start: Start,
    subscription: Subscription,
    _slot: Arc<StreamSlot>,
    spoke: Instant,
}

/// What a stream has to say next.
pub(crate) enum Next {
    /// Events, in order.
    Events(Arc<Page>),
    /// Nothing happened, but the peer should know that we are here.
    KeepAlive,
    /// The process leaves.
    Closing,
    /// The token is valid no longer.
    Revoked,
    /// The log could not be read; the peer should come back at its position.
    Broken,
}

impl Live {
    /// Opens a stream from behind a place, or from now on.
    pub(crate) async fn open(
        app: &App,
        caller: &Caller,
        slot: Arc<StreamSlot>,
        filter: StreamFilter,
        wanted: Option<Cursor>,
    ) -> Result<Self, ApiError> {
        let start = cursor::start(&app.hub.reader().log, wanted).await?;
        let subscription = app.hub.subscribe(caller.tenant.clone(), filter, start.after);
        Ok(Self {
            app: app.clone(),
            caller: caller.clone(),
            start,
            subscription,
            _slot: slot,
            spoke: Instant::now(),
        })
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Next {
        let closing = self.app.closing.clone();
        loop {
            let quiet = (self.spoke + KEEP_ALIVE).min(Instant::now() + REFRESH / 2);
            // A read of the log runs in a task of its own; only the waiting is dropped here.
            let next = tokio::select! {
                biased;
                () = closing.cancelled() => return Next::Closing,
                next = tokio::time::timeout_at(quiet, self.subscription.next()) => next,
            };
            if !self.app.doors.tokens.holds(&self.caller.digest) {
                return Next::Revoked;
            }
            match next {
                Ok(Ok(page)) => {
                    self.spoke = Instant::now();
                    self.app.figures.stream_events.add(page.frames.len() as u64);
                    return Next::Events(page);
                }
                Ok(Err(error)) => {
                    tracing::warn!(cause = %crate::error::chain(&error), "a stream broke off");
                    return Next::Broken;
                }
                Err(_) if self.spoke.elapsed() >= KEEP_ALIVE => {
                    self.spoke = Instant::now();
                    return Next::KeepAlive;
                }
                Err(_) => {}
            }
        }
    }
}
