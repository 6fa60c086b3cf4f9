//! An event as the log keeps it.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::catalogue::Event;
use crate::decide::Timestamp;
use crate::ids::{StreamType, TenantId};

/// An event with its place in the log and all that is known about it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Gap-free place in the whole log, from 1.
    pub position: u64,
    /// The generation of the store in which it was appended.
    pub epoch: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// The kind of its stream.
    pub stream_type: StreamType,
    /// Its stream.
    pub stream_id: Uuid,
    /// Its place in the stream, from 1.
    pub version: u64,
    /// Its name within the stream type, such as `submitted`.
    pub event_type: Arc<str>,
    /// The version of the payload's shape.
    pub schema_version: u16,
    /// Its own id: UUIDv5 of the command's id and its index.
    pub event_id: Uuid,
    /// The command that led to it.
    pub command_id: Uuid,
    /// Who asked.
    pub actor: Arc<str>,
    /// What it belongs to, across streams.
    pub correlation_id: Option<Uuid>,
    /// The event that caused the command.
    pub causation_position: Option<u64>,
    /// W3C `traceparent` of the originating request.
    pub trace: Option<Arc<str>>,
    /// When it was decided, by the database's clock.
    pub occurred_at: Timestamp,
    /// When it was appended; never runs backwards along positions.
    pub recorded_at: Timestamp,
    /// The JSON bytes that were hashed.
    pub payload: bytes::Bytes,
    /// SHA-256 over everything known before the append.
    pub hash: [u8; 32],
    /// The decoded payload, made once and shared by every reader.
    pub decoded: OnceLock<Result<Event, DecodeError>>,
}

/// Why a stored event cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A name or schema version of a later release: carried and counted, never a crash.
    #[error("{event} v{version} is not known to this release")]
    Unknown {
        /// `<stream type>.<event type>`
        event: String,
        /// The schema version.
        version: u16,
    },
    /// A payload that does not have the shape of its type.
    #[error("{event} at position {position} cannot be read: {reason}")]
    Malformed {
        /// `<stream type>.<event type>`
        event: String,
        /// Where it stands.
        position: u64,
        /// What the decoder said.
        reason: String,
    },
}

impl DecodeError {
    /// The same error, with the place of the event in the log.
    #[must_use]
    pub fn at(self, position: u64) -> Self {
        match self {
            Self::Malformed { event, reason, .. } => Self::Malformed { event, position, reason },
            unknown @ Self::Unknown { .. } => unknown,
        }
    }
}

impl Recorded {
    /// The event in its newest shape.
    ///
    /// # Errors
    /// When the type or version is unknown, or the payload malformed.
    pub fn event(&self) -> Result<&Event, &DecodeError> {
        self.decoded
            .get_or_init(|| {
                Event::decode(
                    self.stream_type,
                    &self.event_type,
                    self.schema_version,
                    &self.payload,
                )
                .map_err(|error| error.at(self.position))
            })
            .as_ref()
    }

    /// CloudEvents type, such as `dev.taffrail.task.submitted.v1`.
    pub fn ce_type(&self) -> String {
        format!("dev.taffrail.{}.{}.v{}", self.stream_type, self.event_type, self.schema_version)
    }

    /// The hash that these fields should have.
    pub fn expected_hash(&self) -> [u8; 32] {
        Hashed {
            tenant: &self.tenant,
            stream_type: self.stream_type,
            stream_id: self.stream_id,
            version: self.version,
            event_type: &self.event_type,
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
}

/// The fields that an event's hash covers: all that are known before the append.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the same fields as Recorded")]
pub struct Hashed<'a> {
    pub tenant: &'a TenantId,
    pub stream_type: StreamType,
    pub stream_id: Uuid,
    pub version: u64,
    pub event_type: &'a str,
    pub schema_version: u16,
    pub event_id: Uuid,
    pub command_id: Uuid,
    pub actor: &'a str,
    pub correlation_id: Option<Uuid>,
    pub causation_position: Option<u64>,
    pub trace: Option<&'a str>,
    pub occurred_at: Timestamp,
    pub payload: &'a [u8],
}

impl Hashed<'_> {
    /// SHA-256 over a leaf mark and each field behind its length (four bytes, big-endian).
    ///
    /// Integers count as eight bytes, big-endian; times as microseconds since 1970; a
    /// field that is absent has the length `0xffff_ffff`, so that it differs from an
    /// empty one. The leaf mark 0x00 keeps leaves and inner nodes of the seal's tree
    /// apart (RFC 6962, section 2.1).
    pub fn hash(&self) -> [u8; 32] {
        // One run over one buffer instead of thirty short updates.
        let mut leaf = Vec::with_capacity(384 + self.payload.len());
        leaf.push(0u8);
        let mut field = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => {
                leaf.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                leaf.extend_from_slice(bytes);
            }
            None => leaf.extend_from_slice(&u32::MAX.to_be_bytes()),
        };
        field(Some(self.tenant.as_str().as_bytes()));
        field(Some(self.stream_type.as_str().as_bytes()));
        field(Some(self.stream_id.as_bytes()));
        field(Some(&self.version.to_be_bytes()));
        field(Some(self.event_type.as_bytes()));
        field(Some(&u64::from(self.schema_version).to_be_bytes()));
        field(Some(self.event_id.as_bytes()));
        field(Some(self.command_id.as_bytes()));
        field(Some(self.actor.as_bytes()));
        field(self.correlation_id.as_ref().map(|id| id.as_bytes().as_slice()));
        field(self.causation_position.map(u64::to_be_bytes).as_ref().map(|b| b.as_slice()));
        field(self.trace.map(str::as_bytes));
        field(Some(&self.occurred_at.timestamp_micros().to_be_bytes()));
        field(Some(self.payload));
        Sha256::digest(&leaf).into()
    }
}
