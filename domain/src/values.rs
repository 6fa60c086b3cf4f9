//! Small values that several contexts share, with their limits.

use std::collections::BTreeMap;

use chrono::Datelike;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::decide::Timestamp;
use crate::json::{Json, MAX_VALUE_BYTES, escaped};
use crate::problem::FieldError;

/// How urgent a task is; the order of the variants is the order of service.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// 0: before everything else.
    Critical,
    /// 1.
    High,
    /// 2: when nothing is said.
    #[default]
    Normal,
    /// 3.
    Low,
    /// 4: when nothing else waits.
    Background,
}

impl Priority {
    /// Most urgent first.
    pub const ALL: [Self; 5] =
        [Self::Critical, Self::High, Self::Normal, Self::Low, Self::Background];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
            Self::Background => "background",
        }
    }
}

/// Takes the word or the earlier systems' number, 0 (critical) to 4 (background).
impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Priority;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("critical, high, normal, low, background, or a number 0 to 4")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Priority, E> {
                let unexpected = serde::de::Unexpected::Unsigned(number);
                let found = usize::try_from(number).ok().and_then(|n| Priority::ALL.get(n));
                found.copied().ok_or_else(|| E::invalid_value(unexpected, &self))
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Priority, E> {
                let unexpected = serde::de::Unexpected::Str(word);
                let found = Priority::ALL.into_iter().find(|p| p.as_str() == word);
                found.ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Labels as the sender likes them: words, or names with values. Kept as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Labels {
    /// `["gpu", "eu"]`
    Words(Vec<String>),
    /// `{ "zone": "eu" }`
    Pairs(BTreeMap<String, String>),
}

impl Default for Labels {
    fn default() -> Self {
        Self::Words(Vec::new())
    }
}

/// By hand, because serde's untagged enums cannot say which entry is at fault.
impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Labels;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of words, or an object of names with words")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<Labels, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(words)).map(Labels::Words)
            }

            fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<Labels, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(pairs)).map(Labels::Pairs)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Collects the faults of a body's fields, so that one answer names them all.
#[derive(Debug, Default)]
pub struct Check(Vec<FieldError>);

impl Check {
    /// A text must have between `least` and `most` characters and no control characters.
    pub fn text(mut self, field: &str, text: &str, least: usize, most: usize) -> Self {
        let length = text.chars().count();
        if !(least..=most).contains(&length) {
            let message = format!("`{field}` must have {least} to {most} characters, not {length}");
            self.push(field, "length", message);
        } else if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.push(field, "control_character", format!("`{field}` has control characters"));
        }
        self
    }

    /// An optional text.
    pub fn maybe(self, field: &str, text: Option<&String>, most: usize) -> Self {
        match text {
            Some(text) => self.text(field, text, 0, most),
            None => self,
        }
    }

    /// A name that stands in subjects and paths: `[A-Za-z0-9_-]{1,64}`.
    pub fn token(mut self, field: &str, text: &str) -> Self {
        if !crate::ids::is_token(text) {
            let message = format!("`{field}` must be 1 to 64 of the characters A-Z a-z 0-9 _ -");
            self.push(field, "not_a_token", message);
        }
        self
    }

    /// A list of at most `most` short words.
    pub fn words(mut self, field: &str, words: &[String], most: usize) -> Self {
        if words.len() > most {
            self.push(field, "too_many", format!("`{field}` may have at most {most} entries"));
        }
        for (index, word) in words.iter().enumerate().take(most) {
            self = self.text(&format!("{field}/{index}"), word, 1, 128);
        }
        self
    }

    /// Labels, at most 64.
    pub fn labels(mut self, field: &str, labels: &Labels) -> Self {
        match labels {
            Labels::Words(words) => self.words(field, words, 64),
            Labels::Pairs(pairs) => {
                if pairs.len() > 64 {
                    self.push(field, "too_many", format!("`{field}` may have at most 64 entries"));
                }
                for (key, value) in pairs.iter().take(64) {
                    let field = format!("{field}/{}", escaped(key));
                    self = self.text(&field, key, 1, 128).text(&field, value, 0, 256);
                }
                self
            }
        }
    }

    /// A number between two bounds.
    pub fn range(mut self, field: &str, number: u64, least: u64, most: u64) -> Self {
        if !(least..=most).contains(&number) {
            let message = format!("`{field}` must lie between {least} and {most}");
            self.push(field, "out_of_range", message);
        }
        self
    }

    /// A free-form value of at most 256 KiB.
    pub fn value(self, field: &str, value: &Json) -> Self {
        self.bytes(field, value.as_str().len(), MAX_VALUE_BYTES)
    }

    /// A length in bytes.
    pub fn bytes(mut self, field: &str, length: usize, most: usize) -> Self {
        if length > most {
            self.push(field, "too_large", format!("`{field}` may have at most {most} bytes"));
        }
        self
    }

    /// An instant that RFC 3339 can write with four digits and the database can keep.
    pub fn time(mut self, field: &str, time: Option<Timestamp>) -> Self {
        if time.is_some_and(|time| !(1970..=9999).contains(&time.year())) {
            let message = format!("`{field}` must lie in the years 1970 to 9999");
            self.push(field, "out_of_range", message);
        }
        self
    }

    /// Any other rule.
    pub fn rule(mut self, holds: bool, field: &str, code: &str, message: &str) -> Self {
        if !holds {
            self.push(field, code, message.into());
        }
        self
    }

    /// All that was found.
    ///
    /// # Errors
    /// When there is any fault.
    pub fn done(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    fn push(&mut self, field: &str, code: &str, message: String) {
        let pointer = if field.is_empty() { String::new() } else { format!("/{field}") };
        self.0.push(FieldError::new(pointer, code, message));
    }
}
