//! The states of a task and what each allows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a task stands; the words of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for somebody to look at it.
    Inbox,
    /// Waits for an agent (or for a time, a dependency, a backoff).
    Queued,
    /// An agent has it and has not begun.
    Assigned,
    /// An agent is at it.
    InProgress,
    /// Can't go on for now.
    Blocked,
    /// Waits for a verdict.
    Review,
    /// Done.
    Done,
    /// Ended by an error that no further attempt would mend.
    Failed,
    /// Its attempts are used up.
    Dead,
    /// Nobody is to do it any more.
    Cancelled,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 10] = [
        Self::Inbox,
        Self::Queued,
        Self::Assigned,
        Self::InProgress,
        Self::Blocked,
        Self::Review,
        Self::Done,
        Self::Failed,
        Self::Dead,
        Self::Cancelled,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::InProgress => "in_progress",
            Self::Blocked => "blocked",
            Self::Review => "review",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the task has come to an end.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Dead | Self::Cancelled)
    }

    /// The commands that this state allows.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Inbox => &["update", "assign", "requeue", "cancel", "archive"],
            Self::Queued => &["update", "assign", "cancel", "archive"],
            Self::Assigned => &[
                "update",
                "start",
                "complete",
                "fail",
                "extend",
                "release",
                "progress",
                "block",
                "submit_for_review",
                "unassign",
                "reassign",
                "cancel",
            ],
            Self::InProgress => &[
                "update",
                "progress",
                "complete",
                "fail",
                "extend",
                "release",
                "block",
                "submit_for_review",
                "unassign",
                "reassign",
                "cancel",
            ],
            Self::Blocked => &[
                "update", "unblock", "complete", "fail", "extend", "release", "unassign",
                "reassign", "cancel",
            ],
            Self::Review => &["update", "approve", "reject", "cancel"],
            Self::Done | Self::Cancelled => &["archive"],
            Self::Failed | Self::Dead => &["requeue", "discard", "archive"],
        }
    }
}
