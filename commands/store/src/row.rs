//! Rows of `events` as values of the domain.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::{Recorded, TenantId};
use tokio_postgres::Row;

use crate::StoreError;

/// The columns that [`recorded_from_row`] reads, in its order.
pub const RECORDED_COLUMNS: &str = "e.position, e.epoch, e.tenant, e.stream_type, e.stream_id, \
     e.version, e.event_type, e.schema_version, e.event_id, e.command_id, e.actor, \
     e.correlation_id, e.causation_position, e.trace, e.occurred_at, e.recorded_at, e.payload, \
     e.hash";

/// Reads a row that was selected with [`RECORDED_COLUMNS`] from `events e`.
///
/// # Errors
/// When a column has a value that this release never writes.
pub fn recorded_from_row(row: &Row) -> Result<Arc<Recorded>, StoreError> {
    recorded_from_columns(row, 0)
}

/// The same where other columns stand before.
///
/// # Errors
/// As [`recorded_from_row`].
pub fn recorded_from_columns(row: &Row, first: usize) -> Result<Arc<Recorded>, StoreError> {
    let position: i64 = row.try_get(first)?;
    let bad = |reason: &str| StoreError::Row { position, reason: reason.into() };
    let number = |value: i64| u64::try_from(value).map_err(|_| bad("negative number"));
    let hash: &[u8] = row.try_get(first + 17)?;
    Ok(Arc::new(Recorded {
        position: number(position)?,
        epoch: number(row.try_get(first + 1)?)?,
        tenant: TenantId::parse(row.try_get(first + 2)?).ok_or_else(|| bad("tenant"))?,
        stream_type: row.try_get::<_, &str>(first + 3)?.parse().map_err(|()| bad("stream type"))?,
        stream_id: row.try_get(first + 4)?,
        version: number(row.try_get(first + 5)?)?,
        event_type: row.try_get::<_, &str>(first + 6)?.into(),
        schema_version: u16::try_from(row.try_get::<_, i16>(first + 7)?)
            .map_err(|_| bad("version"))?,
        event_id: row.try_get(first + 8)?,
        command_id: row.try_get(first + 9)?,
        actor: row.try_get::<_, &str>(first + 10)?.into(),
        correlation_id: row.try_get(first + 11)?,
        causation_position: row.try_get::<_, Option<i64>>(first + 12)?.map(number).transpose()?,
        trace: row.try_get::<_, Option<&str>>(first + 13)?.map(Into::into),
        occurred_at: row.try_get(first + 14)?,
        recorded_at: row.try_get(first + 15)?,
        payload: Bytes::copy_from_slice(row.try_get(first + 16)?),
        hash: hash.try_into().map_err(|_| bad("hash"))?,
        decoded: OnceLock::new(),
    }))
}
