//! What a task needs of those that it depends on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TaskState;

/// How many of its dependencies a task needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Every one.
    #[default]
    All,
    /// Any one.
    Any,
}

/// What of a dependency counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// That it is done.
    #[default]
    Success,
    /// That it has come to an end, whichever: done, failed, dead, cancelled or archived.
    End,
}

/// When a task's dependencies let it go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dependency {
    /// How many of them it needs.
    pub need: Need,
    /// What of them counts.
    pub on: On,
}

impl Dependency {
    /// Whether it is what holds when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a dependency that stands so gives what is needed of it.
    pub fn is_met_by(self, state: TaskState, archived: bool) -> bool {
        match self.on {
            On::Success => state == TaskState::Done,
            On::End => state.is_final() || archived,
        }
    }

    /// Whether a dependency that stands so can no longer give it, unless it is revived.
    pub fn is_lost_by(self, state: TaskState, archived: bool) -> bool {
        self.on == On::Success && state != TaskState::Done && (state.is_final() || archived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_stand_either_meets_a_need_or_loses_it_or_leaves_it_open() {
        for state in TaskState::ALL {
            for archived in [false, true] {
                let success = Dependency::default();
                let end = Dependency { on: On::End, ..success };
                let over = state.is_final() || archived;
                assert_eq!(success.is_met_by(state, archived), state == TaskState::Done);
                assert_eq!(success.is_lost_by(state, archived), over && state != TaskState::Done);
                assert_eq!(end.is_met_by(state, archived), over);
                assert!(!end.is_lost_by(state, archived));
            }
        }
    }
}
