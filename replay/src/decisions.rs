//! The scheduler's decisions made once more: `decisions.verify`.

use commands::{Boxed, DecisionReport, Decisions, Errand, Work};
use domain::operation::OperationProgress;
use domain::{Code, Json, Problem, TenantId};
use store::{Log, StoreError};

/// The kind of operation that this carries out; the decisions of its tenant are reported.
pub const VERIFY_DECISIONS: &str = "decisions.verify";

/// Makes every decision of the scheduler once more, and reports those of a tenant.
///
/// The log is read twice, up to the head at the start; `progress` is told the events done
/// and their number. The decisions of the whole log are kept in memory meanwhile, some
/// 500 bytes each.
///
/// # Errors
/// When the log cannot be read.
pub async fn verify_decisions(
    log: &Log,
    tenant: &TenantId,
    mut progress: impl FnMut(u64, u64),
) -> Result<DecisionReport, StoreError> {
    let head = log.head().await?.position;
    let mut decisions = Decisions::of(tenant.clone());
    let mut pages = log.scan(0, head);
    let mut done = 0;
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        page.iter().for_each(|event| decisions.note(event));
        done += page.len() as u64;
        progress(done, 2 * head);
        tokio::task::yield_now().await;
    }
    let mut follower = decisions.follow();
    let mut pages = log.scan(0, head);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        page.iter().for_each(|event| follower.apply(event));
        done += page.len() as u64;
        progress(done, 2 * head);
        tokio::task::yield_now().await;
    }
    Ok(follower.finish())
}

/// Carries out `decisions.verify`.
#[derive(Debug, Clone)]
pub struct VerifyDecisionsWork {
    log: Log,
}

impl VerifyDecisionsWork {
    /// Reads a log through its pool.
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

impl Work for VerifyDecisionsWork {
    fn takes(&self, kind: &str) -> bool {
        kind == VERIFY_DECISIONS
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let log = self.log.clone();
        Box::pin(async move {
            let Errand { id, tenant, progress, .. } = errand;
            let tell = move |done, total| {
                let message = "deciding once more".into();
                // Whoever is too slow to listen misses a word; the next one comes.
                let _ = progress.try_send(OperationProgress { done, total: Some(total), message });
            };
            match verify_decisions(&log, &tenant, tell).await {
                Ok(report) => Ok(Json::of(&report)),
                Err(error) => {
                    tracing::warn!(operation = %id, %error, "decisions cannot be verified");
                    Err(Problem::new(Code::Unavailable, "the log cannot be read at present"))
                }
            }
        })
    }
}
