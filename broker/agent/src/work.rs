//! A task in a handler's hands.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::task::{Assignment, ProgressTask};
use domain::{Json, StreamType};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::logs::{Line, Logs};
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
    agent_name: Arc<str>,
    stop: CancellationToken,
    wire: Wire,
    logs: Logs,
    notices: Notices,
    progress_seq: Arc<AtomicU64>,
}

/// How long a word of progress is tried for: the next one is newer anyway.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(5);

impl Work {
    pub(crate) fn new(
        assignment: Arc<Assignment>,
        agent_name: Arc<str>,
        stop: CancellationToken,
        wire: Wire,
        (logs, notices): (Logs, Notices),
        progress_seq: Arc<AtomicU64>,
    ) -> Self {
        Self { assignment, agent_name, stop, wire, logs, notices, progress_seq }
    }

    /// The task as it was handed over.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The agent's name.
    pub fn agent_name(&self) -> &str {
        &self.agent_name
    }

    /// The agent's id.
    pub fn agent_id(&self) -> domain::AgentId {
        self.wire.agent()
    }

    /// Waits until the work is no longer wanted.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Publishes a line of the task's log; never waits, and drops what is too much.
    pub fn log(&self, stream: &'static str, line: &str) {
        self.progress_seq.fetch_add(1, Ordering::Relaxed);
        (self.notices)(Notice::Line(&self.assignment, line));
        self.logs.push(Line {
            task_id: self.assignment.task_id,
            attempt: self.assignment.attempt,
            stream,
            line: line.to_owned(),
        });
    }

    /// Tells how far it is: 0 to 100, a text for people, data for programs.
    ///
    /// # Errors
    /// When nobody answers, or the lease is lost.
    pub async fn progress(
        &self,
        percent: Option<f64>,
        message: Option<String>,
        data: Json,
    ) -> Result<(), Error> {
        self.progress_seq.fetch_add(1, Ordering::Relaxed);
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
        accepted("task progress", self.wire.ask(&ask).await?).map(|_| ())
    }
}
