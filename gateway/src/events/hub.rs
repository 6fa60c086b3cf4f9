//! The live end of the log, read once for all subscribers of this process.
//!
//! Invariant: the frames kept are contiguous, so a subscriber that finds its position
//! among them misses nothing; one that doesn't reads the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::ws::Utf8Bytes;
use bytes::{Bytes, BytesMut};
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
/// Events handed over at once, and their payload bytes: what one subscriber that does not
/// read holds in memory. A single event may be larger.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 64 << 10;
/// Pages kept for subscribers that ask for the same one, which those at the head do.
const PAGES: usize = 16;
/// From so many subscribers on they are woken at most once per this time: a wake-up costs
/// each a write, whose price hardly depends on how many events it carries.
const CROWD: usize = 8;
const PACE: Duration = Duration::from_millis(2);
/// The safety net behind every wake-up (reliability D21).
const POLL: Duration = Duration::from_millis(250);

/// An event with its encodings, each made once however many subscribers read it.
pub(crate) struct Frame {
    pub(crate) event: Arc<Recorded>,
    /// The store's, when the frame was made: ids of a frame name the log they stand for.
    epoch: u64,
    json: OnceLock<Bytes>,
    sse: OnceLock<Bytes>,
    ws: OnceLock<Utf8Bytes>,
}

impl Frame {
    fn of(event: Arc<Recorded>, epoch: u64) -> Arc<Self> {
        Arc::new(Self {
            event,
            epoch,
            json: OnceLock::new(),
            sse: OnceLock::new(),
            ws: OnceLock::new(),
        })
    }

    /// The CloudEvent.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| broker::cloud_event_json(&self.event, self.epoch).into())
    }

    /// The event as a WebSocket's message.
    pub(crate) fn ws(&self) -> &Utf8Bytes {
        self.ws.get_or_init(|| {
            format!("{{\"event\":{}}}", String::from_utf8_lossy(self.json())).into()
        })
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

/// Events that are handed over together, in order, the same for everybody who wants them.
pub(crate) struct Page {
    pub(crate) frames: Vec<Arc<Frame>>,
    sse: OnceLock<Bytes>,
}

impl Page {
    fn of(frames: Vec<Arc<Frame>>) -> Arc<Self> {
        Arc::new(Self { frames, sse: OnceLock::new() })
    }

    /// All frames as SSE, put together once however many subscribers send them.
    pub(crate) fn sse(&self) -> Bytes {
        let together = || match self.frames.as_slice() {
            [one] => one.sse().clone(),
            many => {
                let length = many.iter().map(|frame| frame.sse().len()).sum();
                let mut bytes = BytesMut::with_capacity(length);
                many.iter().for_each(|frame| bytes.extend_from_slice(frame.sse()));
                bytes.freeze()
            }
        };
        self.sse.get_or_init(together).clone()
    }
}

/// What a page was made for: the events of a tenant behind a position.
struct Made {
    tenant: TenantId,
    after: u64,
    /// How far it goes; events of other tenants are passed over.
    to: u64,
    page: Arc<Page>,
}

/// The newest frames and the way to older ones.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    reader: Reader,
    recent: RwLock<Recent>,
    /// The last pages that were made of them, newest last.
    pages: RwLock<VecDeque<Made>>,
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
        let (recent, pages) = Default::default();
        Self(Arc::new(Inner { reader, recent, pages, head, epoch }))
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
        let mut polled = Instant::now();
        while !cancel.is_cancelled() {
            let head = *wake.borrow_and_update();
            let read = match position {
                // What nobody tells of is asked for once per poll.
                Some(after) if head <= after && polled.elapsed() < POLL => Ok(Vec::new()),
                Some(after) => {
                    polled = Instant::now();
                    reader.after(after, PAGE).await
                }
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
                    if self.0.head.receiver_count() >= CROWD {
                        tokio::time::sleep(PACE).await;
                    }
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
        let mut bytes = 0;
        let frames = recent.frames.iter().skip(skip).take(PAGE);
        let frames = frames.take_while(|frame| fits(&mut bytes, frame));
        (skip < recent.frames.len()).then(|| frames.cloned().collect())
    }

    /// The page that others at the same place got.
    fn made(&self, tenant: &TenantId, after: u64) -> Option<(u64, Arc<Page>)> {
        let pages = self.0.pages.read();
        let mut newest_first = pages.iter().rev();
        let made = newest_first.find(|made| made.after == after && made.tenant == *tenant)?;
        Some((made.to, made.page.clone()))
    }

    /// Keeps a page for others; one that was made meanwhile stands.
    fn keep(&self, made: Made) -> Arc<Page> {
        let mut pages = self.0.pages.write();
        let known = pages.iter().find(|m| m.after == made.after && m.tenant == made.tenant);
        if let Some(known) = known.filter(|known| known.to == made.to) {
            return known.page.clone();
        }
        let page = made.page.clone();
        pages.push_back(made);
        if pages.len() > PAGES {
            pages.pop_front();
        }
        page
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
        let (frames, mut bytes) = (events.into_iter().map(|event| Frame::of(event, epoch)), 0);
        Ok(frames.take_while(|frame| fits(&mut bytes, frame)).collect())
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

/// Whether one more frame fits into a page of so many bytes; the first always does.
fn fits(bytes: &mut usize, frame: &Frame) -> bool {
    let first = *bytes == 0;
    *bytes += frame.event.payload.len().max(1);
    first || *bytes <= PAGE_BYTES
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
    pub(crate) async fn next(&mut self) -> Result<Arc<Page>, StoreError> {
        // Whoever wants everything of the tenant shares the pages.
        let shared = self.filter.is_all();
        loop {
            if shared && let Some((to, page)) = self.hub.made(&self.tenant, self.position) {
                self.position = to;
                return Ok(page);
            }
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
            let after = std::mem::replace(&mut self.position, last);
            let mine: Vec<_> = frames
                .into_iter()
                .filter(|frame| frame.event.tenant == self.tenant)
                .filter(|frame| self.filter.takes(&frame.event))
                .collect();
            if mine.is_empty() {
                continue;
            }
            let page = Page::of(mine);
            if !shared {
                return Ok(page);
            }
            let tenant = self.tenant.clone();
            return Ok(self.hub.keep(Made { tenant, after, to: last, page }));
        }
    }
}
