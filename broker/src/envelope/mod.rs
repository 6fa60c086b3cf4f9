//! CloudEvents 1.0 around events and commands (wire conventions 1 and 2).

mod command;
mod event;
pub mod percent;

use async_nats::HeaderMap;
use async_nats::header::HeaderName;
use domain::Recorded;
use uuid::Uuid;

pub use command::{BodyKind, command_body};
pub use event::{CloudEvent, cloud_event_json, sequence};

/// The one version of CloudEvents.
pub const SPEC_VERSION: &str = "1.0";
/// What every payload is.
pub const JSON: &str = "application/json";

/// Names of the headers that are ours.
pub mod header {
    /// The command's id.
    pub const COMMAND_ID: &str = "Taffrail-Command-Id";
    /// Who asks; a claim.
    pub const ACTOR: &str = "Taffrail-Actor";
    /// Where the outcome of a durable command goes.
    pub const REPLY_TO: &str = "Taffrail-Reply-To";
    /// The stream version that the sender saw.
    pub const EXPECTED_VERSION: &str = "Taffrail-Expected-Version";
    /// The token of the managers' lease, on commands of managers.
    pub const FENCE: &str = "Taffrail-Fence";
    /// SHA-256 of what was asked for, in hex, where the sender knows it better than we do.
    pub const FINGERPRINT: &str = "Taffrail-Fingerprint";
    /// What the command belongs to, across streams.
    pub const CORRELATION_ID: &str = "Taffrail-Correlation-Id";
    /// The position of the event that caused the command.
    pub const CAUSATION_POSITION: &str = "Taffrail-Causation-Position";
    /// The event's place in the log.
    pub const POSITION: &str = "Taffrail-Position";
    /// On events that are published once more: the replay's name.
    pub const REPLAY: &str = "Taffrail-Replay";
    /// The generation of the store.
    pub const EPOCH: &str = "Taffrail-Epoch";
    /// The event's place in its stream.
    pub const VERSION: &str = "Taffrail-Version";
    /// The event's hash, in hex.
    pub const HASH: &str = "Taffrail-Hash";
    /// Marks an empty message that only asks whether anybody listens.
    pub const PROBE: &str = "Taffrail-Probe";
    /// Why a message is on `dead`: the code of its problem.
    pub const REASON: &str = "Taffrail-Reason";
    /// The credential that a gateway's caller showed; as trustworthy as its sender.
    pub const CREDENTIAL: &str = "Taffrail-Credential";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// What the body is.
    pub const CONTENT_TYPE: &str = "Content-Type";
}

/// The headers of an event's message: CloudEvents' binary mode and our own four.
///
/// The epoch is the store's current one, also for events of an earlier generation: a stream
/// holds one epoch throughout, and its last message tells which.
pub fn event_headers(event: &Recorded, epoch: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: String| {
        headers.insert(HeaderName::from_static(name), value);
    };
    let encoded = |text: &str| percent::encode(text).into_owned();
    let uuid = |id: Uuid| id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned();
    let (epoch, version) = (epoch.to_string(), event.version.to_string());
    put("ce-specversion", SPEC_VERSION.into());
    put("ce-id", uuid(event.event_id));
    put("ce-source", event::source(event));
    put("ce-type", event.ce_type());
    put("ce-subject", uuid(event.stream_id));
    put("ce-time", event::time(event.occurred_at));
    put("ce-recordedtime", event::time(event.recorded_at));
    put("ce-sequence", sequence(event.position));
    put("ce-epoch", epoch.clone());
    put("ce-streamversion", version.clone());
    if let Some(id) = event.correlation_id {
        put("ce-correlationid", uuid(id));
    }
    if let Some(position) = event.causation_position {
        put("ce-causationid", sequence(position));
    }
    put("ce-commandid", uuid(event.command_id));
    put("ce-actor", encoded(&event.actor));
    if let Some(trace) = &event.trace {
        put("ce-traceparent", encoded(trace));
    }
    put("ce-datacontenttype", JSON.into());
    put(header::POSITION, event.position.to_string());
    put(header::EPOCH, epoch);
    put(header::VERSION, version);
    let hash = hex(&event.hash);
    put("ce-hash", hash.clone());
    put(header::HASH, hash);
    headers
}

/// A header's first value, whatever the case of its name: clients written elsewhere may
/// normalise names.
pub fn header_value<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    let headers = headers?;
    let found = headers.get(name).or_else(|| {
        headers.iter().find_map(|(key, values)| {
            let key: &str = key.as_ref();
            key.eq_ignore_ascii_case(name).then(|| values.first()).flatten()
        })
    });
    found.map(async_nats::HeaderValue::as_str)
}

/// Whether a text is a W3C `traceparent` that may be carried on: version 00, lower-case hex,
/// ids that are not all zero.
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return false };
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    *version == "00"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && some(trace)
        && some(parent)
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    let mut out = String::with_capacity(2 * bytes.len());
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]));
    out
}

/// 32 bytes out of 64 hex digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::OnceLock;

    use chrono::{TimeZone, Utc};
    use domain::{StreamType, TenantId};
    use uuid::Uuid;

    use super::*;

    pub(crate) fn recorded() -> Recorded {
        let at = Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).single().expect("a time")
            + chrono::Duration::microseconds(6);
        Recorded {
            position: 7,
            epoch: 1,
            tenant: TenantId::default_tenant(),
            stream_type: StreamType::Task,
            stream_id: Uuid::from_u128(1),
            version: 1,
            event_type: "submitted".into(),
            schema_version: 1,
            event_id: Uuid::from_u128(2),
            command_id: Uuid::from_u128(3),
            actor: "J\u{fc}rgen \"the actor\"".into(),
            correlation_id: None,
            causation_position: Some(3),
            trace: None,
            occurred_at: at,
            recorded_at: at,
            payload: bytes::Bytes::from_static(br#"{"z":1.10,"a":null}"#),
            hash: [0xab; 32],
            decoded: OnceLock::new(),
        }
    }

    #[test]
    fn an_events_headers_are_ascii_and_read_back() {
        let headers = event_headers(&recorded(), 2);
        let get = |name: &str| header_value(Some(&headers), name).map(str::to_owned);
        let actor = get("ce-actor").expect("an actor");
        assert_eq!(actor, "J%C3%BCrgen%20%22the%20actor%22");
        assert_eq!(percent::decode(&actor).as_deref(), Some("J\u{fc}rgen \"the actor\""));
        assert_eq!(get("taffrail-position").as_deref(), Some("7"), "names in any case");
        assert_eq!(get(header::EPOCH).as_deref(), Some("2"));
        assert_eq!(get(header::HASH).and_then(|hash| unhex(&hash)), Some([0xab; 32]));
        assert_eq!(get("ce-correlationid"), None);
        for (name, _) in headers.iter() {
            let name: &str = name.as_ref();
            if let Some(attribute) = name.strip_prefix("ce-") {
                assert!(attribute.len() <= 20, "{name}");
                assert!(attribute.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            }
        }
    }

    #[test]
    fn a_traceparent_is_checked() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        assert!(is_traceparent(&format!("00-{trace}-{parent}-01")));
        let zero = "0".repeat(32);
        for wrong in [
            format!("00-{zero}-{parent}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}"),
            String::new(),
        ] {
            assert!(!is_traceparent(&wrong), "{wrong}");
        }
    }

    #[test]
    fn hex_reads_back() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 8);
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("abc"), None);
    }
}
