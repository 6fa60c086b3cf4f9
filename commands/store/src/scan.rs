//! Reading a long stretch of the log: rows stream in and are decoded while the caller
//! works on those before them.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use chrono::DateTime;
use deadpool_postgres::Pool;
use domain::{Recorded, TenantId, Timestamp};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::StoreError;
use crate::row::RECORDED_COLUMNS;

/// Events of one COPY: it holds a snapshot, which must not be an old one.
const STRETCH: u64 = 50_000;
/// Events of a page.
const PAGE: usize = 2_048;
/// Payload bytes at which a page ends.
const PAGE_BYTES: usize = 4 << 20;
/// Pages that may wait for the caller.
const AHEAD: usize = 2;
/// Different actors that are kept to be shared between events.
const ACTORS: usize = 4_096;
/// What a binary COPY begins with: its signature, flags and the length of nothing more
/// (PostgreSQL manual, COPY, "Binary Format").
const HEADER: usize = 19;
/// From 1970 to 2000, PostgreSQL's epoch, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// A stretch of the log on its way, in order and without a hole.
#[derive(Debug)]
pub struct Scan {
    pages: mpsc::Receiver<Page>,
    _reading: AbortOnDropHandle<()>,
}

type Page = Result<Vec<Arc<Recorded>>, StoreError>;

impl Scan {
    /// Begins to read the events behind `after` up to `to`.
    pub(crate) fn begin(pool: Pool, after: u64, to: u64) -> Self {
        let (sender, pages) = mpsc::channel(AHEAD);
        let reading = tokio::spawn(async move {
            if let Err(error) = read(&pool, after, to, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { pages, _reading: AbortOnDropHandle::new(reading) }
    }

    /// The next events, decoded; empty at the end.
    ///
    /// # Errors
    /// When the log cannot be reached or has a hole; what came before stands.
    pub async fn next(&mut self) -> Page {
        self.pages.recv().await.unwrap_or_else(|| Ok(Vec::new()))
    }
}

async fn read(
    pool: &Pool,
    after: u64,
    to: u64,
    pages: &mpsc::Sender<Page>,
) -> Result<(), StoreError> {
    let client = pool.get().await?;
    let mut names = Names::default();
    let (mut position, mut bytes) = (after, 0);
    let mut page = Vec::with_capacity(PAGE);
    while position < to {
        let (from, end) = (position, to.min(position + STRETCH));
        // COPY takes no parameters; these are numbers.
        let sql = format!(
            "COPY (SELECT {RECORDED_COLUMNS} FROM events e \
             WHERE e.position > {from} AND e.position <= {end} ORDER BY e.position) \
             TO STDOUT (FORMAT binary)"
        );
        let mut rows = std::pin::pin!(client.copy_out(&sql).await?);
        let mut header = HEADER;
        while let Some(row) = rows.next().await {
            let mut row = row?;
            row.advance(std::mem::take(&mut header).min(row.len()));
            let expected = position + 1;
            let event = match recorded(row, &mut names) {
                Ok(None) => continue,
                Ok(Some(event)) if event.position == expected => event,
                Ok(Some(event)) => {
                    let found = event.position;
                    tracing::error!(expected, found, "the log has a hole");
                    // What came before stands.
                    let _ = pages.send(Ok(page)).await;
                    return Err(StoreError::Hole { expected, found });
                }
                Err(error) => {
                    let _ = pages.send(Ok(page)).await;
                    return Err(error);
                }
            };
            position = expected;
            bytes += event.payload.len();
            // Here, so that the caller finds it done.
            let _ = event.event();
            page.push(Arc::new(event));
            if page.len() == PAGE || bytes >= PAGE_BYTES {
                bytes = 0;
                let full = std::mem::replace(&mut page, Vec::with_capacity(PAGE));
                if pages.send(Ok(full)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if position == from {
            // The end of the log, which the caller believed further on.
            break;
        }
    }
    if !page.is_empty() {
        let _ = pages.send(Ok(page)).await;
    }
    Ok(())
}

/// Texts that many events share, each kept once.
#[derive(Default)]
struct Names {
    tenant: Option<TenantId>,
    types: HashSet<Arc<str>>,
    actors: HashSet<Arc<str>>,
}

impl Names {
    fn tenant(&mut self, text: &str) -> Option<TenantId> {
        if self.tenant.as_ref().is_none_or(|known| known.as_str() != text) {
            self.tenant = TenantId::parse(text);
        }
        self.tenant.clone()
    }
}

fn shared(known: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = known.get(text) {
        return known.clone();
    }
    if known.len() >= ACTORS {
        known.clear();
    }
    let new: Arc<str> = text.into();
    known.insert(new.clone());
    new
}

/// The fields of one row, in the order of [`RECORDED_COLUMNS`].
struct Fields {
    row: Bytes,
    position: i64,
}

impl Fields {
    fn bad(&self, reason: &str) -> StoreError {
        StoreError::Row { position: self.position, reason: reason.into() }
    }

    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.row.len() < 4 {
            return Err(self.bad("a row ends too early"));
        }
        let Ok(length) = usize::try_from(self.row.get_i32()) else { return Ok(None) };
        if self.row.len() < length {
            return Err(self.bad("a field ends too early"));
        }
        Ok(Some(self.row.split_to(length)))
    }

    fn some(&mut self) -> Result<Bytes, StoreError> {
        self.next()?.ok_or_else(|| self.bad("a null where none may be"))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let field = self.some()?;
        field.as_ref().try_into().map_err(|_| self.bad("a field of another length"))
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.int()?).map_err(|_| self.bad("negative number"))
    }

    fn uuid(&mut self) -> Result<Uuid, StoreError> {
        Ok(Uuid::from_bytes(self.fixed()?))
    }

    fn time(&mut self) -> Result<Timestamp, StoreError> {
        let micros = self.int()?.checked_add(EPOCH);
        micros.and_then(DateTime::from_timestamp_micros).ok_or_else(|| self.bad("time"))
    }
}

fn text(field: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(field)
        .map_err(|_| StoreError::Row { position: 0, reason: "a text that is not UTF-8".into() })
}

/// Reads a row; none where the message carries none (the trailer).
fn recorded(mut row: Bytes, names: &mut Names) -> Result<Option<Recorded>, StoreError> {
    if row.len() < 2 || row.get_i16() < 0 {
        return Ok(None);
    }
    let mut f = Fields { row, position: 0 };
    let position = f.number()?;
    f.position = position as i64;
    let epoch = f.number()?;
    let tenant = names.tenant(text(&f.some()?)?).ok_or_else(|| f.bad("tenant"))?;
    let stream_type = text(&f.some()?)?.parse().map_err(|()| f.bad("stream type"))?;
    let stream_id = f.uuid()?;
    let version = f.number()?;
    let event_type = shared(&mut names.types, text(&f.some()?)?);
    let schema_version = i16::from_be_bytes(f.fixed()?);
    let schema_version = u16::try_from(schema_version).map_err(|_| f.bad("version"))?;
    let event_id = f.uuid()?;
    let command_id = f.uuid()?;
    let actor = shared(&mut names.actors, text(&f.some()?)?);
    let wide = |field: Bytes| <[u8; 16]>::try_from(field.as_ref()).ok().map(Uuid::from_bytes);
    let correlation_id = f.next()?.and_then(wide);
    let causation_position = match f.next()? {
        Some(field) => {
            let value = <[u8; 8]>::try_from(field.as_ref()).map(u64::from_be_bytes);
            Some(value.map_err(|_| f.bad("causation"))?)
        }
        None => None,
    };
    let trace = f.next()?.map(|field| text(&field).map(Arc::from)).transpose()?;
    let (occurred_at, recorded_at) = (f.time()?, f.time()?);
    // A copy of its own: a slice would keep the whole network buffer alive with the event.
    let payload = Bytes::copy_from_slice(&f.some()?);
    let hash = f.fixed()?;
    Ok(Some(Recorded {
        position,
        epoch,
        tenant,
        stream_type,
        stream_id,
        version,
        event_type,
        schema_version,
        event_id,
        command_id,
        actor,
        correlation_id,
        causation_position,
        trace,
        occurred_at,
        recorded_at,
        payload,
        hash,
        decoded: OnceLock::new(),
    }))
}
