//! Which events a reader wants.

use std::collections::HashSet;
use std::sync::LazyLock;

use domain::{Recorded, StreamType};
use uuid::Uuid;

use crate::error::ApiError;
use crate::query;

/// The share of the log that a reader wants; what is absent does not narrow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamFilter {
    /// `task.submitted`; empty: all.
    pub(crate) types: HashSet<(StreamType, String)>,
    pub(crate) stream: Option<Uuid>,
}

/// Every event's name, as `<stream type>.<event>`.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let types = domain::event_types();
    types.iter().map(|event| format!("{}.{}", event.stream_type, event.name)).collect()
});

impl StreamFilter {
    /// Reads the parameters `type` (a list with commas) and `stream`.
    ///
    /// A type is named in full (`dev.taffrail.task.submitted.v1`), in short
    /// (`task.submitted`) or by its stream type alone (`task`).
    ///
    /// # Errors
    /// When a type is unknown, with the nearest known one, or the stream is no UUID.
    pub(crate) fn read(types: Option<&str>, stream: Option<&str>) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for given in types.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            filter.types.extend(named(given)?);
        }
        if let Some(text) = stream {
            let id = query::id(text);
            filter.stream =
                Some(id.map_err(|_| {
                    ApiError::parameter("/query/stream", "`stream` must be a UUID")
                })?);
        }
        Ok(filter)
    }

    /// Whether nothing is narrowed.
    pub(crate) fn is_all(&self) -> bool {
        self.types.is_empty() && self.stream.is_none()
    }

    /// Whether an event belongs to the share.
    pub(crate) fn takes(&self, event: &Recorded) -> bool {
        self.stream.is_none_or(|stream| stream == event.stream_id)
            && (self.types.is_empty()
                || self
                    .types
                    .iter()
                    .any(|(kind, name)| *kind == event.stream_type && **name == *event.event_type))
    }
}

fn named(given: &str) -> Result<Vec<(StreamType, String)>, ApiError> {
    let short = given.strip_prefix("dev.taffrail.").unwrap_or(given);
    let short = short.strip_suffix(".*").unwrap_or(short);
    // A version at the end narrows nothing: readers get the newest shape anyway.
    let short = match short.rsplit_once(".v") {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => short,
    };
    let matching = NAMES.iter().filter_map(|known| {
        let (kind, name) = known.split_once('.')?;
        (known == short || kind == short).then(|| Some((kind.parse().ok()?, name.to_owned())))?
    });
    let found: Vec<_> = matching.collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = domain::json::nearest(short, NAMES.iter().map(String::as_str))
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let shown: String = given.chars().take(64).collect();
    let message = format!("there is no event type `{shown}`{hint}");
    Err(ApiError::parameter("/query/type", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_three_names() {
        let one = [(StreamType::Task, "submitted".to_owned())];
        for name in ["task.submitted", "dev.taffrail.task.submitted.v1"] {
            let filter = StreamFilter::read(Some(name), None).expect("known");
            assert_eq!(filter.types, HashSet::from(one.clone()), "{name}");
        }
        let all = StreamFilter::read(Some("task"), None).expect("known");
        assert!(all.types.len() > 10);
        let two = StreamFilter::read(Some("task.submitted, agent.retired"), None).expect("known");
        assert_eq!(two.types.len(), 2);
    }

    #[test]
    fn an_unknown_type_names_the_nearest() {
        let refusal = StreamFilter::read(Some("task.submited"), None).expect_err("unknown");
        assert!(refusal.problem().detail.contains("did you mean `task.submitted`"));
        assert!(StreamFilter::read(None, Some("7")).is_err());
    }
}
