//! Rounds: for agents that work now and then, on a timetable, on events, or when asked.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decide::Timestamp;
use crate::ids::TaskId;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::schedule::cron::CronTimes;
use crate::values::Check;

/// Tasks that a round names at most.
pub const MAX_ROUND_TASKS: usize = 100;

/// When an agent has its rounds. `cron` and `every_ms` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rounds {
    /// A cron pattern of five or six fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of the pattern, an IANA name; UTC when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Between the beginnings of two rounds, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Types of events that begin one, such as `task.completed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
}

impl Rounds {
    /// When the next round is due after an instant; `None` where no clock begins one.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if let Some(every) = self.every_ms {
            return after.checked_add_signed(TimeDelta::milliseconds(every.min(1 << 40) as i64));
        }
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        CronTimes::parse(self.cron.as_deref()?, zone).ok()?.next_after(after)
    }

    /// Adds what is wrong with it.
    pub fn faults(&self, mut check: Check, prefix: &str) -> Check {
        let at = |field: &str| format!("{prefix}{field}");
        let one = self.cron.is_none() || self.every_ms.is_none();
        check = check.rule(one, &at("every_ms"), "one_of", "either cron or every_ms");
        if let Some(every) = self.every_ms {
            check = check.range(&at("every_ms"), every, 1_000, 366 * 86_400_000);
        }
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        if let Some(Err((field, code, message))) =
            self.cron.as_deref().map(|cron| CronTimes::parse(cron, zone))
        {
            check = check.rule(false, &at(field), code, &message);
        }
        check.words(&at("on"), &self.on, 16)
    }
}

/// What began a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundCause {
    /// Its timetable.
    Schedule,
    /// Somebody.
    #[default]
    Hand,
    /// An event.
    Event,
}

/// Begins a round, if none is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BeginRound {
    /// What begins it.
    pub cause: RoundCause,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tasks that it holds, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskId>,
}

impl Body for BeginRound {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let few = self.tasks.len() <= MAX_ROUND_TASKS;
        Check::default()
            .maybe("reason", self.reason.as_ref(), 2_000)
            .rule(few, "tasks", "too_many", "at most 100 tasks")
            .done()
    }
}

/// Ends the open round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndRound {
    /// What it came to, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

impl Body for EndRound {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("summary", self.summary.as_ref(), 8_192).done()
    }
}

/// A round has begun: its process is told to look for work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoundBegun {
    /// The how-manieth of this agent.
    pub round: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// What began it.
    pub cause: RoundCause,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tasks that it held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskId>,
}

/// A round is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoundEnded {
    /// Which.
    pub round: u64,
    /// When it had begun.
    pub began_at: DateTime<Utc>,
    /// What it came to, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}
