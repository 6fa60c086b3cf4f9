//! Following the log by position, from memory where possible.

use std::sync::Arc;
use std::time::Duration;

use domain::Recorded;

use crate::{Feed, Log, StoreError};

/// How long a follower sleeps at most before it asks the log itself: the safety net
/// behind every wake-up (reliability D21).
const POLL: Duration = Duration::from_millis(250);

/// Reads the whole log in order; whoever follows it holds nothing but a position.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The log itself.
    pub log: Log,
    /// What this process knows of its end.
    pub feed: Feed,
}

impl Reader {
    /// The events behind a position; empty when there are none yet.
    ///
    /// # Errors
    /// When the log cannot be reached or has a hole.
    pub async fn after(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Recorded>>, StoreError> {
        match self.feed.after(position, limit) {
            Some(events) => Ok(events),
            None => self.log.read(position, limit).await,
        }
    }

    /// The events behind a position; waits until there is at least one.
    ///
    /// # Errors
    /// When the log cannot be reached or has a hole.
    pub async fn next(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let mut head = self.feed.watch();
        loop {
            let known = *head.borrow_and_update();
            if known <= position {
                // Somebody else may have appended: the database is asked once per poll.
                if tokio::time::timeout(POLL, head.changed()).await.is_ok() {
                    continue;
                }
            }
            let events = self.after(position, limit).await?;
            if let Some(last) = events.last() {
                self.feed.announce(last.position);
                return Ok(events);
            }
            if known > position {
                // The feed is ahead of the log: an older copy was put back. Do not spin.
                tokio::time::sleep(POLL).await;
            }
        }
    }
}
