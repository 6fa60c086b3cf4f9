//! Log lines of running tasks, on their way to `….agent.<id>.log`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::frame::cut_line;
use domain::{Json, TaskId};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::transport::Said;
use crate::wire::Wire;

/// A line as it is published.
#[derive(Debug, Serialize)]
pub(crate) struct LogLine {
    pub task_id: TaskId,
    pub attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// `stderr`, or what an SDK's handler calls its own.
    pub stream: &'static str,
    pub line: String,
}

/// Lines that wait for the wire; what exceeds it is dropped and counted.
const WAITING: usize = 512;
/// A command that prints for ever must not fill the network.
const LINES_PER_SECOND: u32 = 500;

/// Where lines are dropped off, without waiting.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    lines: mpsc::Sender<LogLine>,
    dropped: Arc<AtomicU64>,
}

impl Logs {
    pub(crate) fn new(wire: Wire) -> (Self, tokio::task::JoinHandle<()>) {
        let (lines, waiting) = mpsc::channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let publisher = tokio::spawn(publish(wire, waiting, Arc::clone(&dropped)));
        (Self { lines, dropped }, publisher)
    }

    pub(crate) fn push(&self, line: LogLine) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn publish(wire: Wire, mut waiting: mpsc::Receiver<LogLine>, dropped: Arc<AtomicU64>) {
    let mut window = Instant::now();
    let mut sent = 0;
    while let Some(mut line) = waiting.recv().await {
        if window.elapsed() >= Duration::from_secs(1) {
            (window, sent) = (Instant::now(), 0);
        }
        if sent >= LINES_PER_SECOND {
            dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        sent += 1;
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            line.line = format!("[{missing} lines left out]\n{}", line.line);
        }
        line.line = cut_line(&line.line);
        wire.say(Said::Log(Json::of(&line))).await;
    }
}
