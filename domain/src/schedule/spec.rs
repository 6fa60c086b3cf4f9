//! What a schedule says, and the reading of it from a body.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cron::CronTimes;
use super::template::Template;
use super::timing::{OnEvent, When};
use crate::catalogue::Event;
use crate::decide::Timestamp;
use crate::expression::Condition;
use crate::ids::StreamType;
use crate::json::{Json, nearest};
use crate::problem::FieldError;
use crate::values::Check;

/// Shortest interval, in milliseconds.
pub const MIN_INTERVAL_MS: u64 = 1_000;
/// Longest interval: a leap year.
pub const MAX_INTERVAL_MS: u64 = 366 * 86_400_000;
/// Most firings that one command or one misfire makes up for.
pub const MAX_FIRINGS: u64 = 1_000;

/// What becomes of slots that passed while nobody could fire them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// They are left out.
    Skip,
    /// One firing stands for all of them.
    #[default]
    RunOnce,
    /// Each is made up for, the newest `misfire_limit` of them.
    RunAll,
}

/// What happens when a slot comes while the task of an earlier firing has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// It fires all the same.
    #[default]
    Allow,
    /// The slot is left out.
    Skip,
    /// It fires when that task has ended; slots that pass meanwhile are missed ones.
    Queue,
}

/// All that a schedule says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleSpec {
    /// For people.
    pub name: String,
    /// When it fires.
    pub when: When,
    /// The body of the task that is submitted, as it was sent.
    #[schema(value_type = crate::task::SubmitTask)]
    pub task: Json,
    /// What becomes of missed slots.
    pub misfire: MisfirePolicy,
    /// How many are made up for at most, under `run_all`.
    pub misfire_limit: u32,
    /// How late a slot may fire before it counts as missed.
    pub grace_ms: u64,
    /// What happens while an earlier task is open.
    pub overlap: OverlapPolicy,
}

/// The fields of a body that say when.
pub(super) struct Given<'a> {
    pub cron: Option<&'a String>,
    pub timezone: Option<&'a String>,
    pub interval_ms: Option<u64>,
    pub at: Option<DateTime<Utc>>,
    pub on_event: Option<&'a OnEvent>,
}

impl Given<'_> {
    /// The names of the kinds that are given.
    fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("cron", self.cron.is_some()),
            ("interval_ms", self.interval_ms.is_some()),
            ("at", self.at.is_some()),
            ("on_event", self.on_event.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Checks all that can be checked without the time.
    pub fn check(&self, required: bool) -> Result<(), Vec<FieldError>> {
        let kinds = self.kinds();
        let mut faults = Vec::new();
        if kinds.is_empty() && required {
            let text = "one of `cron`, `interval_ms`, `at`, `on_event` is required";
            faults.push(FieldError::new("", "required", text));
        }
        for extra in kinds.iter().skip(1) {
            let text = format!("a schedule has one of `{}` and `{extra}`, not both", kinds[0]);
            faults.push(FieldError::new(format!("/{extra}"), "two_kinds", text));
        }
        if self.timezone.is_some() && self.cron.is_none() && (required || !kinds.is_empty()) {
            let text = "`timezone` goes with `cron` alone";
            faults.push(FieldError::new("/timezone", "needs_cron", text));
        }
        if let Some(pattern) = self.cron {
            let zone = self.timezone.map_or("UTC", String::as_str);
            if let Err((field, code, text)) = CronTimes::parse(pattern, zone) {
                faults.push(FieldError::new(format!("/{field}"), code, text));
            }
        }
        let mut check = Check::default().time("at", self.at);
        if let Some(ms) = self.interval_ms {
            check = check.range("interval_ms", ms, MIN_INTERVAL_MS, MAX_INTERVAL_MS);
        }
        faults.extend(check.done().err().into_iter().flatten());
        if let Some(on) = self.on_event {
            faults.extend(check_event(on));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// When it fires, counted from now; `None` where nothing of it is given.
    pub fn when(&self, now: Timestamp) -> Option<When> {
        if let Some(pattern) = self.cron {
            let timezone = self.timezone.map_or_else(|| "UTC".into(), Clone::clone);
            return Some(When::Cron { pattern: pattern.clone(), timezone });
        }
        if let Some(interval_ms) = self.interval_ms {
            return Some(When::Interval { interval_ms, from: now });
        }
        if let Some(at) = self.at {
            return Some(When::At { at });
        }
        self.on_event.cloned().map(When::Event)
    }
}

fn check_event(on: &OnEvent) -> Option<FieldError> {
    if on.parts().is_none() {
        let names = StreamType::ALL.into_iter().flat_map(|stream| {
            Event::types(stream).iter().map(move |(name, _)| format!("{stream}.{name}"))
        });
        let names: Vec<String> = names.collect();
        let shown: String = on.kind.chars().take(64).collect();
        let near = nearest(&shown, names.iter().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let text = format!("there is no event type `{shown}`{hint}");
        return Some(FieldError::new("/on_event/type", "unknown_value", text));
    }
    let text = Condition::parse(on.filter.as_deref()?, "event").err()?;
    Some(FieldError::new("/on_event/filter", "invalid_expression", text))
}

/// Checks a template for a schedule that fires on events, or does not; `None`: not known.
pub(super) fn check_template(task: &Json, on_event: Option<bool>) -> Result<(), Vec<FieldError>> {
    Template::parse(task, on_event).map(drop).map_err(|faults| {
        let within =
            |fault: FieldError| FieldError { pointer: format!("/task{}", fault.pointer), ..fault };
        faults.into_iter().map(within).collect()
    })
}
