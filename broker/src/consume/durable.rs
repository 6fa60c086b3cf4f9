//! Durable commands: pulled, decided, answered, and only then acknowledged.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use domain::{Code, Problem};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::dead::Failed;
use super::intake::{self, Decided, Delivery, Malformed};
use super::pull::{Pull, answer};
use super::{Consumer, Counters, DRAIN};
use crate::BrokerError;
use crate::envelope::{header, header_value};

/// The name under which malformed commands are recorded.
const DEAD: &str = "commands";
/// How often a command that is still being decided is kept from coming again.
const PROGRESS: Duration = Duration::from_secs(10);
/// When a message comes again that could not even be recorded.
const UNRECORDED: Duration = Duration::from_secs(5);
/// When a message comes again that was not decided before the drain's end.
const UNDECIDED: Duration = Duration::from_secs(1);
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);

/// What the tasks of messages in flight share.
struct Shared {
    consumer: Consumer,
    budget: Budget,
    tasks: TaskTracker,
    /// The processor was at its limit: nothing is pulled before this instant.
    paused: Mutex<Option<Instant>>,
    /// The drain is over: what is not decided is put back.
    halt: CancellationToken,
}

/// Serves durable commands until cancelled, then drains.
pub(super) async fn run(consumer: &Consumer, cancel: CancellationToken) {
    let shared = Arc::new(Shared {
        consumer: consumer.clone(),
        budget: Budget::new(),
        tasks: TaskTracker::new(),
        paused: Mutex::new(None),
        halt: CancellationToken::new(),
    });
    let mut failing = false;
    while !cancel.is_cancelled() {
        match serve(&shared, &cancel, &mut failing).await {
            Ok(()) => break,
            Err(error) => {
                Counters::count(&shared.consumer.counters.pull_failures);
                if !failing {
                    tracing::warn!(%error, "commands cannot be pulled; trying again");
                    failing = true;
                }
                let _ = timeout(PAUSE, cancel.cancelled()).await;
            }
        }
    }
    shared.tasks.close();
    if timeout(DRAIN, shared.tasks.wait()).await.is_err() {
        shared.halt.cancel();
        shared.tasks.wait().await;
    }
}

/// Pulls until cancelled, or until NATS fails.
async fn serve(
    shared: &Arc<Shared>,
    cancel: &CancellationToken,
    failing: &mut bool,
) -> Result<(), BrokerError> {
    let mut pull = Pull::open(&shared.consumer.client).await?;
    loop {
        if pull.idle() {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let until = shared.paused.lock().take();
            if let Some(until) = until {
                let _ = tokio::time::timeout_at(until, cancel.cancelled()).await;
                continue;
            }
            pull.request(shared.budget.free()).await?;
        }
        let Some(message) = pull.next().await? else { continue };
        if std::mem::take(failing) {
            tracing::info!("commands are pulled again");
        }
        Counters::count(&shared.consumer.counters.durable);
        // The request was for no more than there was room for, so this waits for large
        // bodies alone.
        let Some(permit) = shared.budget.wait(message.payload.len()).await else { return Ok(()) };
        take(shared, message, permit);
    }
}

/// Hands one message's commands over, in the order of messages, and leaves the rest of its
/// way to a task.
fn take(shared: &Arc<Shared>, message: jetstream::Message, permit: OwnedSemaphorePermit) {
    let shared = shared.clone();
    let consumer = &shared.consumer;
    let headers = message.headers.as_ref();
    let delivery = message.info().ok().map(|info| Delivery {
        sequence: info.stream_sequence,
        nanos: info.published.unix_timestamp_nanos(),
    });
    let read = match reply_to(&message) {
        Ok(_) => intake::read(
            &message.subject,
            headers,
            &message.payload,
            delivery,
            &consumer.tenants,
            consumer.ids,
        ),
        Err(problem) => Err(Malformed { command_id: None, stream_id: None, problem }),
    };
    let tasks = shared.tasks.clone();
    match read {
        Ok(read) => {
            let executor = consumer.executor.clone();
            let mut deciding = async move { intake::decide(executor.as_ref(), read).await }.boxed();
            // The first poll is the hand-over: here, before the next message is looked at.
            match deciding.as_mut().now_or_never() {
                Some(decided) => {
                    tasks.spawn(async move {
                        finish(&shared, &message, decided).await;
                        drop(permit);
                    });
                }
                None => {
                    tasks.spawn(async move {
                        if let Some(decided) = wait(&shared, &message, deciding).await {
                            finish(&shared, &message, decided).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
        Err(malformed) => {
            tasks.spawn(async move {
                give_up(&shared, &message, &malformed).await;
                drop(permit);
            });
        }
    }
}

/// Waits for the outcome and keeps the message from coming again meanwhile.
///
/// `None`: the drain ended first, and the message was put back. The processor may still
/// commit it; then its next delivery is a duplicate with the same outcome.
async fn wait(
    shared: &Shared,
    message: &jetstream::Message,
    mut deciding: BoxFuture<'static, Option<Decided>>,
) -> Option<Option<Decided>> {
    loop {
        let outcome: Pin<&mut (dyn Future<Output = Option<Decided>> + Send)> = deciding.as_mut();
        tokio::select! {
            decided = outcome => return Some(decided),
            () = sleep(PROGRESS) => answer(message, AckKind::Progress).await,
            () = shared.halt.cancelled() => {
                answer(message, AckKind::Nak(Some(UNDECIDED))).await;
                return None;
            }
        }
    }
}

/// Answers the sender and acknowledges, in this order: an ack says that nobody waits any more.
async fn finish(shared: &Shared, message: &jetstream::Message, decided: Option<Decided>) {
    // A claim cannot come by this way; its subject is no durable one.
    let Some(decided) = decided else { return answer(message, AckKind::Term).await };
    if let Some(retry_after_ms) = decided.busy() {
        Counters::count(&shared.consumer.counters.busy);
        let delay = Duration::from_millis(retry_after_ms);
        *shared.paused.lock() = Some(Instant::now() + delay);
        return answer(message, AckKind::Nak(Some(delay))).await;
    }
    if let (Decided::Batch(outcomes), Some(problem)) =
        (&decided, decided.invalid().and_then(|outcome| outcome.problem.as_ref()))
    {
        let failed = Failed { outcomes: &outcomes.outcomes, ..failed(message, problem) };
        if let Err(error) = shared.consumer.dead.record(DEAD, failed).await {
            tracing::warn!(%error, "a batch with malformed items was not recorded; again later");
            return answer(message, AckKind::Nak(Some(UNRECORDED))).await;
        }
    }
    reply(shared, message, &decided).await;
    answer(message, AckKind::Ack).await;
}

/// A malformed message: recorded, answered, terminated.
async fn give_up(shared: &Shared, message: &jetstream::Message, malformed: &Malformed) {
    Counters::count(&shared.consumer.counters.malformed);
    let problem = &malformed.problem;
    if let Err(error) = shared.consumer.dead.record(DEAD, failed(message, problem)).await {
        tracing::warn!(%error, "a malformed command was not recorded; again later");
        return answer(message, AckKind::Nak(Some(UNRECORDED))).await;
    }
    tracing::debug!(subject = %message.subject, detail = problem.detail, "a malformed command");
    reply(shared, message, &Decided::one(malformed.outcome())).await;
    answer(message, AckKind::Term).await;
}

fn failed<'a>(message: &'a jetstream::Message, problem: &'a Problem) -> Failed<'a> {
    Failed {
        subject: &message.subject,
        sequence: message.info().ok().map(|info| info.stream_sequence),
        headers: message.headers.as_ref(),
        payload: &message.payload,
        problem,
        outcomes: &[],
    }
}

async fn reply(shared: &Shared, message: &jetstream::Message, decided: &Decided) {
    let Ok(Some(inbox)) = reply_to(message) else { return };
    if let Err(error) = shared.consumer.client.publish(inbox.to_owned(), decided.body()).await {
        tracing::debug!(%error, "an outcome was not sent");
    }
}

/// Where the outcome goes.
fn reply_to(message: &jetstream::Message) -> Result<Option<&str>, Problem> {
    match header_value(message.headers.as_ref(), header::REPLY_TO) {
        None => Ok(None),
        Some(inbox) if intake::is_inbox(inbox) => Ok(Some(inbox)),
        Some(_) => {
            let detail = format!("`{}` must be an inbox (_INBOX…)", header::REPLY_TO);
            Err(Problem::new(Code::InvalidParameter, detail))
        }
    }
}
