//! An event as the tree and an export see it: every column, to the byte.

use std::borrow::Cow;

use chrono::DateTime;
use domain::{Hashed, Recorded, StreamType, TenantId, Timestamp};
use uuid::Uuid;

use super::tree::{Hash, leaf_hash};

/// The leaf of an event: its hash and what the append gave it, each number as eight bytes,
/// big-endian; the time in microseconds since 1970.
///
/// `hash` covers every other column ([`Hashed`]), so leaf and recomputed hash together
/// cover them all. The mark of a leaf, 0x00, is added by [`leaf_hash`].
pub fn leaf(hash: &Hash, epoch: u64, position: u64, recorded_at: Timestamp) -> Hash {
    let mut data = [0; 56];
    data[..32].copy_from_slice(hash);
    data[32..40].copy_from_slice(&epoch.to_be_bytes());
    data[40..48].copy_from_slice(&position.to_be_bytes());
    data[48..].copy_from_slice(&recorded_at.timestamp_micros().to_be_bytes());
    leaf_hash(&data)
}

/// The leaf of an event as it is recorded; its hash is taken as it stands there.
pub fn leaf_of(event: &Recorded) -> Hash {
    leaf(&event.hash, event.epoch, event.position, event.recorded_at)
}

/// An event with all its columns, borrowed from a row or from a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the same fields as Recorded")]
pub struct Columns<'a> {
    pub position: u64,
    pub epoch: u64,
    pub tenant: TenantId,
    pub stream_type: StreamType,
    pub stream_id: Uuid,
    pub version: u64,
    pub event_type: &'a str,
    pub schema_version: u16,
    pub event_id: Uuid,
    pub command_id: Uuid,
    pub actor: Cow<'a, str>,
    pub correlation_id: Option<Uuid>,
    pub causation_position: Option<u64>,
    pub trace: Option<Cow<'a, str>>,
    pub occurred_at: Timestamp,
    pub recorded_at: Timestamp,
    pub payload: Cow<'a, [u8]>,
    pub hash: Hash,
}

impl<'a> Columns<'a> {
    /// The columns of an event.
    pub fn of(event: &'a Recorded) -> Self {
        Self {
            position: event.position,
            epoch: event.epoch,
            tenant: event.tenant.clone(),
            stream_type: event.stream_type,
            stream_id: event.stream_id,
            version: event.version,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            event_id: event.event_id,
            command_id: event.command_id,
            actor: Cow::Borrowed(&event.actor),
            correlation_id: event.correlation_id,
            causation_position: event.causation_position,
            trace: event.trace.as_deref().map(Cow::Borrowed),
            occurred_at: event.occurred_at,
            recorded_at: event.recorded_at,
            payload: Cow::Borrowed(&event.payload),
            hash: event.hash,
        }
    }

    /// The hash that these columns should have.
    pub fn expected_hash(&self) -> Hash {
        Hashed {
            tenant: &self.tenant,
            stream_type: self.stream_type,
            stream_id: self.stream_id,
            version: self.version,
            event_type: self.event_type,
            schema_version: self.schema_version,
            event_id: self.event_id,
            command_id: self.command_id,
            actor: &self.actor,
            correlation_id: self.correlation_id,
            causation_position: self.causation_position,
            trace: self.trace.as_deref(),
            occurred_at: self.occurred_at,
            payload: &self.payload,
        }
        .hash()
    }

    /// Its leaf.
    pub fn leaf(&self) -> Hash {
        leaf(&self.hash, self.epoch, self.position, self.recorded_at)
    }
}

/// A time of so many microseconds since 1970.
pub(crate) fn micros(at: i64) -> Option<Timestamp> {
    DateTime::from_timestamp_micros(at)
}
