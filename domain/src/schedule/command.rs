//! What can be asked of a schedule.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::{ScheduleSubmitFailed, SkipReason};
use super::spec::{Given, MAX_FIRINGS, MisfirePolicy, OverlapPolicy, check_template};
use super::timing::OnEvent;
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
pub use crate::task::Reason;
use crate::task::given;
use crate::values::Check;

commands! {
    /// The commands of a schedule.
    ScheduleCommand {
        /// Makes it.
        Create(CreateSchedule) = "create",
        /// Changes what it says.
        Update(UpdateSchedule) = "update",
        /// It fires no more until it is resumed.
        Pause(Reason) = "pause",
        /// It fires again.
        Resume(Reason) = "resume",
        /// It ends for ever; its history stays.
        Delete(Reason) = "delete",
        /// It fires now, whatever its state.
        Trigger(Reason) = "trigger",
        /// It fires once for each slot of a range of the past.
        Backfill(BackfillSchedule) = "backfill",
        /// Its time has come, or its event (the system's own).
        Fire(FireSchedule) = "fire",
        /// Slots or an event are left out (the system's own).
        Skip(SkipSchedule) = "skip",
        /// The task of a firing could not be submitted (the system's own).
        ReportFailure(ScheduleSubmitFailed) = "report_failure",
    }
}

fn default_limit() -> u32 {
    100
}

fn default_grace() -> u64 {
    60_000
}

/// A new schedule: `name`, `task`, and one of `cron`, `interval_ms`, `at`, `on_event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSchedule {
    /// For people.
    pub name: String,
    /// A cron pattern: minute, hour, day of month, month, day of week; a second may stand in
    /// front.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The pattern's time zone, an IANA name; UTC when absent.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Again and again after this time, counted from the creation, in milliseconds.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// Once, at this instant.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// For every event of a type, or those that a condition holds for.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub on_event: Option<OnEvent>,
    /// The task to submit: the body of a task.
    #[schema(value_type = crate::task::SubmitTask)]
    pub task: Json,
    /// What becomes of missed slots.
    #[serde(default)]
    pub misfire: MisfirePolicy,
    /// How many missed slots `run_all` makes up for, 1 to 1,000.
    #[serde(default = "default_limit")]
    pub misfire_limit: u32,
    /// How late a slot may fire before it counts as missed, in milliseconds.
    #[serde(default = "default_grace")]
    pub grace_ms: u64,
    /// What happens while the task of an earlier firing is open.
    #[serde(default)]
    pub overlap: OverlapPolicy,
}

impl CreateSchedule {
    pub(super) fn given(&self) -> Given<'_> {
        Given {
            cron: self.cron.as_ref(),
            timezone: self.timezone.as_ref(),
            interval_ms: self.interval_ms,
            at: self.at,
            on_event: self.on_event.as_ref(),
        }
    }
}

fn limits(check: Check, limit: Option<u32>, grace: Option<u64>) -> Check {
    let check = match limit {
        Some(limit) => check.range("misfire_limit", limit.into(), 1, MAX_FIRINGS),
        None => check,
    };
    match grace {
        Some(ms) => check.range("grace_ms", ms, 1_000, 86_400_000),
        None => check,
    }
}

/// All faults of several checks at once.
fn all(
    checks: impl IntoIterator<Item = Result<(), Vec<FieldError>>>,
) -> Result<(), Vec<FieldError>> {
    let faults: Vec<FieldError> = checks.into_iter().filter_map(Result::err).flatten().collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

impl Body for CreateSchedule {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let check = Check::default().text("name", &self.name, 1, 128);
        all([
            limits(check, Some(self.misfire_limit), Some(self.grace_ms)).done(),
            self.given().check(true),
            check_template(&self.task, Some(self.on_event.is_some())),
        ])
    }
}

/// Changes to a schedule; what is absent stays. One of `cron`, `interval_ms`, `at`,
/// `on_event` replaces when it fires; `timezone` alone moves its pattern to another zone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the same fields as CreateSchedule")]
pub struct UpdateSchedule {
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub on_event: Option<OnEvent>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::task::SubmitTask>)]
    pub task: Option<Json>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub misfire: Option<MisfirePolicy>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub misfire_limit: Option<u32>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub overlap: Option<OverlapPolicy>,
}

impl UpdateSchedule {
    pub(super) fn given(&self) -> Given<'_> {
        Given {
            cron: self.cron.as_ref(),
            timezone: self.timezone.as_ref(),
            interval_ms: self.interval_ms,
            at: self.at,
            on_event: self.on_event.as_ref(),
        }
    }
}

impl Body for UpdateSchedule {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = limits(Check::default(), self.misfire_limit, self.grace_ms).rule(
            *self != Self::default(),
            "",
            "empty",
            "at least one field must be given",
        );
        if let Some(name) = &self.name {
            check = check.text("name", name, 1, 128);
        }
        let template = self.task.as_ref().map(|task| check_template(task, None));
        all([check.done(), self.given().check(false)].into_iter().chain(template))
    }
}

/// A range of the past whose slots are to fire, each once more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillSchedule {
    /// The first instant of the range.
    pub from: DateTime<Utc>,
    /// The end of the range, itself not in it.
    pub to: DateTime<Utc>,
}

impl Body for BackfillSchedule {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .time("from", Some(self.from))
            .time("to", Some(self.to))
            .rule(self.from < self.to, "to", "out_of_range", "`to` must be later than `from`")
            .done()
    }
}

/// A slot or an event whose turn has come: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FireSchedule {
    /// The slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_at: Option<DateTime<Utc>>,
    /// The event's position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
}

fn either(slot_at: Option<DateTime<Utc>>, position: Option<u64>) -> Check {
    let one = slot_at.is_some() != position.is_some();
    Check::default().rule(one, "slot_at", "required", "either `slot_at` or `position` is required")
}

impl Body for FireSchedule {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        either(self.slot_at, self.position).time("slot_at", self.slot_at).done()
    }
}

/// All slots up to one, or an event, that are to be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipSchedule {
    /// The last of the slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_at: Option<DateTime<Utc>>,
    /// The event's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Why.
    pub reason: SkipReason,
}

impl Body for SkipSchedule {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        either(self.slot_at, self.position).time("slot_at", self.slot_at).done()
    }
}

impl Body for ScheduleSubmitFailed {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("problem", &Json::of(&self.problem)).done()
    }
}
