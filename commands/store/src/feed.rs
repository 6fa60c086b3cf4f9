//! What was committed lately, in memory: readers in this process need no query.

use std::collections::VecDeque;
use std::sync::Arc;

use domain::Recorded;
use parking_lot::RwLock;
use tokio::sync::watch;

/// Events kept; beyond that readers ask PostgreSQL.
const KEPT_EVENTS: usize = 16_384;
/// Payload bytes kept.
const KEPT_BYTES: usize = 16 << 20;

/// The newest events and the head of the log, shared by all roles of a process.
///
/// In a process without the processor it carries only the head.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recent: RwLock<Recent>,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<Arc<Recorded>>,
    bytes: usize,
}

impl Feed {
    /// A feed that knows the head and no event yet.
    pub fn at(head: u64) -> Self {
        let recent = RwLock::default();
        Self(Arc::new(Inner { recent, head: watch::Sender::new(head) }))
    }

    /// The last committed position known here.
    pub fn head(&self) -> u64 {
        *self.0.head.borrow()
    }

    /// Whether this process wrote the end of the log, and did not just hear of it.
    pub fn wrote_head(&self) -> bool {
        let newest = self.0.recent.read().events.back().map(|event| event.position);
        newest == Some(self.head())
    }

    /// Wakes whenever the head grows.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.head.subscribe()
    }

    /// Hands over what was just committed, in the order of positions.
    pub fn publish(&self, events: &[Arc<Recorded>]) {
        let Some(last) = events.last() else { return };
        {
            let mut recent = self.0.recent.write();
            for event in events {
                // After a change of processor there may be a gap: what is kept must be whole.
                if recent.events.back().is_some_and(|back| back.position + 1 != event.position) {
                    *recent = Recent::default();
                }
                recent.bytes += event.payload.len();
                recent.events.push_back(event.clone());
            }
            while recent.events.len() > KEPT_EVENTS || recent.bytes > KEPT_BYTES {
                match recent.events.pop_front() {
                    Some(event) => recent.bytes -= event.payload.len(),
                    None => break,
                }
            }
        }
        self.announce(last.position);
    }

    /// Tells that the log has come at least this far.
    pub fn announce(&self, position: u64) {
        self.0.head.send_if_modified(|head| {
            let grown = position > *head;
            *head = position.max(*head);
            grown
        });
    }

    /// Forgets everything, after an older copy of the database was put back: what is kept
    /// here may never have happened there.
    pub fn reset(&self, head: u64) {
        *self.0.recent.write() = Recent::default();
        self.0.head.send_replace(head);
    }

    /// The events behind a position, when they are all still here.
    pub fn after(&self, position: u64, limit: usize) -> Option<Vec<Arc<Recorded>>> {
        let recent = self.0.recent.read();
        let first = recent.events.front()?.position;
        let skip = position.checked_add(1)?.checked_sub(first)?;
        let skip = usize::try_from(skip).ok().filter(|skip| *skip < recent.events.len())?;
        Some(recent.events.iter().skip(skip).take(limit).cloned().collect())
    }
}
