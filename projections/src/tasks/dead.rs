//! Dead letters by filter: which ones, and what is done about all of them.

use chrono::{DateTime, Utc};
use domain::task::{TaskRef, TaskState};
use domain::{FieldError, Json, TaskId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::query::{listing, text, with_parts};
use super::{TaskFilter, TaskRow, TaskText};
use crate::engine::read_row;
use crate::query::{FIRST, ListKind, position_of};
use crate::tasks::Tasks;
use crate::{Answer, Cursor, Model, Queries, QueryError};

/// Rows looked at in one query; each is a snapshot of its own.
const PAGE: usize = 500;
/// Tasks that one filter may name.
const MAX_IDS: usize = 1_000;
/// Longest text of a filter.
const MAX_TEXT: usize = 1_024;

/// Which dead letters; what is absent does not narrow it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadFilter {
    /// One of these, each by its id or its number; at most 1,000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskRef>,
    /// `failed` or `dead`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whose last error has this class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Whose last error contains this text, in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// That ended before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_before: Option<DateTime<Utc>>,
    /// That ended at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_after: Option<DateTime<Utc>>,
}

/// What is done about dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadAction {
    /// Another life.
    Requeue,
    /// Off the lists.
    Discard,
}

impl DeadAction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Requeue, Self::Discard];

    /// The command that each task gets.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Requeue => "requeue",
            Self::Discard => "discard",
        }
    }

    /// The event that tells that it happened, as the audit has it.
    pub const fn event(self) -> &'static str {
        match self {
            Self::Requeue => "task.requeued",
            Self::Discard => "task.archived",
        }
    }

    /// The kind of operation that does it to all that a filter takes.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Requeue => "dead_letters.requeue",
            Self::Discard => "dead_letters.discard",
        }
    }
}

/// What such an operation is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterWork {
    /// Which dead letters; `{}` means all of them.
    pub filter: DeadFilter,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is to be different this time: the fields of an update. Not for a discard.
    #[serde(skip_serializing_if = "Json::is_null")]
    #[schema(value_type = Option<domain::task::UpdateTask>)]
    pub changes: Json,
}

impl DeadLetterWork {
    /// The body of the command that each task gets.
    pub fn body(&self) -> String {
        // As text: a payload among the changes keeps the order of its members.
        let reason = self.reason.as_ref().map(|reason| ("reason", Json::of(reason)));
        let changes = (!self.changes.is_null()).then(|| ("changes", self.changes.clone()));
        let fields = reason.into_iter().chain(changes);
        let fields: Vec<_> =
            fields.map(|(name, value)| format!("\"{name}\":{}", value.as_str())).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl DeadFilter {
    /// The fields that no dead letter can have or that are too long.
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, message: &str| {
            let place = format!("/filter/{field}");
            faults.push(FieldError::new(place, "invalid_value", message));
        };
        if self.ids.len() > MAX_IDS {
            fault("ids", "at most 1,000 tasks can be named");
        }
        if self.state.is_some_and(|state| !is_dead(state)) {
            fault("state", "dead letters are `failed` or `dead`");
        }
        let texts = [
            ("queue", &self.queue),
            ("type", &self.kind),
            ("class", &self.class),
            ("error", &self.error),
        ];
        for (field, text) in texts {
            let unfit = |text: &String| text.len() > MAX_TEXT || text.contains('\0');
            if text.as_ref().is_some_and(unfit) {
                fault(field, "at most 1,024 bytes and no NUL can be looked for");
            }
        }
        if let (Some(after), Some(before)) = (self.dead_after, self.dead_before)
            && after >= before
        {
            fault("dead_before", "nothing ends after `dead_after` and before `dead_before`");
        }
        faults
    }

    /// Whether it takes a dead letter.
    fn takes(&self, id: TaskId, row: &TaskRow) -> bool {
        let named = |given: &TaskRef| match given {
            TaskRef::Id(given) => *given == id,
            TaskRef::Number(number) => *number == row.number,
        };
        // Nothing changes a task that has ended without reviving or archiving it.
        let ended = row.updated_at;
        is_dead(row.state)
            && (self.ids.is_empty() || self.ids.iter().any(named))
            && self.state.is_none_or(|state| state == row.state)
            && self.queue.as_ref().is_none_or(|queue| *queue == row.queue)
            && self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
            && (self.class.is_none() || self.class == row.error_class)
            && self.dead_before.is_none_or(|before| ended < before)
            && self.dead_after.is_none_or(|after| ended >= after)
            && self.error.as_ref().is_none_or(|text| mentions(&row.error, text))
    }
}

fn is_dead(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::Dead)
}

/// Whether an error contains a text; JSON's escapes are not in the way.
fn mentions(error: &Json, text: &str) -> bool {
    let plain: Option<String> = error.read().ok();
    let error = plain.unwrap_or_else(|| error.as_str().to_owned());
    error.to_lowercase().contains(&text.to_lowercase())
}

/// The dead letters that a filter takes.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    /// Each with the version that it was seen at, newest task first.
    pub tasks: Vec<(TaskId, u64)>,
    /// The first of them in full.
    pub sample: Vec<TaskText>,
}

impl Queries {
    /// The dead letters that a filter takes and that ended before a position; the first
    /// `sample` of them in full.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn dead_letters_of(
        &self,
        tenant: &TenantId,
        filter: &DeadFilter,
        before: u64,
        sample: usize,
    ) -> Result<Answer<DeadLetters>, QueryError> {
        let narrowed = TaskFilter {
            states: filter.state.map_or(vec![TaskState::Failed, TaskState::Dead], |one| vec![one]),
            queue: filter.queue.clone(),
            ..TaskFilter::default()
        };
        let mut found = DeadLetters::default();
        let (mut place, mut behind) = (None, None);
        loop {
            let page = with_parts(listing(tenant, &narrowed, PAGE, behind));
            let (seen, rows) =
                self.select(tenant, &[Model::Tasks], page.ordered("p.created DESC")).await?;
            let seen = *place.get_or_insert(seen);
            for row in &rows {
                let id = TaskId(row.try_get(FIRST)?);
                let read = read_row::<Tasks>(row.try_get(FIRST + 1)?);
                let task = read.map_err(|error| QueryError::Row(error.to_string()))?;
                if task.position < before && filter.takes(id, &task) {
                    if found.sample.len() < sample {
                        found.sample.push(text(row)?);
                    }
                    found.tasks.push((id, task.version));
                }
            }
            // One more than a page was asked for, to see whether there is more.
            let Some(last) = rows.last().filter(|_| rows.len() > PAGE) else {
                return Ok(seen.answer(found));
            };
            behind = Some(Cursor::at(ListKind::DeadLetters, position_of(last, FIRST + 2)?));
        }
    }
}

#[cfg(test)]
#[path = "dead_tests.rs"]
mod tests;
