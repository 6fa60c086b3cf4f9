//! How a queue gives its tasks out: the share of each priority, aging, and limits.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::key::LimitKey;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::{Check, Priority};

/// Most limits of one queue.
pub const MAX_LIMITS: usize = 16;
/// Largest weight of a priority or a queue.
pub const MAX_WEIGHT: u32 = 10_000;
/// Largest number in a limit.
pub const MAX_IN_LIMIT: u32 = 1_000_000;
/// Longest aging: thirty days.
const MAX_AGING_MS: u64 = 30 * 86_400_000;

/// How the priorities of a queue share it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueMode {
    /// Each gets its weight's share of what is given out.
    #[default]
    Weighted,
    /// The more urgent one always comes first.
    Strict,
}

/// The share of each priority, while tasks of it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "a field per Priority")]
pub struct Weights {
    pub critical: u32,
    pub high: u32,
    pub normal: u32,
    pub low: u32,
    pub background: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { critical: 16, high: 8, normal: 4, low: 2, background: 1 }
    }
}

impl Weights {
    /// In the order of [`Priority::ALL`].
    pub const fn all(&self) -> [u32; 5] {
        [self.critical, self.high, self.normal, self.low, self.background]
    }
}

/// How much each thing counts where several agents could have a task: points are
/// multiplied by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scoring {
    /// Against an agent: a point for each percent of its slots that is taken.
    pub load: u32,
    /// Against an agent: a point for each unit of its cost.
    pub cost: u32,
    /// The points of the task's preferred labels.
    pub preferred: u32,
    /// A hundred points for an agent that the task is sticky to.
    pub sticky: u32,
}

impl Default for Scoring {
    fn default() -> Self {
        Self { load: 1, cost: 1, preferred: 1, sticky: 1 }
    }
}

fn is_default(scoring: &Scoring) -> bool {
    *scoring == Scoring::default()
}

/// How a queue gives its tasks out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueuePolicy {
    /// How its priorities share it.
    pub mode: QueueMode,
    /// The share of each priority, where the mode is `weighted`.
    pub weights: Weights,
    /// A task that waited so long counts as one priority more urgent, and again after
    /// the same time; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aging_ms: Option<u64>,
    /// Its share beside the tenant's other queues, where tasks are pushed.
    pub weight: u32,
    /// How much each thing counts where several agents could have a task.
    #[serde(skip_serializing_if = "is_default")]
    pub scoring: Scoring,
    /// How many may run at once, and how many may begin in a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitPolicy>,
}

impl Default for QueuePolicy {
    fn default() -> Self {
        Self {
            mode: QueueMode::default(),
            weights: Weights::default(),
            aging_ms: None,
            weight: 1,
            scoring: Scoring::default(),
            limits: Vec::new(),
        }
    }
}

/// A limit per value of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitPolicy {
    /// `tenant` (all that runs of the tenant, in any queue), `queue` (all of this queue),
    /// `task.concurrency_key`, or a CEL expression over `task` whose value is the key.
    pub key: String,
    /// Tasks of one key that run at once, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// As long as fewer of a key run, its tasks go before those of the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guaranteed: u32,
    /// How many tasks of a key may be given out in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RatePolicy>,
}

/// A rate with bursts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RatePolicy {
    /// In a second, in the long run.
    pub per_s: f64,
    /// At once, after a rest.
    #[serde(default = "one")]
    pub burst: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like that")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl RatePolicy {
    /// Microseconds between two, in the long run.
    pub fn interval_us(&self) -> u64 {
        ((1e6 / self.per_s).round() as u64).max(1)
    }
}

impl QueuePolicy {
    /// Adds the faults of its fields to a check; `at` is put before their names.
    pub(crate) fn faults(&self, mut check: Check, at: &str) -> Check {
        let weights = Priority::ALL.map(Priority::as_str).into_iter().zip(self.weights.all());
        for (name, weight) in weights {
            let field = format!("{at}weights/{name}");
            check = check.range(&field, weight.into(), 1, MAX_WEIGHT.into());
        }
        check = check.range(&format!("{at}weight"), self.weight.into(), 1, MAX_WEIGHT.into());
        if let Some(aging) = self.aging_ms {
            check = check.range(&format!("{at}aging_ms"), aging, 1, MAX_AGING_MS);
        }
        let Scoring { load, cost, preferred, sticky } = self.scoring;
        for (name, factor) in
            [("load", load), ("cost", cost), ("preferred", preferred), ("sticky", sticky)]
        {
            let field = format!("{at}scoring/{name}");
            check = check.range(&field, factor.into(), 0, MAX_WEIGHT.into());
        }
        let most = format!("at most {MAX_LIMITS} limits");
        check =
            check.rule(self.limits.len() <= MAX_LIMITS, &format!("{at}limits"), "too_many", &most);
        for (index, limit) in self.limits.iter().enumerate().take(MAX_LIMITS) {
            check = limit.check(check, &format!("{at}limits/{index}/"));
            let first = self.limits.iter().position(|other| other.key == limit.key);
            check = check.rule(
                first == Some(index),
                &format!("{at}limits/{index}/key"),
                "duplicate",
                "there is a limit of this key already",
            );
        }
        check
    }
}

impl Body for QueuePolicy {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        self.faults(Check::default(), "").done()
    }
}

impl LimitPolicy {
    fn check(&self, mut check: Check, at: &str) -> Check {
        if let Err(fault) = LimitKey::parse(&self.key) {
            check = check.rule(false, &format!("{at}key"), "not_an_expression", &fault);
        }
        let most = u64::from(MAX_IN_LIMIT);
        if let Some(max) = self.max_running {
            check = check.range(&format!("{at}max_running"), max.into(), 1, most);
        }
        let ceiling = self.max_running.map_or(most, u64::from);
        check = check.range(&format!("{at}guaranteed"), self.guaranteed.into(), 0, ceiling);
        if let Some(rate) = self.rate {
            check = check
                .rule(
                    (0.000_1..=1e6).contains(&rate.per_s),
                    &format!("{at}rate/per_s"),
                    "out_of_range",
                    "`per_s` must lie between 0.0001 and 1000000",
                )
                .range(&format!("{at}rate/burst"), rate.burst.into(), 1, most);
        }
        let says = self.max_running.is_some() || self.guaranteed > 0 || self.rate.is_some();
        let needed = "one of max_running, guaranteed and rate must be given";
        check.rule(says, at.trim_end_matches('/'), "empty", needed)
    }
}
