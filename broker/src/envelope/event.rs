//! An event as one CloudEvent in JSON: HTTP, SSE, WebSocket and exports.

use chrono::SecondsFormat;
use domain::{Recorded, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// One event in CloudEvents' JSON format; `data` is the stored payload, not decoded.
///
/// Decided here, where the contract leaves room: `epoch` and `streamversion` are numbers.
/// `causationid` is the `sequence` of the causing event (20 digits): the log knows the cause
/// by its position, which is unique, so no look-up is needed to write an event and a plain
/// comparison with `sequence` finds the cause. `commandid` is added: it is one of the fields
/// under `hash`, so an exported event can be verified by itself.
#[derive(Debug, Serialize)]
pub struct CloudEvent<'a> {
    specversion: &'static str,
    id: Uuid,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: Uuid,
    time: String,
    recordedtime: String,
    sequence: String,
    epoch: u64,
    streamversion: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<String>,
    commandid: Uuid,
    actor: &'a str,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

impl<'a> CloudEvent<'a> {
    /// The event as the outside sees it, under the store's current epoch.
    pub fn of(event: &'a Recorded, epoch: u64) -> Self {
        Self {
            specversion: super::SPEC_VERSION,
            id: event.event_id,
            source: source(event),
            kind: event.ce_type(),
            subject: event.stream_id,
            time: time(event.occurred_at),
            recordedtime: time(event.recorded_at),
            sequence: sequence(event.position),
            epoch,
            streamversion: event.version,
            correlationid: event.correlation_id,
            causationid: event.causation_position.map(sequence),
            commandid: event.command_id,
            actor: &event.actor,
            hash: super::hex(&event.hash),
            traceparent: event.trace.as_deref(),
            datacontenttype: super::JSON,
            // What we stored is JSON; should a row be damaged, the rest of it is still shown.
            data: serde_json::from_slice(&event.payload).unwrap_or(RawValue::NULL),
        }
    }
}

/// [`CloudEvent`] as the bytes of a JSON object, on one line.
pub fn cloud_event_json(event: &Recorded, epoch: u64) -> Vec<u8> {
    // Strings, numbers and a raw value: there is nothing that could fail to serialise.
    serde_json::to_vec(&CloudEvent::of(event, epoch)).unwrap_or_default()
}

/// CloudEvents `source`: `/tenants/<tenant>/<type>`.
pub(super) fn source(event: &Recorded) -> String {
    format!("/tenants/{}/{}", event.tenant, event.stream_type)
}

/// CloudEvents `sequence`: sorts by plain string comparison.
pub fn sequence(position: u64) -> String {
    format!("{position:020}")
}

/// RFC 3339 in UTC, to the microsecond that the database keeps.
pub(super) fn time(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::recorded;

    #[test]
    fn an_event_is_one_cloud_event_with_its_payload_untouched() {
        let event = recorded();
        let text = String::from_utf8(cloud_event_json(&event, 2)).expect("UTF-8");
        assert!(text.ends_with(r#""data":{"z":1.10,"a":null}}"#), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["sequence"], "00000000000000000007");
        assert_eq!(json["causationid"], "00000000000000000003");
        assert_eq!(json["type"], "dev.taffrail.task.submitted.v1");
        assert_eq!(json["source"], "/tenants/default/task");
        assert_eq!(json["subject"], event.stream_id.to_string());
        assert_eq!(json["time"], "2026-01-02T03:04:05.000006Z");
        assert_eq!((&json["epoch"], &json["streamversion"]), (&2.into(), &1.into()));
        assert_eq!(json["hash"], "ab".repeat(32));
        assert!(json.get("correlationid").is_none(), "absent, not null");
    }
}
