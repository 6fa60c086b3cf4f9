//! What an agent tells whoever runs it.

use std::sync::Arc;
use std::time::Duration;

use domain::task::Assignment;
use domain::{AgentId, TaskId};

/// Something that happened to a running agent, for a log or a screen.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// It is registered and takes work.
    Ready {
        /// Its id.
        id: AgentId,
        /// Its name.
        name: &'a str,
    },
    /// Work on a task begins.
    Started(&'a Assignment),
    /// A line of the running task's log.
    Line(&'a Assignment, &'a str),
    /// The server has our answer, or we gave up answering.
    Answered {
        /// The task.
        task: &'a Assignment,
        /// `completed`, `failed`, `released` or `unanswered`.
        how: &'static str,
        /// How long it took.
        took: Duration,
        /// For people, where there is more to say.
        detail: Option<&'a str>,
    },
    /// The task is another's by now, or nobody's; work on it stops.
    Lost(&'a Assignment),
    /// No new tasks; it ends when the running ones have.
    Draining {
        /// How many there are.
        running: usize,
    },
    /// Claims get no answer or a refusal; it goes on trying.
    Waiting(&'a str),
    /// The answer for a task is kept on disk until the server can be told.
    Kept(&'a Assignment),
    /// The server has an answer that was kept.
    Delivered {
        /// The task.
        task_id: TaskId,
        /// The command that was kept: `complete`, `fail`, `release`, `progress`.
        command: &'a str,
        /// Why it changed nothing: the task is another's by now.
        refused: Option<&'a str>,
    },
    /// It was told to look for work at once.
    Woken,
}

/// Where notices go. Called on the agent's own tasks: it must not block.
pub(crate) type Notices = Arc<dyn Fn(Notice<'_>) + Send + Sync>;
