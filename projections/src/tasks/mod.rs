//! Tasks as readers see them: one row per task, for the lists, the dead letters and
//! the queues' depths.
//!
//! Invariants: `agent_id` names who has the task or had it last before its end, and is
//! absent while it waits; `lease_expires_at` stands exactly while a lease runs; the
//! lease's token is nobody's business but its holder's and is not kept.

mod dead;
mod fold;
mod query;
mod rollup;
mod text;
mod view;

pub use dead::{DeadAction, DeadFilter, DeadLetterWork, DeadLetters};
pub use fold::{Escalation, Review, TaskRow, Tasks};
pub use query::TaskFilter;
pub(crate) use query::{Asked as TaskPage, BY_ID};
pub use rollup::{Part, RollUp};
pub use text::TaskText;
pub use view::TaskView;

use domain::values::Labels;

/// The words by which labels are found: each word, or each name and `name=value`.
pub(crate) fn label_terms(labels: &Labels) -> Vec<String> {
    match labels {
        Labels::Words(words) => words.clone(),
        Labels::Pairs(pairs) => pairs
            .iter()
            .flat_map(|(name, value)| [name.clone(), format!("{name}={value}")])
            .collect(),
    }
}

/// The lower-case text that `q` looks into; a prefix of long ones is enough to find them.
pub(crate) fn search_text(title: &str, more: Option<&str>) -> String {
    /// Characters of the longer text that are looked into.
    const LOOKED_INTO: usize = 2_000;
    let mut text = title.to_lowercase();
    if let Some(more) = more {
        text.push('\n');
        text.extend(more.chars().take(LOOKED_INTO).flat_map(char::to_lowercase));
    }
    text
}
