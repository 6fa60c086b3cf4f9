//! Values of query parameters: lists with commas, ids, words of an enumeration.

use chrono::{DateTime, Utc};
use domain::agent::AgentState;
use domain::node::NodeState;
use domain::operation::OperationState;
use domain::schedule::{ScheduleKind, ScheduleState};
use domain::task::TaskState;
use domain::values::Priority;
use uuid::Uuid;

use crate::error::ApiError;

/// A word that stands for one of a few values.
pub(crate) trait Word: Copy + Sized + 'static {
    /// Every value.
    const ALL: &'static [Self];
    /// The word on the wire.
    fn word(self) -> &'static str;
}

macro_rules! words {
    ($($kind:ty: $all:expr,)*) => {$(
        impl Word for $kind {
            const ALL: &'static [Self] = &$all;
            fn word(self) -> &'static str {
                self.as_str()
            }
        }
    )*};
}

words! {
    TaskState: TaskState::ALL,
    AgentState: AgentState::ALL,
    Priority: Priority::ALL,
    ScheduleKind: ScheduleKind::ALL,
    ScheduleState: ScheduleState::ALL,
    NodeState: NodeState::ALL,
    OperationState: [
        OperationState::Accepted,
        OperationState::Running,
        OperationState::Succeeded,
        OperationState::Failed,
        OperationState::Cancelled,
    ],
}

/// Reads words with commas between; an unknown one names the nearest.
pub(crate) fn words<T: Word>(name: &str, given: Option<&str>) -> Result<Vec<T>, ApiError> {
    let list = given.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    list.map(|text| {
        let known = || T::ALL.iter().map(|value| value.word());
        let found = T::ALL.iter().copied().find(|value| value.word() == text);
        found.ok_or_else(|| {
            let hint = domain::json::nearest(text, known())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            let all = known().collect::<Vec<_>>().join(", ");
            let shown: String = text.chars().take(64).collect();
            let message = format!("`{name}` can't be `{shown}`{hint} (known: {all})");
            ApiError::parameter(format!("/query/{name}"), message)
        })
    })
    .collect()
}

/// Reads an id.
pub(crate) fn id<T: From<Uuid>>(name: &str, given: Option<&str>) -> Result<Option<T>, ApiError> {
    let read = given.map(crate::query::id).transpose().map_err(|_| {
        ApiError::parameter(format!("/query/{name}"), format!("`{name}` must be a UUID"))
    })?;
    Ok(read.map(T::from))
}

/// Reads an instant: RFC 3339 with its zone.
pub(crate) fn time(name: &str, given: Option<&str>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let read = given.map(DateTime::parse_from_rfc3339).transpose().map_err(|_| {
        let message = format!("`{name}` must be a time such as 2026-01-31T12:00:00Z");
        ApiError::parameter(format!("/query/{name}"), message)
    })?;
    Ok(read.map(|time| time.to_utc()))
}

/// Reads a position: what PostgreSQL's bigint can hold.
pub(crate) fn position(name: &str, given: Option<&str>) -> Result<Option<u64>, ApiError> {
    given
        .map(|text| {
            let position = text.parse::<u64>().ok().filter(|p| i64::try_from(*p).is_ok());
            position.ok_or_else(|| {
                let message = format!("`{name}` must be a position, such as 42");
                ApiError::parameter(format!("/query/{name}"), message)
            })
        })
        .transpose()
}

/// Takes a text as it is; NUL is refused, since PostgreSQL's texts can't hold it.
pub(crate) fn text(name: &str, given: Option<String>) -> Result<Option<String>, ApiError> {
    match given {
        Some(text) if text.contains('\0') || text.len() > 1_024 => {
            let message = format!("`{name}` must have at most 1,024 bytes and no NUL");
            Err(ApiError::parameter(format!("/query/{name}"), message))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_slips_are_named() {
        let states = words::<TaskState>("state", Some("queued, dead")).expect("known");
        assert_eq!(states, [TaskState::Queued, TaskState::Dead]);
        let refusal = words::<TaskState>("state", Some("qeued")).expect_err("unknown");
        assert!(refusal.problem().detail.contains("did you mean `queued`"));
        assert!(words::<Priority>("priority", None).expect("none").is_empty());
        assert!(words::<Priority>("priority", Some("")).is_err());
    }

    #[test]
    fn times_and_positions_have_one_form() {
        assert!(time("from", Some("2026-01-31T12:00:00+01:00")).is_ok());
        assert!(time("from", Some("2026-01-31T12:00:00")).is_err());
        assert_eq!(position("after", Some("7")).expect("read"), Some(7));
        assert!(position("after", Some("9223372036854775808")).is_err());
        assert!(text("q", Some("a\0b".into())).is_err());
    }
}
