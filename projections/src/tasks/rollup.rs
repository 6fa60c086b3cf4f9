//! What the parts of a task add up to.

use std::collections::BTreeMap;

use domain::TaskId;
use domain::task::TaskState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::QueryError;

/// A part of a task, as far as it counts for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its id.
    pub id: TaskId,
    /// Where it stands; cancelled, where it was archived before its end.
    pub state: TaskState,
    /// How far its agent last said it is.
    pub percent: u8,
}

impl Part {
    /// Reads what the queries of tasks select: id, state, percent.
    pub(crate) fn read(text: &str) -> Result<Self, QueryError> {
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (id, state, percent) = (next(), next(), next());
        let state = TaskState::ALL.into_iter().find(|known| known.as_str() == state);
        match (Uuid::try_parse(id), state, percent.parse()) {
            (Ok(id), Some(state), Ok(percent)) => Ok(Self { id: TaskId(id), state, percent }),
            _ => Err(QueryError::Row(format!("a part of a task reads `{text}`"))),
        }
    }
}

/// The parts of a task, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollUp {
    /// How many there are; at most 1,000 are counted.
    pub total: u64,
    /// Those that have not come to an end.
    pub open: u64,
    /// Those that are done.
    pub done: u64,
    /// How many are in each state.
    pub states: BTreeMap<String, u64>,
    /// How far the whole is, 0 to 100: the mean of its parts, each weighing the same. A part
    /// that is done counts 100, an open one what its agent last said, a failed or dead one
    /// nothing; cancelled ones are left out.
    pub percent: u8,
}

impl RollUp {
    /// What the parts of a task add up to; nothing where there are none.
    pub fn of(parts: &[Part]) -> Option<Self> {
        if parts.is_empty() {
            return None;
        }
        let mut states = BTreeMap::new();
        let (mut open, mut done, mut sum, mut counted) = (0, 0, 0u64, 0u64);
        for part in parts {
            *states.entry(part.state.as_str().to_owned()).or_insert(0) += 1;
            open += u64::from(!part.state.is_final());
            counted += u64::from(part.state != TaskState::Cancelled);
            sum += match part.state {
                TaskState::Done => {
                    done += 1;
                    100
                }
                TaskState::Failed | TaskState::Dead | TaskState::Cancelled => 0,
                TaskState::Inbox
                | TaskState::Queued
                | TaskState::Assigned
                | TaskState::InProgress
                | TaskState::Blocked
                | TaskState::Review => u64::from(part.percent.min(100)),
            };
        }
        let percent = sum.checked_div(counted).unwrap_or_default();
        let (total, percent) = (parts.len() as u64, u8::try_from(percent).unwrap_or(100));
        Some(Self { total, open, done, states, percent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(state: TaskState, percent: u8) -> Part {
        Part { id: TaskId::nth(1), state, percent }
    }

    #[test]
    fn parts_weigh_the_same_and_cancelled_ones_nothing() {
        use TaskState as S;
        assert_eq!(RollUp::of(&[]), None);
        let parts = [
            part(S::Done, 30),
            part(S::InProgress, 50),
            part(S::Queued, 0),
            part(S::Dead, 90),
            part(S::Cancelled, 90),
        ];
        let sum = RollUp::of(&parts).unwrap();
        assert_eq!((sum.total, sum.open, sum.done, sum.percent), (5, 2, 1, 37));
        assert_eq!(sum.states["queued"], 1);
        assert_eq!(RollUp::of(&parts[..1]).unwrap().percent, 100);
        assert_eq!(RollUp::of(&parts[4..]).unwrap().percent, 0, "nothing is left to be done");
    }

    #[test]
    fn a_part_is_read_as_the_query_writes_it() {
        let id = TaskId::nth(7);
        let read = Part::read(&format!("{id} in_progress 42")).unwrap();
        assert_eq!(read, Part { id, state: TaskState::InProgress, percent: 42 });
        for wrong in ["", "x done 1", "00000000-0000-0000-0000-000000000007 gone 1"] {
            assert!(Part::read(wrong).is_err(), "{wrong}");
        }
    }
}
