//! The live end of the log, read once for all subscribers of this process.
//!
//! Invariant: the frames kept are contiguous, so a subscriber that finds its position
//! among them misses nothing; one that doesn't reads the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use domain::{Recorded, TenantId};
use parking_lot::RwLock;
use store::{Reader, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::filter::StreamFilter;

/// Frames kept for subscribers that are nearly up to date.
const KEPT: usize = 8_192;
/// Payload bytes kept.
const KEPT_BYTES: usize = 16 << 20;
/// Events read at once; bounds what one subscriber holds in memory.
const PAGE: usize = 256;
/// The safety net behind every wake-up (reliability D21).
const POLL: Duration = Duration::from_millis(250);

/// An event with its encodings, each made once however many subscribers read it.
pub(crate) struct Frame {
    pub(crate) event: Arc<Recorded>,
    /// The store's, when the frame was made: ids of a frame name the log they stand for.
    epoch: u64,
    json: OnceLock<Bytes>,
    sse: OnceLock<Bytes>,
}

impl Frame {
    fn of(event: Arc<Recorded>, epoch: u64) -> Arc<Self> {
        Arc::new(Self { event, epoch, json: OnceLock::new(), sse: OnceLock::new() })
    }

    /// The CloudEvent.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| broker::cloud_event_json(&self.event, self.epoch).into())
    }

    /// The event as SSE frame: the CloudEvent is JSON without line ends, so one line.
    pub(crate) fn sse(&self) -> &Bytes {
        self.sse.get_or_init(|| {
            let mut text = format!(
                "id: {}\nevent: {}\ndata: ",
                super::cursor::write(self.event.position, self.epoch),
                self.event.ce_type()
            )
            .into_bytes();
            text.extend_from_slice(self.json());
            text.extend_from_slice(b"\n\n");
            text.into()
        })
    }
}

/// The newest frames and the way to older ones.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    reader: Reader,
    recent: RwLock<Recent>,
    /// The position of the newest frame, or where the hub began.
    head: watch::Sender<u64>,
    epoch: AtomicU64,
}

#[derive(Default)]
struct Recent {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Hub {
    pub(crate) fn new(reader: Reader) -> Self {
        let head = watch::Sender::new(reader.feed.head());
        let epoch = AtomicU64::new(1);
        Self(Arc::new(Inner { reader, recent: RwLock::default(), head, epoch }))
    }

    /// The log itself.
    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    /// The store's epoch, as far as it is known here.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Relaxed)
    }

    /// Follows the log until the process leaves.
    pub(crate) async fn follow(self, cancel: CancellationToken) {
        let reader = self.0.reader.clone();
        let mut wake = reader.feed.watch();
        let mut position = None;
        while !cancel.is_cancelled() {
            wake.mark_unchanged();
            let read = match position {
                Some(after) => reader.after(after, PAGE).await,
                None => reader.log.head().await.map(|head| {
                    position = Some(head.position);
                    self.0.epoch.store(head.epoch, Ordering::Relaxed);
                    self.0.head.send_replace(head.position);
                    Vec::new()
                }),
            };
            match read {
                Ok(events) if events.is_empty() => {
                    // Waiting is all that is cut short here; no query is.
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        _ = tokio::time::timeout(POLL, wake.changed()) => {}
                    }
                }
                Ok(events) => {
                    position = events.last().map(|event| event.position);
                    self.push(events);
                }
                Err(error) => {
                    tracing::warn!(
                        cause = %crate::error::chain(&error),
                        "live events wait: the log could not be read"
                    );
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    fn push(&self, events: Vec<Arc<Recorded>>) {
        let Some(last) = events.last().map(|event| event.position) else { return };
        self.0.reader.feed.announce(last);
        {
            let mut recent = self.0.recent.write();
            for event in events {
                recent.bytes += event.payload.len();
                let epoch = self.0.epoch.fetch_max(event.epoch, Ordering::Relaxed);
                let epoch = epoch.max(event.epoch);
                recent.frames.push_back(Frame::of(event, epoch));
            }
            while recent.frames.len() > KEPT || recent.bytes > KEPT_BYTES {
                match recent.frames.pop_front() {
                    Some(frame) => recent.bytes -= frame.event.payload.len(),
                    None => break,
                }
            }
        }
        self.0.head.send_replace(last);
    }

    fn recent(&self, after: u64) -> Option<Vec<Arc<Frame>>> {
        let recent = self.0.recent.read();
        let first = recent.frames.front()?.event.position;
        let skip = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        (skip < recent.frames.len())
            .then(|| recent.frames.iter().skip(skip).take(PAGE).cloned().collect())
    }

    /// Frames from the log; the query outlives a subscriber that hangs up (D43).
    async fn older(&self, after: u64) -> Result<Vec<Arc<Frame>>, StoreError> {
        let reader = self.0.reader.clone();
        let read = tokio::spawn(async move { reader.after(after, PAGE).await }).await;
        let events = read.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the log for a subscriber broke off");
            Ok(Vec::new())
        })?;
        let epoch = self.0.epoch.load(Ordering::Relaxed);
        Ok(events.into_iter().map(|event| Frame::of(event, epoch)).collect())
    }

    /// Follows the log for one subscriber from behind a position.
    pub(crate) fn subscribe(
        &self,
        tenant: TenantId,
        filter: StreamFilter,
        after: u64,
    ) -> Subscription {
        let head = self.0.head.subscribe();
        Subscription { hub: self.clone(), head, tenant, filter, position: after }
    }
}

/// One subscriber's place in the log.
pub(crate) struct Subscription {
    hub: Hub,
    head: watch::Receiver<u64>,
    tenant: TenantId,
    filter: StreamFilter,
    /// Everything up to here was handed over or is not for this subscriber.
    position: u64,
}

impl Subscription {
    /// The next events for this subscriber, at least one, in order.
    ///
    /// Dropping the future loses nothing: the position moves with what is returned.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Frame>>, StoreError> {
        loop {
            let head = *self.head.borrow_and_update();
            let frames = match self.hub.recent(self.position) {
                Some(frames) => frames,
                None if self.position < head => self.hub.older(self.position).await?,
                None => {
                    // The hub lives as long as the process; its end ends the stream too.
                    if self.head.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    continue;
                }
            };
            let Some(last) = frames.last().map(|frame| frame.event.position) else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            self.position = last;
            let mine: Vec<_> = frames
                .into_iter()
                .filter(|frame| frame.event.tenant == self.tenant)
                .filter(|frame| self.filter.takes(&frame.event))
                .collect();
            if !mine.is_empty() {
                return Ok(mine);
            }
        }
    }
}
