//! Where a task may run, and where it had better run.
//!
//! The terms are those of schedulers in general: what is *required* and *excluded* is
//! hard, what is *preferred* counts points, and a *sticky* task waits a while for the
//! agent that knows the matter already.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command::MAX_LEASE_MS;
use crate::values::Check;

/// Most terms of a kind.
const MAX_TERMS: usize = 16;
/// Most values of a term.
const MAX_VALUES: usize = 32;
/// Largest number of points of a preference, for or against.
const MAX_POINTS: i32 = 1_000;
/// Largest cost of an agent.
pub const MAX_COST: u32 = 1_000_000;

/// Where a task may run, and where it had better run.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(deny_unknown_fields, default)]
pub struct Affinity {
    /// An agent must have all of these labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<LabelTerm>,
    /// An agent must have none of these labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<LabelTerm>,
    /// Labels that count for an agent, or against it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferred: Vec<Preference>,
    /// Back to an agent that knows the matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Never to these agents: a review not to the author, a retry not to who failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apart_from: Vec<Kin>,
    /// No agent that costs more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u32>,
}

/// A label that an agent has or has not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelTerm {
    /// The label's name, or the whole of a label that is a word.
    pub label: String,
    /// One of these values; empty: any, or none.
    #[serde(default, rename = "in", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A label that counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// The label's name, or the whole of a label that is a word.
    pub label: String,
    /// One of these values; empty: any, or none.
    #[serde(default, rename = "in", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Points for an agent that has it, -1,000 to 1,000. A hundred outweigh an agent's
    /// hands being full as against being empty.
    pub points: i32,
}

/// Another agent in a task's life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kin {
    /// Who has the parent task, or had it last.
    Parent,
    /// Who had this task last.
    Previous,
}

/// Back to an agent that knows the matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// Which agent.
    pub to: Kin,
    /// Any agent that has the same value of this label will do: `node`, `zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How long the task waits for it before any other may have it, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

impl Affinity {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it looks at a task's parent.
    pub fn asks_for_parent(&self) -> bool {
        self.apart_from.contains(&Kin::Parent)
            || self.sticky.as_ref().is_some_and(|sticky| sticky.to == Kin::Parent)
    }

    /// The limits, as fields below `at`.
    pub(super) fn check(&self, mut check: Check, at: &str) -> Check {
        let most = format!("at most {MAX_TERMS} entries");
        let lists = [
            ("required", self.required.len()),
            ("excluded", self.excluded.len()),
            ("preferred", self.preferred.len()),
            ("apart_from", self.apart_from.len()),
        ];
        for (name, length) in lists {
            check = check.rule(length <= MAX_TERMS, &format!("{at}/{name}"), "too_many", &most);
        }
        for (name, terms) in [("required", &self.required), ("excluded", &self.excluded)] {
            for (nth, term) in terms.iter().enumerate().take(MAX_TERMS) {
                let at = format!("{at}/{name}/{nth}");
                check = check_label(check, &at, &term.label, &term.values);
            }
        }
        for (nth, term) in self.preferred.iter().enumerate().take(MAX_TERMS) {
            let at = format!("{at}/preferred/{nth}");
            check = check_label(check, &at, &term.label, &term.values).rule(
                (-MAX_POINTS..=MAX_POINTS).contains(&term.points),
                &format!("{at}/points"),
                "out_of_range",
                "`points` must lie between -1000 and 1000",
            );
        }
        if let Some(sticky) = &self.sticky {
            check = check.range(&format!("{at}/sticky/wait_ms"), sticky.wait_ms, 0, MAX_LEASE_MS);
            if let Some(label) = &sticky.label {
                check = check.text(&format!("{at}/sticky/label"), label, 1, 128);
            }
        }
        let cost = self.max_cost.unwrap_or_default();
        check.range(&format!("{at}/max_cost"), cost.into(), 0, MAX_COST.into())
    }
}

fn check_label(mut check: Check, at: &str, label: &str, values: &[String]) -> Check {
    let most = format!("at most {MAX_VALUES} entries");
    check = check.text(&format!("{at}/label"), label, 1, 128).rule(
        values.len() <= MAX_VALUES,
        &format!("{at}/in"),
        "too_many",
        &most,
    );
    for (nth, value) in values.iter().enumerate().take(MAX_VALUES) {
        check = check.text(&format!("{at}/in/{nth}"), value, 0, 256);
    }
    check
}
