//! What would have happened, as an operation: `time.fork`.
//!
//! Nothing here but [`Log::scan`] touches the outside, and that reads: neither the errand's
//! executor nor any client is handed on. What decides is the real scheduler, into memory.

use commands::fork::{ForkNotes, ForkReport};
use commands::{Boxed, Errand, Work};
use domain::fork::ForkRequest;
use domain::operation::OperationProgress;
use domain::{Code, Json, Problem, TenantId};
use store::{Log, StoreError};
use uuid::Uuid;

/// The kind of operation that this carries out; its input is a [`ForkRequest`].
pub const FORK: &str = "time.fork";

/// Events between two words of progress.
const STEP: u64 = 20_000;

/// Why there is no fork.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] StoreError),
    /// The question makes no sense for this log.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
}

/// Tells a stretch of the log once more, with what is asked to be different; the stretch ends
/// at `head` at the latest.
///
/// The log is read twice from its start to the end of the stretch; `progress` is told the
/// events done and their number. Kept in memory: the tasks that are open, each run of a task
/// in the stretch (some 200 bytes), and where decisions are made once more all of them (some
/// 500 bytes each).
///
/// # Errors
/// When the log cannot be read, or the request names what was not there.
pub async fn fork(
    log: &Log,
    id: Uuid,
    tenant: &TenantId,
    asked: ForkRequest,
    head: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<ForkReport, ForkError> {
    let refused = |problem| ForkError::Refused(Box::new(problem));
    let to = asked.end(head).map_err(refused)?;
    let mut notes = ForkNotes::new(id, tenant.clone(), asked, to);
    let (mut done, mut told) = (0, 0);
    let mut tell = |events: usize| {
        done += events as u64;
        if done >= told + STEP || done == 2 * to {
            told = done;
            progress(done, 2 * to);
        }
    };
    let mut pages = log.scan(0, to);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        page.iter().for_each(|event| notes.note(event));
        tell(page.len());
        tokio::task::yield_now().await;
    }
    let mut fork = notes.end();
    let mut pages = log.scan(0, to);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for event in &page {
            fork.apply(event).map_err(refused)?;
        }
        tell(page.len());
        // Cancelling drops this future here.
        tokio::task::yield_now().await;
    }
    fork.finish().map_err(refused)
}

/// Carries out `time.fork`.
#[derive(Debug, Clone)]
pub struct ForkWork {
    log: Log,
}

impl ForkWork {
    /// Reads a log through its pool.
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

impl Work for ForkWork {
    fn takes(&self, kind: &str) -> bool {
        kind == FORK
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        // Its executor is dropped before the first event is read.
        let Errand { id, tenant, position, progress, accepted, executor: _, .. } = errand;
        // What stood in the log when it was asked for, also where it begins again.
        let head = position.saturating_sub(1);
        let log = self.log.clone();
        Box::pin(async move {
            let asked: ForkRequest = accepted
                .input
                .read()
                .map_err(|error| Problem::new(Code::InvalidBody, format!("input: {error}")))?;
            let tell = move |done, total| {
                let message = "telling the log once more".into();
                // Whoever is too slow to listen misses a word; the next one comes.
                let _ = progress.try_send(OperationProgress { done, total: Some(total), message });
            };
            match fork(&log, id, &tenant, asked, head, tell).await {
                Ok(report) => Ok(Json::of(&report)),
                Err(ForkError::Refused(problem)) => Err(*problem),
                Err(ForkError::Log(error)) => {
                    tracing::warn!(operation = %id, %error, "a fork cannot be made");
                    Err(Problem::new(Code::Unavailable, "the log cannot be read at present"))
                }
            }
        })
    }
}
