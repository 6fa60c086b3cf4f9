//! The rules about a task's place among others: its parent, and what it depends on.
//!
//! A task knows its own links alone, so these rules are given what the processor found of
//! the others. It is the one place through which every command passes, and it decides
//! commands that link tasks one after the other: no two of them can close a cycle that
//! neither saw. Invariants: a parent existed before its subtasks, so no task is its own
//! ancestor; no task waits for itself, directly or through others.

use std::collections::{HashMap, VecDeque};

use super::{Task, TaskCommand, TaskState};
use crate::decide::Refusal;
use crate::ids::TaskId;
use crate::problem::{Code, FieldError};

/// Tasks that are looked at for a cycle; beyond that the link is refused. A chain of that
/// length waits for one task: nobody follows it, and `why` could not show it.
pub const MAX_WALK: usize = 1_000;
/// Subtasks of one task that can be shown with it.
pub const MAX_SUBTASKS: u32 = 1_000;

/// How far tasks may be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubtaskLimits {
    /// Generations below a task that has no parent.
    pub depth: u32,
    /// Subtasks of one task, whatever became of them.
    pub per_task: u32,
}

impl Default for SubtaskLimits {
    fn default() -> Self {
        Self { depth: 8, per_task: MAX_SUBTASKS }
    }
}

/// What a command says of the task's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links<'a> {
    /// The parent of a new task.
    pub parent: Option<TaskId>,
    /// What it is to depend on; `None` where that stays.
    pub depends_on: Option<&'a [TaskId]>,
    /// Where the command says so: the pointer to the object with these fields.
    pub at: &'static str,
}

impl TaskCommand {
    /// The links that this command makes or changes.
    pub fn links(&self) -> Option<Links<'_>> {
        let (parent, depends_on, at) = match self {
            Self::Submit(new) => {
                (new.parent_id, Some(new.depends_on.as_slice()).filter(|on| !on.is_empty()), "")
            }
            Self::Update(changes) => (None, changes.depends_on.as_deref(), ""),
            Self::Requeue(again) => {
                let changes = again.changes.as_ref();
                (None, changes.and_then(|changes| changes.depends_on.as_deref()), "/changes")
            }
            Self::Assign(_)
            | Self::Start(_)
            | Self::Progress(_)
            | Self::Block(_)
            | Self::Unblock(_)
            | Self::SubmitForReview(_)
            | Self::Approve(_)
            | Self::Reject(_)
            | Self::Complete(_)
            | Self::Fail(_)
            | Self::Extend(_)
            | Self::Release(_)
            | Self::Cancel(_)
            | Self::Reassign(_)
            | Self::Unassign(_)
            | Self::Discard(_)
            | Self::Archive(_)
            | Self::ExpireLease(_)
            | Self::MarkOverdue(_)
            | Self::Escalate(_) => return None,
        };
        (parent.is_some() || depends_on.is_some()).then_some(Links { parent, depends_on, at })
    }
}

fn refused(code: Code, field: &str, kind: &str, message: String) -> Refusal {
    let errors = vec![FieldError::new(format!("/{field}"), kind, message.clone())];
    Refusal { errors, ..Refusal::new(code, message) }
}

/// Whether a new task may be a part of another one, which has so many parts already.
///
/// # Errors
/// When there is no such parent, it has ended, or a limit is reached.
pub fn check_parent(
    task: TaskId,
    parent_id: TaskId,
    parent: Option<&Task>,
    parts: u64,
    limits: SubtaskLimits,
) -> Result<(), Refusal> {
    let no = |kind, message| Err(refused(Code::NotPossible, "parent_id", kind, message));
    if task == parent_id {
        return Err(cycle("parent_id", &[task, task]));
    }
    let known = parent.and_then(|parent| Some((parent, parent.state?)));
    let Some((parent, state)) = known else {
        return no("unknown", format!("there is no task {parent_id} to be a part of"));
    };
    let ended = state.is_final().then_some(state.as_str());
    if let Some(state) = ended.or(parent.archived.then_some("archived")) {
        return no("ended", format!("task {parent_id} is {state} and takes no more subtasks"));
    }
    let most = limits.depth;
    if parent.depth >= most {
        let message = format!("subtasks go {most} deep, and task {parent_id} is that deep already");
        return no("too_deep", message);
    }
    let most = limits.per_task;
    if parts >= u64::from(most) {
        let message = format!("task {parent_id} has {most} subtasks, which is the limit");
        return no("too_many", message);
    }
    Ok(())
}

/// Whether a task may depend on others. `waiting` has, for a task, those that depend on it,
/// and whether all of them were found.
///
/// # Errors
/// When it would wait for itself, or when more tasks wait for it than can be looked at.
pub fn check_dependencies<'a>(
    task: TaskId,
    depends_on: &[TaskId],
    waiting: impl Fn(TaskId) -> (&'a [TaskId], bool),
) -> Result<(), Refusal> {
    // From the task against the arrows: whoever is met waits for it.
    let mut next: HashMap<TaskId, TaskId> = HashMap::new();
    let mut queue = VecDeque::from([task]);
    let mut whole = true;
    while let Some(met) = queue.pop_front() {
        if depends_on.contains(&met) {
            let mut path = vec![task, met];
            let mut at = met;
            while at != task {
                at = next.get(&at).copied().unwrap_or(task);
                path.push(at);
            }
            return Err(cycle("depends_on", &path));
        }
        if next.len() > MAX_WALK {
            break;
        }
        let (those, all) = waiting(met);
        whole &= all;
        for waits in those {
            if *waits != task && !next.contains_key(waits) {
                next.insert(*waits, met);
                queue.push_back(*waits);
            }
        }
    }
    if whole && next.len() <= MAX_WALK {
        return Ok(());
    }
    let message = format!("more than {MAX_WALK} tasks wait for this one: too many to be looked at");
    Err(refused(Code::NotPossible, "depends_on", "too_deep", message))
}

/// The refusal of a link that would close a circle; the path leads from the task back to it.
fn cycle(field: &str, path: &[TaskId]) -> Refusal {
    /// Tasks that are named in the text; `path` has them all.
    const NAMED: usize = 32;
    let names = |part: &[TaskId]| part.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut words = names(path);
    if words.len() > NAMED {
        words = names(&path[..NAMED - 1]);
        words.push("…".into());
        words.extend(names(&path[path.len() - 1..]));
    }
    let refusal = refused(Code::Cycle, field, "cycle", words.join(" -> "));
    Refusal { path: path.iter().map(|id| id.0).collect(), ..refusal }
}

/// The state in which what a task depends on may be changed: it was not begun.
pub(super) fn may_be_linked_anew(state: TaskState) -> bool {
    matches!(state, TaskState::Inbox | TaskState::Queued | TaskState::Failed | TaskState::Dead)
}

/// The refusal of other dependencies for a task that does not wait for any.
pub(super) fn begun(state: TaskState) -> Refusal {
    let message = format!("a task in state {} waits for no other any more", state.as_str());
    Refusal {
        state: Some(state.as_str().into()),
        ..refused(Code::NotPossible, "depends_on", "begun", message)
    }
}
