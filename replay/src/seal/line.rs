//! The lines of an export: CloudEvents in JSON, one each, with every column of an event to
//! the byte, seals where they were made, a first line and a last one.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::Recorded;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::fast;
use super::leaf::Columns;
use super::record::{Seal, rfc3339, unhex};
use super::tree::Hash;

/// The version of the form described here.
pub const FORMAT: u32 = 1;
/// Longest line that is taken, in bytes: the largest payload in base64, and all else.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// CloudEvents types of the lines that are no events of the log.
const BEGUN: &str = "dev.taffrail.export.begun.v1";
const SEALED: &str = "dev.taffrail.log.sealed.v1";
const EDGE: &str = "dev.taffrail.export.edge.v1";
const BROKEN: &str = "dev.taffrail.export.broken.v1";
const ENDED: &str = "dev.taffrail.export.ended.v1";

/// What an export says of itself before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// The store's generation at the export.
    pub epoch: u64,
    /// The first position.
    pub from: u64,
    /// The last position; `from - 1` where there are no events.
    pub to: u64,
    /// The complete subtrees over the positions before `from`, the largest first, in hex.
    pub left: Vec<Hex>,
    /// All changes of keys so far, so that one trusted key leads to all that follow.
    pub rotations: Vec<Seal>,
}

/// What stands between the last event and the seal that covers it, where that seal was made
/// further on: the complete subtrees up to it, from left to right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// The size of the tree with them.
    pub size: u64,
    /// The nodes, in hex.
    pub right: Vec<Hex>,
}

/// The last line: without it the file was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How many events there are.
    pub events: u64,
}

/// Instead of the last line: the log could not be read any further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broken {
    /// The position that could not be read.
    pub position: u64,
    /// Why.
    pub reason: String,
}

/// A hash as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hex(pub String);

impl Hex {
    /// Of a hash.
    pub fn of(hash: &Hash) -> Self {
        Self(hex::encode(hash))
    }

    /// The hash; `None` where it is none.
    pub fn hash(&self) -> Option<Hash> {
        unhex(&self.0)
    }
}

/// A line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events; a box each takes longer")]
pub enum Line<'a> {
    /// The first.
    Begun(Box<Header>),
    /// An event of the log.
    Event(Columns<'a>),
    /// A seal.
    Sealed(Box<Seal>),
    /// Between the last event and its seal.
    Edge(Edge),
    /// The log could not be read any further.
    Broken(Broken),
    /// The last.
    Ended(End),
}

/// Writes an event, with its own epoch and its payload to the byte, as one line.
pub fn write_event(out: &mut Vec<u8>, event: &Recorded) {
    let text = |out: &mut Vec<u8>, text: &str| {
        // A text can always be written into memory as JSON.
        let _ = serde_json::to_writer(out, text);
    };
    let _ = write!(
        out,
        r#"{{"specversion":"1.0","id":"{}","source":"/tenants/{}/{}","type":"dev.taffrail.{}.{}.v{}","subject":"{}","time":"{}","recordedtime":"{}","sequence":"{:020}","epoch":{},"streamversion":{}"#,
        event.event_id,
        event.tenant,
        event.stream_type,
        event.stream_type,
        escaped(&event.event_type),
        event.schema_version,
        event.stream_id,
        rfc3339(event.occurred_at),
        rfc3339(event.recorded_at),
        event.position,
        event.epoch,
        event.version,
    );
    if let Some(id) = event.correlation_id {
        let _ = write!(out, r#","correlationid":"{id}""#);
    }
    if let Some(position) = event.causation_position {
        let _ = write!(out, r#","causationid":"{position:020}""#);
    }
    let _ = write!(out, r#","commandid":"{}","actor":"#, event.command_id);
    text(out, &event.actor);
    let _ = write!(out, r#","hash":"{}""#, hex::encode(event.hash));
    if let Some(trace) = &event.trace {
        out.extend_from_slice(br#","traceparent":"#);
        text(out, trace);
    }
    out.extend_from_slice(br#","datacontenttype":"application/json","#);
    // What is no JSON, or would not come back to the byte, was not written by us: it is shown
    // as it is, so that a check finds it.
    match serde_json::from_slice::<&RawValue>(&event.payload) {
        Ok(json) if json.get().len() == event.payload.len() && !event.payload.contains(&b'\n') => {
            out.extend_from_slice(br#""data":"#);
            out.extend_from_slice(&event.payload);
        }
        Ok(_) | Err(_) => {
            let _ = write!(out, r#""data_base64":"{}""#, STANDARD.encode(&event.payload));
        }
    }
    out.extend_from_slice(b"}\n");
}

/// A name inside a JSON text; ours need nothing, what somebody put there may.
fn escaped(name: &str) -> String {
    let quoted = serde_json::to_string(name).unwrap_or_default();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// Writes the first line.
pub fn write_header(out: &mut Vec<u8>, header: &Header) {
    write_own(out, BEGUN, &format!("export-{}-{}", header.from, header.to), header);
}

/// Writes a seal.
pub fn write_seal(out: &mut Vec<u8>, seal: &Seal) {
    write_own(out, SEALED, &format!("seal-{}", seal.number), seal);
}

/// Writes what lies between the last event and its seal.
pub fn write_edge(out: &mut Vec<u8>, edge: &Edge) {
    write_own(out, EDGE, "edge", edge);
}

/// Writes where the log could not be read.
pub fn write_broken(out: &mut Vec<u8>, broken: &Broken) {
    write_own(out, BROKEN, "broken", broken);
}

/// Writes the last line.
pub fn write_end(out: &mut Vec<u8>, end: &End) {
    write_own(out, ENDED, "end", end);
}

fn write_own(out: &mut Vec<u8>, kind: &str, id: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = writeln!(
        out,
        r#"{{"specversion":"1.0","id":"{id}","source":"/log","type":"{kind}","datacontenttype":"application/json","data":{data}}}"#
    );
}

/// Reads a line, without its line feed.
///
/// # Errors
/// Says what is wrong with it.
pub fn read<'a>(line: &'a [u8], known: &mut fast::Known) -> Result<Line<'a>, String> {
    // An event of ours, in the order in which it is written; all else goes the long way.
    if let Some(event) = fast::event(line, known) {
        return Ok(Line::Event(event));
    }
    slow(line)
}

/// A line, field by field.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// An event, field by field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventFields<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: &'a str,
    recordedtime: &'a str,
    sequence: &'a str,
    epoch: u64,
    streamversion: u64,
    #[serde(default)]
    correlationid: Option<&'a str>,
    #[serde(default)]
    causationid: Option<&'a str>,
    commandid: &'a str,
    #[serde(borrow)]
    actor: std::borrow::Cow<'a, str>,
    hash: &'a str,
    #[serde(default, borrow)]
    traceparent: Option<Text<'a>>,
    datacontenttype: &'a str,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<&'a str>,
}

/// A text that may have escapes; an `Option<Cow>` would always be copied.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

fn slow(line: &[u8]) -> Result<Line<'_>, String> {
    let broken = |error: serde_json::Error| {
        if error.is_eof() {
            return "the line is cut off".to_owned();
        }
        format!("no line of an export: {error}")
    };
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(broken)?;
    let data = fields.data.map_or("null", RawValue::get);
    let own = |error: serde_json::Error| format!("{}: {error}", fields.kind);
    match fields.kind {
        BEGUN => {
            #[derive(Deserialize)]
            struct Version {
                format: u64,
            }
            let Version { format } = serde_json::from_str(data).map_err(own)?;
            if format != u64::from(FORMAT) {
                return Err(format!("the export has format {format}, this release reads {FORMAT}"));
            }
            serde_json::from_str(data).map(|header| Line::Begun(Box::new(header))).map_err(own)
        }
        SEALED => serde_json::from_str(data).map(|seal| Line::Sealed(Box::new(seal))).map_err(own),
        EDGE => serde_json::from_str(data).map(Line::Edge).map_err(own),
        BROKEN => serde_json::from_str(data).map(Line::Broken).map_err(own),
        ENDED => serde_json::from_str(data).map(Line::Ended).map_err(own),
        _ => {
            let fields: EventFields<'_> = serde_json::from_slice(line).map_err(broken)?;
            columns(fields).map(Line::Event).map_err(|name| format!("`{name}` cannot be read"))
        }
    }
}

/// The columns of an event's line; the name of the field that cannot be one.
fn columns(fields: EventFields<'_>) -> Result<Columns<'_>, &'static str> {
    if fields.specversion != "1.0" {
        return Err("specversion");
    }
    if fields.datacontenttype != "application/json" {
        return Err("datacontenttype");
    }
    let source = fields.source.strip_prefix("/tenants/").and_then(|rest| rest.split_once('/'));
    let (tenant, stream_type) = source.ok_or("source")?;
    let kind = fields.kind.strip_prefix("dev.taffrail.").and_then(|rest| rest.split_once('.'));
    let (stream, rest) = kind.ok_or("type")?;
    let (event_type, version) = rest.rsplit_once(".v").ok_or("type")?;
    if stream != stream_type {
        return Err("type");
    }
    let time = |text: &str| {
        let read = chrono::DateTime::parse_from_rfc3339(text).ok()?.to_utc();
        (rfc3339(read) == text).then_some(read)
    };
    let sequence = |text: &str| {
        let plain = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| plain)
    };
    // One form alone: capitals would be another line for the same event.
    let uuid = |text: &str| {
        let read = uuid::Uuid::try_parse(text).ok()?;
        (read.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()) == text).then_some(read)
    };
    let correlation_id = match fields.correlationid {
        Some(text) => Some(uuid(text).ok_or("correlationid")?),
        None => None,
    };
    let payload = match (fields.data, fields.data_base64) {
        (Some(data), None) => data.get().as_bytes().into(),
        (None, Some(text)) => STANDARD.decode(text).map_err(|_| "data_base64")?.into(),
        (Some(_), Some(_)) | (None, None) => return Err("data"),
    };
    let causation_position = match fields.causationid {
        Some(text) => Some(sequence(text).ok_or("causationid")?),
        None => None,
    };
    Ok(Columns {
        position: sequence(fields.sequence).ok_or("sequence")?,
        epoch: fields.epoch,
        tenant: domain::TenantId::parse(tenant).ok_or("source")?,
        stream_type: stream_type.parse().map_err(|()| "source")?,
        stream_id: uuid(fields.subject).ok_or("subject")?,
        version: fields.streamversion,
        event_type,
        schema_version: fast::small(version).ok_or("type")?,
        event_id: uuid(fields.id).ok_or("id")?,
        command_id: uuid(fields.commandid).ok_or("commandid")?,
        actor: fields.actor,
        correlation_id,
        causation_position,
        trace: fields.traceparent.map(|text| text.0),
        occurred_at: time(fields.time).ok_or("time")?,
        recorded_at: time(fields.recordedtime).ok_or("recordedtime")?,
        payload,
        hash: unhex(fields.hash).ok_or("hash")?,
    })
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
