//! A task in a handler's hands.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::task::{Assignment, ProgressTask};
use domain::{Json, StreamType};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::journal::Journal;
use crate::logs::{LogLine, Logs};
use crate::notice::{Notice, Notices};
use crate::wire::{Ask, Wire, accepted};
use crate::{Error, Verdict};

/// Does the work of an agent.
pub trait Handler: Send + Sync + 'static {
    /// Works on one task; up to `slots` of them run at once.
    ///
    /// It should end soon after [`Work::stopped`]: the lease is lost or the agent ends, and
    /// what it says then no longer counts.
    fn handle(&self, work: Work) -> impl Future<Output = Verdict> + Send;
}

/// A task, and what its handler can do beside answering.
#[derive(Clone)]
pub struct Work {
    assignment: Arc<Assignment>,
    stop: CancellationToken,
    shared: Shared,
}

/// What the works of one agent share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub agent_name: Arc<str>,
    pub wire: Wire,
    pub logs: Logs,
    pub notices: Notices,
    pub progress_seq: Arc<AtomicU64>,
    pub generation: Option<u64>,
    pub journal: Option<Journal>,
}

/// How long a word of progress is tried for: the next one is newer anyway.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(5);

impl Work {
    pub(crate) fn new(
        assignment: Arc<Assignment>,
        stop: CancellationToken,
        shared: Shared,
    ) -> Self {
        Self { assignment, stop, shared }
    }

    /// The task as it was handed over.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The agent's name.
    pub fn agent_name(&self) -> &str {
        &self.shared.agent_name
    }

    /// The agent's id.
    pub fn agent_id(&self) -> domain::AgentId {
        self.shared.wire.agent()
    }

    /// Waits until the work is no longer wanted.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Tells that the work gets on, without a word of what it does: `progress_seq` of the
    /// next heartbeat is greater. What works and never says so counts as hanging.
    pub fn gets_on(&self) {
        self.shared.progress_seq.fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes a line of the task's log; never waits, and drops what is too much.
    pub fn log(&self, stream: &'static str, line: &str) {
        self.gets_on();
        (self.shared.notices)(Notice::Line(&self.assignment, line));
        self.shared.logs.push(LogLine {
            task_id: self.assignment.task_id,
            attempt: self.assignment.attempt,
            generation: self.shared.generation,
            stream,
            line: line.to_owned(),
        });
    }

    /// Tells how far it is: 0 to 100, a text for people, data for programs.
    ///
    /// With a journal, what gets no answer is kept and told later.
    ///
    /// # Errors
    /// When nobody answers, or the lease is lost.
    pub async fn progress(
        &self,
        percent: Option<f64>,
        message: Option<String>,
        data: Json,
    ) -> Result<(), Error> {
        self.gets_on();
        let lease_token = self.assignment.lease.token;
        let body = ProgressTask { lease_token, percent, message, data };
        let ask = Ask {
            kind: StreamType::Task,
            id: self.assignment.task_id.0,
            command: "progress",
            command_id: Uuid::new_v4(),
            body: &body,
            traceparent: self.assignment.traceparent.as_deref(),
            patience: PROGRESS_PATIENCE,
        };
        let frame = ask.frame();
        let error = match self.shared.wire.deliver(&frame, PROGRESS_PATIENCE).await {
            Ok(outcome) => return accepted("task progress", outcome).map(|_| ()),
            Err(error) => error,
        };
        if let (Error::Unanswered { .. }, Some(journal)) = (&error, &self.shared.journal) {
            let command_id = frame.command_id;
            if journal.keep(frame).await {
                journal.leave(command_id);
                return Ok(());
            }
        }
        Err(error)
    }
}
