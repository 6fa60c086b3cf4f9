//! Command requests: decided at once or answered `busy`; the sender repeats.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use domain::{Code, Outcome, Problem, Status};
use futures::future::FutureExt;
use futures::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{unconstrained, yield_now};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::budget::Budget;
use super::dead::Failed;
use super::intake::{self, Decided, Malformed};
use super::{Consumer, Counters, DRAIN, RETRY_AFTER};
use crate::envelope::{header, header_value};
use crate::subject::{self, CommandSubject, Subject, Target};
use crate::{BrokerError, error::During};

/// The queue group of processors: each request goes to one of them.
const GROUP: &str = "taffrail-processors";
/// The name under which malformed requests are recorded.
const DEAD: &str = "requests";
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);
/// Requests taken in one go.
const BURST: usize = 1_024;

/// Serves requests until cancelled, then drains.
pub(super) async fn run(consumer: &Consumer, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    let budget = Budget::new();
    while !cancel.is_cancelled() {
        let subjects = [subject::ALL_REQUESTS, subject::ALL_AGENT_REQUESTS];
        let subscribed = subscribe(&consumer.client, subjects, GROUP, &cancel).await;
        match subscribed {
            Ok(mut requests) => {
                let mut taken = 0;
                // Not in the runtime's usual small helpings: in a flood each of them would wait
                // behind all other work, and the client drops what nobody takes.
                while let Some(message) = unconstrained(requests.next()).await {
                    take(consumer, &tasks, &budget, message);
                    taken += 1;
                    if taken % BURST == 0 {
                        yield_now().await;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "requests cannot be subscribed to; trying again");
                let _ = timeout(PAUSE, cancel.cancelled()).await;
            }
        }
    }
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        // Their senders time out and repeat; under the same id they get the same outcome.
        tracing::warn!(open = tasks.len(), "requests were left unanswered");
    }
}

/// Messages of two subjects in one queue group; ends once cancelled and emptied.
pub(super) async fn subscribe(
    client: &Client,
    subjects: [&'static str; 2],
    group: &'static str,
    cancel: &CancellationToken,
) -> Result<impl Stream<Item = Message> + Unpin + use<>, BrokerError> {
    let [first, second] = subjects;
    let join = |subject: &'static str| client.queue_subscribe(subject, group.to_owned());
    let first = join(first).await.during("subscribing to requests")?;
    let second = join(second).await.during("subscribing to requests")?;
    client.flush().await.during("subscribing to requests")?;
    Ok(futures::stream::select(
        until_drained(first, cancel.clone()),
        until_drained(second, cancel.clone()),
    ))
}

/// A subscription that ends on cancellation, after what has been delivered to it.
fn until_drained(
    subscriber: Subscriber,
    cancel: CancellationToken,
) -> impl Stream<Item = Message> + Unpin {
    Box::pin(futures::stream::unfold(
        (subscriber, cancel, false),
        |(mut subscriber, cancel, mut draining)| async move {
            loop {
                if draining {
                    let message = subscriber.next().await?;
                    return Some((message, (subscriber, cancel, draining)));
                }
                tokio::select! {
                    message = subscriber.next() => {
                        return Some((message?, (subscriber, cancel, draining)));
                    }
                    () = cancel.cancelled() => {
                        draining = true;
                        subscriber.drain().await.ok()?;
                    }
                }
            }
        },
    ))
}

fn take(consumer: &Consumer, tasks: &TaskTracker, budget: &Budget, message: Message) {
    Counters::count(&consumer.counters.requests);
    let reply = message.reply.as_ref().map(|reply| reply.to_string());
    if reply.as_deref().is_some_and(|reply| !intake::is_reply(reply)) {
        Counters::count(&consumer.counters.malformed);
        tracing::debug!(subject = %message.subject, "a request asks for its answer elsewhere");
        return;
    }
    let Some(permit) = budget.take(message.payload.len()) else {
        // A claim is the scheduler's to answer: its claimant would take a refusal of ours for
        // the answer, and what it is given would wait for the end of its lease.
        let Some(refusal) = full(&message) else { return };
        Counters::count(&consumer.counters.busy);
        let answer = Decided::one(refusal);
        let client = consumer.client.clone();
        let mut sending = async move { send(&client, reply, &answer).await }.boxed();
        // Mostly there is room for it at once.
        if sending.as_mut().now_or_never().is_none() {
            // Not tracked and not budgeted: one small message, and the connection holds back.
            tokio::spawn(sending);
        }
        return;
    };
    let headers = message.headers.as_ref();
    let (tenants, ids) = (&consumer.tenants, consumer.ids);
    match intake::read(&message.subject, headers, &message.payload, None, tenants, ids) {
        Ok(intake::Intake::Claim) => {}
        Ok(read) => {
            let executor = consumer.executor.clone();
            let mut deciding = async move { intake::decide(executor.as_ref(), read).await }.boxed();
            // The first poll is the hand-over: requests of one connection keep their order.
            let ready = deciding.as_mut().now_or_never();
            let client = consumer.client.clone();
            tasks.spawn(async move {
                let decided = match ready {
                    Some(decided) => decided,
                    None => deciding.await,
                };
                if let Some(decided) = decided {
                    send(&client, reply, &decided).await;
                }
                drop(permit);
            });
        }
        Err(malformed) => {
            Counters::count(&consumer.counters.malformed);
            let consumer = consumer.clone();
            tasks.spawn(give_up(consumer, message, reply, malformed, permit));
        }
    }
}

async fn give_up(
    consumer: Consumer,
    message: Message,
    reply: Option<String>,
    malformed: Malformed,
    permit: OwnedSemaphorePermit,
) {
    let failed = Failed {
        subject: &message.subject,
        sequence: None,
        headers: message.headers.as_ref(),
        payload: &message.payload,
        problem: &malformed.problem,
        outcomes: &[],
    };
    consumer.dead.note(DEAD, failed).await;
    send(&consumer.client, reply, &Decided::one(malformed.outcome())).await;
    drop(permit);
}

async fn send(client: &Client, reply: Option<String>, decided: &Decided) {
    let Some(reply) = reply else { return };
    if let Err(error) = client.publish(reply, decided.body()).await {
        tracing::debug!(%error, "an outcome was not sent");
    }
}

/// The answer to a command when all places are taken: read no further than the ids.
fn full(message: &Message) -> Option<Outcome> {
    let command_id = header_value(message.headers.as_ref(), header::COMMAND_ID)
        .and_then(|text| Uuid::try_parse(text).ok());
    let stream_id = match subject::parse(&message.subject) {
        Ok(Subject::Command(CommandSubject { target, .. })) => match target {
            Target::One { id, .. } | Target::Batch { id } => Some(id),
        },
        Ok(Subject::Claim(_)) => return None,
        Ok(
            Subject::Event { .. }
            | Subject::Agent { .. }
            | Subject::Node { .. }
            | Subject::Dead { .. },
        )
        | Err(_) => None,
    };
    Some(busy(command_id.unwrap_or(Uuid::nil()), stream_id.unwrap_or(Uuid::nil())))
}

fn busy(command_id: Uuid, stream_id: Uuid) -> Outcome {
    let problem = Problem {
        retry_after_ms: Some(RETRY_AFTER.as_millis() as u64),
        ..Problem::new(Code::Busy, "too many commands are in flight")
    };
    Outcome::undecided(Status::Busy, command_id, stream_id, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: Some("_INBOX.a.b".into()),
            payload: bytes::Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_full_house_refuses_commands_and_leaves_claims_to_the_scheduler() {
        let id = Uuid::from_u128(7);
        let command = full(&message(&format!("taffrail.default.req.task.{id}.submit")));
        let refused = command.expect("a refusal");
        assert_eq!((refused.status, refused.stream_id), (Status::Busy, id));
        assert!(full(&message("taffrail.default.req.queue.default.claim")).is_none());
        let by_agent = format!("taffrail.default.agent.{id}.req.queue.default.claim");
        assert!(full(&message(&by_agent)).is_none());
    }
}
