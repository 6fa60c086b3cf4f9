//! JSON from outside: checked strictly once, then carried as it came.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::FieldError;

/// Deepest nesting that is taken (reliability D44).
pub const MAX_DEPTH: usize = 64;
/// Longest object key that is taken, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Largest free-form value (payload, result) in an event, in bytes (reliability R17).
pub const MAX_VALUE_BYTES: usize = 256 * 1024;

/// Any JSON value, kept as compact text: numbers stay exact and nothing is decoded twice.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// JSON's `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// The value as compact text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Takes text that is JSON; white space between tokens goes.
    ///
    /// # Errors
    /// Where the text is not JSON.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Writes a value of ours as JSON.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        serde_json::value::to_raw_value(value).map_or_else(|_| Self::null(), Self)
    }

    /// Reads it as a type.
    ///
    /// # Errors
    /// Where the value has another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match compact(raw.get()) {
            Cow::Borrowed(_) => Ok(Self(raw)),
            Cow::Owned(text) => {
                RawValue::from_string(text).map(Self).map_err(serde::de::Error::custom)
            }
        }
    }
}

impl PartialSchema for Json {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("any JSON value, at most 256 KiB"))
            .into()
    }
}

impl ToSchema for Json {}

/// Removes the white space between tokens; copies only when there is some.
fn compact(text: &str) -> Cow<'_, str> {
    let mut in_string = false;
    let mut escaped = false;
    let mut space = |c: char| {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            false
        } else {
            in_string = c == '"';
            matches!(c, ' ' | '\n' | '\r' | '\t')
        }
    };
    let Some(first) = text.char_indices().find(|(_, c)| space(*c)) else { return text.into() };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first.0]);
    out.extend(text[first.0 + 1..].chars().filter(|c| !space(*c)));
    out.into()
}

/// Checks that bytes are one JSON object within our limits: no key twice, no NUL
/// in a string (PostgreSQL's jsonb can't hold it), depth and key length bounded.
///
/// # Errors
/// The first fault, with the pointer to its place.
pub fn check(bytes: &[u8]) -> Result<(), FieldError> {
    if bytes.is_empty() {
        return Err(FieldError::new("", "empty", "a JSON object is expected"));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err(FieldError::new("", "not_utf8", "the body is not valid UTF-8"));
    }
    let (mut path, mut fault) = (Vec::new(), None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let seed = Strict { path: &mut path, fault: &mut fault };
    let read = seed.deserialize(&mut reader).and_then(|kind| reader.end().map(|()| kind));
    match (read, fault) {
        (_, Some(fault)) => Err(fault),
        (Err(error), None) => Err(FieldError::new("", "not_json", error.to_string())),
        (Ok(true), None) => Ok(()),
        (Ok(false), None) => Err(FieldError::new("", "not_an_object", "a JSON object is expected")),
    }
}

/// Walks a document without keeping it; yields whether it is an object.
///
/// The way to the present place is one stack for the whole walk: a text per value
/// would let long keys around a long list cost gigabytes of copying.
struct Strict<'a> {
    path: &'a mut Vec<Step>,
    fault: &'a mut Option<FieldError>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Strict<'_> {
    fn fail<E: serde::de::Error>(self, code: &str, message: &str) -> E {
        let pointer = self.path.iter().map(|step| match step {
            Step::Key(key) => format!("/{}", escaped(key)),
            Step::Index(index) => format!("/{index}"),
        });
        let fault = FieldError::new(shortened(pointer.collect()), code, message);
        self.fault.get_or_insert(fault);
        E::custom(message)
    }

    fn again(&mut self) -> Strict<'_> {
        Strict { path: self.path, fault: self.fault }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        if self.path.len() > MAX_DEPTH {
            return Err(self.fail("too_deep", "nested deeper than 64 levels"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        if text.contains('\0') {
            return Err(self.fail("nul", "a string must not contain NUL"));
        }
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<bool, A::Error> {
        for index in 0.. {
            self.path.push(Step::Index(index));
            let element = seq.next_element_seed(self.again())?;
            self.path.pop();
            if element.is_none() {
                break;
            }
        }
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let fault = match key.as_str() {
                k if k.len() > MAX_KEY_BYTES => Some(("key_too_long", "a key is too long")),
                k if k.contains('\0') => Some(("nul", "a key must not contain NUL")),
                k if seen.contains(k) => Some(("duplicate_key", "the key stands there twice")),
                _ => None,
            };
            if let Some((code, message)) = fault {
                self.path.push(Step::Key(key.chars().take(64).collect()));
                return Err(self.fail(code, message));
            }
            self.path.push(Step::Key(key));
            map.next_value_seed(self.again())?;
            if let Some(Step::Key(key)) = self.path.pop() {
                seen.insert(key);
            }
        }
        Ok(true)
    }
}

/// Checks a body and reads it as a type; an empty body counts as `{}`.
///
/// # Errors
/// The first fault, with its pointer; for an unknown field the nearest known one is named.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FieldError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    check(bytes)?;
    let reader = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(reader).map_err(|error| field_error(&error))
}

fn field_error(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    use serde_path_to_error::Segment;
    let mut steps: Vec<String> = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    // "… at line 1 column 9" speaks of the text; the pointer says it better.
    let full = error.inner().to_string();
    let message = full.rsplit_once(" at line ").map_or(&*full, |(says, _)| says).to_owned();
    let quoted = |text: &str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    let (code, message) = if message.starts_with("unknown field") {
        // The path has the name itself; in the message it may hold anything.
        let name = steps.last().cloned().unwrap_or_default();
        let known = message.rsplit_once("`, expected ").map_or(vec![], |(_, list)| quoted(list));
        let near = nearest(&name, known.iter().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let list = known.join(", ");
        ("unknown_field", format!("there is no field `{name}`{hint} (known: {list})"))
    } else if message.starts_with("missing field") {
        let name = quoted(&message).into_iter().next().unwrap_or_default();
        steps.push(name.clone());
        ("required", format!("`{name}` is required"))
    } else if message.starts_with("unknown variant") {
        ("unknown_value", message)
    } else if message.starts_with("invalid type") {
        ("wrong_type", message)
    } else {
        ("invalid_value", message)
    };
    let pointer = steps.iter().map(|step| format!("/{}", escaped(step))).collect();
    FieldError::new(shortened(pointer), code, shortened(message))
}

/// A step of a JSON pointer (RFC 6901, section 3).
pub(crate) fn escaped(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

/// Answers quote what was sent; a body of a megabyte must not come back as one.
fn shortened(text: String) -> String {
    const MOST: usize = 2_000;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The known word nearest to a given one, if it is near enough to be a slip.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let slip = |candidate: &str| 1 + candidate.len() / 4;
    known
        // The comparison is quadratic; a word of a megabyte is no slip of any.
        .filter(|candidate| length.abs_diff(candidate.len()) <= slip(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= slip(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &str) -> (String, String) {
        let fault = check(body.as_bytes()).expect_err("refused");
        (fault.pointer, fault.code)
    }

    #[test]
    fn faults_are_found_where_they_stand() {
        assert_eq!(fault(r#"{"a":{"b":1,"b":2}}"#), ("/a/b".into(), "duplicate_key".into()));
        assert_eq!(fault(r#"{"a":["x","\u0000"]}"#), ("/a/1".into(), "nul".into()));
        assert_eq!(fault("[]").1, "not_an_object");
        assert_eq!(fault(r#"{"a":1}x"#).1, "not_json");
        assert_eq!(fault(r#"{"a":1e400}"#).1, "not_json");
        assert_eq!(fault(r#"{"a":"\ud800"}"#).1, "not_json");
        assert_eq!(fault("\u{feff}{}").1, "not_json");
        let bomb = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(fault(&bomb).1, "too_deep");
    }

    #[test]
    fn free_values_keep_their_digits_and_lose_their_white_space() {
        let value = Json::parse("{ \"n\" : 18446744073709551617, \"s\": \"a \\\" b\" }");
        assert_eq!(
            value.map(|v| v.as_str().to_owned()).unwrap_or_default(),
            r#"{"n":18446744073709551617,"s":"a \" b"}"#
        );
    }

    #[test]
    fn an_unknown_field_names_the_nearest() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[expect(dead_code, reason = "only its name matters")]
            title: String,
        }
        let fault = read::<Body>(br#"{"titel":"x"}"#).expect_err("refused");
        assert_eq!((fault.pointer.as_str(), fault.code.as_str()), ("/titel", "unknown_field"));
        assert!(fault.message.contains("did you mean `title`"), "{}", fault.message);
        let fault = read::<Body>(b"").expect_err("refused");
        assert_eq!((fault.pointer.as_str(), fault.code.as_str()), ("/title", "required"));
    }
}
