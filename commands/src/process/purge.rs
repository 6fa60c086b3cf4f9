//! Purges: cancels what waits in a queue, as the operation `queue.purge`.
//!
//! What waits is taken from the scheduler, which runs in the same process. A task that
//! an agent has got meanwhile stays with it: each cancellation expects the version that
//! was seen. A second run, after a crash, repeats the ids of the first.

use std::sync::Arc;

use domain::operation::OperationProgress;
use domain::task::{Reason, TaskCommand};
use domain::{Code, Json, Problem, Status, TaskId};
use futures::{StreamExt, stream};

use super::perform::Session;
use super::{SchedulerHandle, command_id};
use crate::{Boxed, CommandEnvelope, Errand, Work};

/// The kind of operation; its resource names the queue.
pub const PURGE: &str = "queue.purge";

/// Who the commands are from.
const ACTOR: &str = "manager:purge";
/// Cancellations under way at once.
const AT_ONCE: usize = 64;
/// Looks at the queue: tasks that changed under the first one are found by the next.
const ROUNDS: usize = 5;

/// Carries purges out.
pub(super) struct PurgeWork(pub Arc<SchedulerHandle>);

impl Work for PurgeWork {
    fn takes(&self, kind: &str) -> bool {
        kind == PURGE
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let session = handle.session().await.ok_or_else(|| {
                Problem::new(Code::Unavailable, "no scheduler runs in this process at present")
            })?;
            purge(&session, &errand).await
        })
    }
}

async fn purge(session: &Session, errand: &Errand) -> Result<Json, Problem> {
    let Errand { id: operation, tenant, position, accepted, progress, .. } = errand;
    let position = *position;
    let queue = accepted.resource.id.as_str();
    let given: Option<Reason> = accepted.input.read().unwrap_or_default();
    let said = given.and_then(|given| given.reason);
    let reason = said.unwrap_or_else(|| format!("queue {queue} was purged"));
    // What was accepted before the operation is seen before it begins.
    session.folded_to(position).await;
    let mut cancelled = 0u64;
    for _ in 0..ROUNDS {
        let waiting = session.scheduler.lock().waiting_in(tenant, queue, position);
        if waiting.is_empty() {
            break;
        }
        let total = Some(cancelled + waiting.len() as u64);
        let cancel = |(task, version): (TaskId, u64)| {
            let reason = reason.clone();
            let tenant = tenant.clone();
            async move {
                let id = command_id(task.0, ACTOR, format_args!("{operation}:{version}"));
                let command = TaskCommand::Cancel(Reason { reason: Some(reason) }.into());
                let command = CommandEnvelope {
                    expected_version: Some(version),
                    correlation_id: Some(*operation),
                    causation_position: Some(position),
                    ..CommandEnvelope::new(tenant, task.0, command, id, ACTOR)
                };
                let outcome = session.execute(&command, u32::MAX).await;
                let decision = outcome.decision();
                (decision.status == Status::Accepted, decision.position)
            }
        };
        let mut seen = 0;
        let mut under_way = stream::iter(waiting).map(cancel).buffer_unordered(AT_ONCE);
        while let Some((done, at)) = under_way.next().await {
            seen = seen.max(at);
            cancelled += u64::from(done);
            let message = format!("cancelling what waits in {queue}");
            // Whoever is too slow to listen misses a word; the next one comes.
            let _ = progress.try_send(OperationProgress { done: cancelled, total, message });
        }
        session.folded_to(seen).await;
    }
    let left = session.scheduler.lock().waiting_in(tenant, queue, position).len();
    Ok(Json::of(&serde_json::json!({ "queue": queue, "cancelled": cancelled, "left": left })))
}
