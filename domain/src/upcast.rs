//! Old event versions, made new on reading.
//!
//! One step per raised version: a pure change of the JSON from exactly one
//! version to the next, listed ascending. Code meets only the newest shape.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::json::Json;

/// A payload's fields. Values stay text until a step reads them, so numbers that no
/// machine type holds survive the change.
pub type Fields = BTreeMap<String, Json>;

/// One step: `(event type, from version)` and the change to `from + 1`.
pub struct Upcast {
    /// Such as `task.submitted`.
    pub event: &'static str,
    /// The version it reads; it writes the next.
    pub from: u16,
    /// The change itself.
    pub step: fn(&mut Fields),
}

/// Brings a payload from its version to the current one.
///
/// # Errors
/// When the payload is no object, or a step from some version is missing.
pub fn upcast(
    steps: &[Upcast],
    event: &str,
    from: u16,
    to: u16,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let mut fields: Fields = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    for version in from..to {
        let found = steps.iter().find(|s| s.event == event && s.from == version);
        let step = found.ok_or_else(|| format!("no step for {event} from version {version}"))?;
        (step.step)(&mut fields);
    }
    serde_json::to_vec(&fields).map_err(|e| e.to_string())
}

/// Reads a payload of the current version, which a later release may have written
/// with more optional fields (reliability D45, D47): those are passed over.
///
/// Bodies that commands and events share refuse unknown fields, as commands must.
///
/// # Errors
/// When the payload does not have the shape.
pub fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    let mut payload = Cow::Borrowed(payload);
    loop {
        match serde_json::from_slice(&payload) {
            Ok(body) => return Ok(body),
            Err(error) => {
                let less = without_unknown::<T>(&payload);
                payload = less.ok_or_else(|| error.to_string())?.into();
            }
        }
    }
}

/// The payload without the first field that the type does not know.
fn without_unknown<T: DeserializeOwned>(payload: &[u8]) -> Option<Vec<u8>> {
    let reader = &mut serde_json::Deserializer::from_slice(payload);
    let error = serde_path_to_error::deserialize::<_, T>(reader).err()?;
    if !error.inner().to_string().starts_with("unknown field") {
        return None;
    }
    let path: Vec<String> = error.path().iter().map(ToString::to_string).collect();
    let whole: Json = serde_json::from_slice(payload).ok()?;
    Some(without(&whole, &path)?.as_str().as_bytes().to_vec())
}

fn without(value: &Json, path: &[String]) -> Option<Json> {
    let (step, rest) = path.split_first()?;
    let mut fields: Fields = value.read().ok()?;
    let inner = fields.remove(step)?;
    if !rest.is_empty() {
        fields.insert(step.clone(), without(&inner, rest)?);
    }
    Some(Json::of(&fields))
}

#[cfg(test)]
mod tests {
    #![expect(dead_code, reason = "the example needs only a part of what `events!` makes")]

    use serde::{Deserialize, Serialize};
    use utoipa::ToSchema;

    use super::*;
    use crate::recorded::DecodeError;
    use crate::values::Priority;

    /// Version 3. Version 2 called the vessel `ship`, version 1 had numbers for urgency too.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Sighted {
        /// What was seen.
        pub vessel: String,
        /// How urgent it is.
        pub urgency: Priority,
        /// Whatever else was said.
        pub payload: Json,
    }

    const UPCASTS: &[Upcast] = &[
        Upcast {
            event: "watch.sighted",
            from: 1,
            step: |fields| {
                let number: u8 = fields.get("urgency").and_then(|n| n.read().ok()).unwrap_or(2);
                let word = Priority::ALL.get(usize::from(number)).copied().unwrap_or_default();
                fields.insert("urgency".into(), Json::of(&word));
            },
        },
        Upcast {
            event: "watch.sighted",
            from: 2,
            step: |fields| {
                if let Some(ship) = fields.remove("ship") {
                    fields.insert("vessel".into(), ship);
                }
            },
        },
    ];

    events! {
        /// The events of a watch on deck.
        WatchEvent of "watch" upcast UPCASTS;
        {
            /// Something was seen.
            Sighted(Sighted) = "sighted" v 3,
            /// A shape whose step somebody forgot.
            Forgotten(Sighted) = "forgotten" v 2,
        }
    }

    const PAYLOAD: &str = r#"{"n":18446744073709551617,"f":1.50}"#;

    fn read(version: u16, payload: &str) -> Result<WatchEvent, DecodeError> {
        WatchEvent::decode("sighted", version, payload.as_bytes())
    }

    #[test]
    fn every_old_version_is_read_as_the_newest_and_keeps_its_digits() {
        let newest = WatchEvent::Sighted(Sighted {
            vessel: "Flying Dutchman".into(),
            urgency: Priority::Critical,
            payload: Json::parse(PAYLOAD).unwrap(),
        });
        for (version, fields) in [
            (1, r#""ship":"Flying Dutchman","urgency":0"#),
            (2, r#""ship":"Flying Dutchman","urgency":"critical""#),
            (3, r#""vessel":"Flying Dutchman","urgency":"critical""#),
        ] {
            let payload = format!(r#"{{{fields},"payload":{PAYLOAD}}}"#);
            assert_eq!(read(version, &payload).as_ref(), Ok(&newest), "version {version}");
        }
        assert_eq!((newest.schema_version(), newest.name()), (3, "sighted"));
    }

    #[test]
    fn versions_and_names_of_a_later_release_are_unknown() {
        for version in [0, 4, u16::MAX] {
            let unknown = DecodeError::Unknown { event: "watch.sighted".into(), version };
            assert_eq!(read(version, "{}"), Err(unknown));
        }
        let unknown = DecodeError::Unknown { event: "watch.sunk".into(), version: 1 };
        assert_eq!(WatchEvent::decode("sunk", 1, b"{}"), Err(unknown));
    }

    #[test]
    fn what_cannot_be_brought_up_to_date_is_malformed() {
        for (version, payload) in [(1, "[]"), (1, "{"), (2, "{}"), (3, "{}"), (3, "null")] {
            let error = read(version, payload).expect_err("malformed");
            assert!(matches!(error, DecodeError::Malformed { .. }), "{error:?}");
        }
        let missing = WatchEvent::decode("forgotten", 1, b"{}").expect_err("no step");
        assert!(missing.to_string().contains("no step for watch.forgotten from version 1"));
    }

    #[test]
    fn steps_run_from_exactly_their_version() {
        let upcast = |from, to, payload: &str| {
            upcast(UPCASTS, "watch.sighted", from, to, payload.as_bytes())
                .map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let first = r#"{"ship":"a","urgency":1}"#;
        assert_eq!(upcast(1, 2, first).unwrap(), r#"{"ship":"a","urgency":"high"}"#);
        assert_eq!(upcast(1, 3, first).unwrap(), r#"{"urgency":"high","vessel":"a"}"#);
        assert_eq!(upcast(2, 2, first).unwrap(), first);
        assert!(upcast(1, 4, first).is_err());
    }

    #[test]
    fn fields_that_a_later_release_added_are_passed_over() {
        let payload = format!(
            r#"{{"vessel":"a","later":{{"x":[1]}},"urgency":"low","payload":{PAYLOAD},"b`c":0}}"#
        );
        let WatchEvent::Sighted(seen) = read(3, &payload).unwrap() else { panic!("sighted") };
        assert_eq!((seen.vessel.as_str(), seen.payload.as_str()), ("a", PAYLOAD));
    }
}
