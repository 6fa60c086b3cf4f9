//! The short name of a task that people can say and type.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use uuid::Uuid;

use crate::TaskId;

/// The word before the number.
const WORD: &str = "TASK-";

/// `TASK-7`: the seventh task of its tenant in the order of the log.
///
/// No event has it: it follows from the log, and the read model of tasks counts it. Where
/// an address names a task, the number stands for the id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, pattern = "^TASK-[1-9][0-9]*$", examples("TASK-7"))]
pub struct TaskNumber(pub u64);

impl fmt::Display for TaskNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD}{}", self.0)
    }
}

impl FromStr for TaskNumber {
    type Err = ();

    /// Reads `TASK-7` or `task-7`; a number without the word could be anything's.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (word, digits) = text.split_at_checked(WORD.len()).ok_or(())?;
        let usual = !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit());
        let number: u64 = digits.parse().map_err(|_| ())?;
        // PostgreSQL's bigint ends there.
        let fits = i64::try_from(number).is_ok();
        (word.eq_ignore_ascii_case(WORD) && usual && fits).then_some(Self(number)).ok_or(())
    }
}

impl Serialize for TaskNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| D::Error::custom("not a task's number, such as TASK-7"))
    }
}

/// A task as somebody names it: by its id or by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskRef {
    /// By its id.
    Id(TaskId),
    /// By its number within the tenant.
    Number(TaskNumber),
}

impl utoipa::PartialSchema for TaskRef {
    fn schema() -> RefOr<Schema> {
        let examples = ["TASK-7", "0192d3c4-5b6a-7c8d-9e0f-112233445566"];
        ObjectBuilder::new().schema_type(Type::String).examples(examples).into()
    }
}

impl ToSchema for TaskRef {}

/// What is neither an id nor a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task is named by its UUID or by its number, such as TASK-7")]
pub struct NotATask;

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl FromStr for TaskRef {
    type Err = NotATask;

    /// Ids are UUIDs in their usual form alone: one task has one address.
    fn from_str(text: &str) -> Result<Self, NotATask> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        let id = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
        id.map(|id| Self::Id(TaskId(id))).ok_or(NotATask)
    }
}

impl Serialize for TaskRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_id_or_number() {
        let id = TaskId::nth(7);
        assert_eq!(id.to_string().parse(), Ok(TaskRef::Id(id)));
        assert_eq!("task-7".parse(), Ok(TaskRef::Number(TaskNumber(7))));
        for text in ["", "7", "AGENT-7", "00000000000000000000000000000007", "not a task"] {
            assert_eq!(text.parse::<TaskRef>(), Err(NotATask), "{text}");
        }
    }

    #[test]
    fn a_number_is_read_in_either_case_and_written_in_one() {
        for text in ["TASK-7", "task-7", "Task-7"] {
            assert_eq!(text.parse(), Ok(TaskNumber(7)), "{text}");
        }
        assert_eq!(TaskNumber(12).to_string(), "TASK-12");
        let text = serde_json::to_string(&TaskNumber(7)).unwrap();
        assert_eq!(text, "\"TASK-7\"");
        assert_eq!(serde_json::from_str::<TaskNumber>(&text).unwrap(), TaskNumber(7));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "7",
            "TASK",
            "TASK-",
            "TASK-0",
            "TASK-07",
            "TASK-+7",
            "TASK--7",
            "TASK-7 ",
            "TASK_7",
            "TASK-7x",
            "TÄSK-7",
            "TASK-9223372036854775808",
            "TASK-99999999999999999999999",
        ] {
            assert!(text.parse::<TaskNumber>().is_err(), "{text}");
        }
    }
}
