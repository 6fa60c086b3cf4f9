//! The body of a command: plain JSON, or the `data` of a structured CloudEvent.

use std::borrow::Cow;

use async_nats::HeaderMap;
use domain::{Code, FieldError, Problem, json};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{header, header_value};

/// What a message says its body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// The command's fields (CloudEvents' binary mode among it).
    Plain,
    /// A CloudEvent whose `data` has the command's fields.
    Structured,
}

/// The members of a structured CloudEvent that matter; extensions are ignored, as the
/// specification asks of receivers.
#[derive(Deserialize)]
struct Structured<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

/// The command's fields as JSON text, wherever they stand in the message.
///
/// # Errors
/// `unsupported-media-type` for anything but JSON, `invalid-body` for a malformed CloudEvent.
pub fn command_body<'a>(
    headers: Option<&HeaderMap>,
    payload: &'a [u8],
) -> Result<&'a [u8], Problem> {
    let content_type = header_value(headers, header::CONTENT_TYPE)
        .or_else(|| header_value(headers, "ce-datacontenttype"));
    match body_kind(content_type)? {
        BodyKind::Plain => Ok(payload),
        BodyKind::Structured => data_of(payload),
    }
}

fn body_kind(content_type: Option<&str>) -> Result<BodyKind, Problem> {
    let Some(full) = content_type else { return Ok(BodyKind::Plain) };
    let essence = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | super::JSON => Ok(BodyKind::Plain),
        "application/cloudevents" | "application/cloudevents+json" => Ok(BodyKind::Structured),
        other if !other.starts_with("application/cloudevents") && other.ends_with("+json") => {
            Ok(BodyKind::Plain)
        }
        other => {
            let shown: String = other.chars().take(80).collect();
            Err(Problem::new(
                Code::UnsupportedMediaType,
                format!(
                    "`{shown}` is not supported; application/json or \
                         application/cloudevents+json is"
                ),
            ))
        }
    }
}

fn data_of(payload: &[u8]) -> Result<&[u8], Problem> {
    json::check(payload).map_err(|fault| Problem::invalid(vec![fault]))?;
    let event: Structured<'_> = serde_json::from_slice(payload).map_err(|error| {
        Problem::invalid(vec![FieldError::new("", "no_cloud_event", error.to_string())])
    })?;
    let mut faults = Vec::new();
    if event.specversion.as_deref() != Some(super::SPEC_VERSION) {
        faults.push(FieldError::new("/specversion", "unknown_value", "`specversion` must be 1.0"));
    }
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.kind)] {
        if value.as_deref().is_none_or(str::is_empty) {
            faults.push(FieldError::new(
                format!("/{name}"),
                "required",
                format!("a CloudEvent needs `{name}`"),
            ));
        }
    }
    if event.data_base64.is_some() {
        faults.push(FieldError::new("/data_base64", "unknown_value", "`data` as JSON is needed"));
    }
    if !matches!(body_kind(event.datacontenttype.as_deref()), Ok(BodyKind::Plain)) {
        faults.push(FieldError::new("/datacontenttype", "unknown_value", "JSON is needed"));
    }
    if faults.is_empty() {
        Ok(event.data.map_or(b"{}".as_slice(), |data| data.get().as_bytes()))
    } else {
        Err(Problem::invalid(faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", content_type);
        headers
    }

    #[test]
    fn the_data_of_a_structured_cloud_event_is_the_body() {
        let event = br#"{"specversion":"1.0","id":"1","source":"/x","type":"y","ext":"z",
            "data":{"title":"t"}}"#;
        for content_type in
            ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"]
        {
            let body = command_body(Some(&headers(content_type)), event).expect("a body");
            assert_eq!(body, br#"{"title":"t"}"#);
        }
        assert_eq!(command_body(None, b"{}").expect("a body"), b"{}");
        assert_eq!(command_body(Some(&headers("application/json")), b"").expect("one"), b"");
    }

    #[test]
    fn a_malformed_cloud_event_is_told_what_is_missing() {
        let structured = headers("application/cloudevents+json");
        let event = br#"{"specversion":"0.3","id":"1","type":"","data_base64":"e30="}"#;
        let problem = command_body(Some(&structured), event).expect_err("refused");
        let pointers: Vec<&str> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/specversion", "/source", "/type", "/data_base64"]);
    }

    #[test]
    fn other_media_types_are_refused() {
        for other in ["text/plain", "application/cloudevents-batch+json", "application/gzip"] {
            let problem = command_body(Some(&headers(other)), b"{}").expect_err("refused");
            assert_eq!(problem.code(), Some(Code::UnsupportedMediaType), "{other}");
        }
    }
}
