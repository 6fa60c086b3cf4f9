//! The log for several models that follow it side by side: what is not in memory any more
//! is read and decoded once, not once per model.

use std::collections::VecDeque;
use std::sync::Arc;

use domain::Recorded;
use store::{Reader, StoreError};
use tokio::sync::Mutex;

/// Pages kept; the models are seldom further apart.
const KEPT: usize = 3;

/// A reader that several models share.
#[derive(Clone)]
pub(super) struct Pages {
    reader: Reader,
    /// Held while the log is read: who comes second finds the page there.
    kept: Arc<Mutex<VecDeque<Vec<Arc<Recorded>>>>>,
}

impl Pages {
    pub fn of(reader: Reader) -> Self {
        Self { reader, kept: Arc::default() }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The events behind a position; empty when there are none yet.
    pub async fn after(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Recorded>>, StoreError> {
        if let Some(events) = self.reader.feed.after(position, limit) {
            return Ok(events);
        }
        let mut kept = self.kept.lock().await;
        for page in kept.iter() {
            let skip = page.partition_point(|event| event.position <= position);
            let follows = page.get(skip).is_some_and(|event| event.position == position + 1);
            if follows {
                return Ok(page.iter().skip(skip).take(limit).cloned().collect());
            }
        }
        let page = self.reader.log.read(position, limit).await?;
        if page.len() < limit {
            // The end: from here on the newest events are in memory.
            kept.clear();
        } else {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(page.clone());
        }
        Ok(page)
    }
}
