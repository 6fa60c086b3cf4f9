//! NATS without the product: publications, deliveries, fan-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures::StreamExt;

use super::limit;
use crate::cell::{Cell, Context, Mode};
use crate::commands::payload_json;
use crate::load::{Arrivals, Samples, Schedule};

const STREAM: &str = "LIMIT";
const SUBJECT: &str = "limit.a";
/// Publications whose acknowledgement may be outstanding.
const WINDOW: usize = 1_024;
/// Publications per second in the latency cell.
const PACE: f64 = 500.0;
/// Subscribers of the fan-out, and how many share a connection.
const SUBSCRIBERS: u64 = 100;
const PER_CONNECTION: u64 = 10;
/// Deliveries that may be under way, so that nothing is dropped.
const UNDER_WAY: u64 = 20_000;

pub(super) fn cells() -> Vec<Cell> {
    vec![
        limit("sync=default publish, await each ack", "messages", |context| publish(context, 1)),
        limit("sync=default publish async, acks in flight=1024", "messages", |context| {
            publish(context, WINDOW)
        })
        .main(),
        limit("sync=default publish->pull consumer receives, 500/s", "messages", delivered)
            .mode(Mode::Open),
        limit("sync=default core fan-out to 100 subscribers: deliveries", "deliveries", fan_out),
    ]
}

async fn fresh(context: &Context) -> anyhow::Result<(jetstream::Context, stream::Stream)> {
    let jetstream = jetstream::new(context.target.nats().await?);
    let _ = jetstream.delete_stream(STREAM).await;
    let stream = jetstream
        .create_stream(stream::Config {
            name: STREAM.into(),
            subjects: vec!["limit.>".into()],
            storage: stream::StorageType::File,
            ..Default::default()
        })
        .await?;
    Ok((jetstream, stream))
}

fn bodies() -> Vec<Bytes> {
    (0..4_096).map(|n| payload_json(n).into()).collect()
}

async fn publish(context: Context, window: usize) -> anyhow::Result<Samples> {
    let (jetstream, _) = fresh(&context).await?;
    let bodies = bodies();
    let mut samples = Samples::default();
    let mut waiting = VecDeque::with_capacity(window);
    let begin = Instant::now();
    let opens = begin + context.budget.warm;
    let closes = opens + context.budget.measure;
    for body in bodies.iter().cycle() {
        let start = Instant::now();
        if start >= closes {
            break;
        }
        waiting.push_back((start, jetstream.publish(SUBJECT, body.clone()).await?));
        if waiting.len() >= window
            && let Some((start, acknowledged)) = waiting.pop_front()
        {
            acknowledged.await?;
            if Instant::now() >= opens {
                samples.ops += 1;
                samples.record(start.elapsed());
            }
        }
    }
    samples.seconds = opens.elapsed().as_secs_f64();
    for (_, acknowledged) in waiting {
        acknowledged.await?;
    }
    jetstream.delete_stream(STREAM).await?;
    Ok(samples)
}

/// From the publication to a waiting pull consumer, paced.
async fn delivered(context: Context) -> anyhow::Result<Samples> {
    let (jetstream, stream) = fresh(&context).await?;
    let consumer = stream
        .create_consumer(consumer::pull::Config {
            durable_name: Some("limit".into()),
            ack_policy: consumer::AckPolicy::Explicit,
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.stream().max_messages_per_batch(500).messages().await?;
    let whole = context.budget.warm + context.budget.measure;
    let begin = Instant::now();
    let (warm, measure) = (context.budget.warm, context.budget.measure);
    let receiving = tokio::spawn(async move {
        let mut samples = Samples { seconds: measure.as_secs_f64(), ..Samples::default() };
        let quiet = Duration::from_millis(800);
        while let Ok(Some(message)) = tokio::time::timeout(quiet, messages.next()).await {
            let message = message?;
            let stamp = message.payload.first_chunk().context("a message without its time")?;
            let sent = Duration::from_micros(u64::from_le_bytes(*stamp));
            if sent >= warm {
                samples.ops += 1;
                samples.record(begin.elapsed().saturating_sub(sent));
            }
            let _ = message.ack().await;
        }
        anyhow::Ok(samples)
    });
    let body = payload_json(0);
    let schedule = Schedule::new(Arrivals::Constant, PACE, context.budget.seed);
    for at in schedule.take_while(|at| *at < whole) {
        if let Some(wait) = at.checked_sub(begin.elapsed()) {
            tokio::time::sleep(wait).await;
        }
        let mut stamped = (begin.elapsed().as_micros() as u64).to_le_bytes().to_vec();
        stamped.extend_from_slice(&body);
        let _ = jetstream.publish(SUBJECT, stamped.into()).await?;
    }
    let samples = receiving.await??;
    jetstream.delete_stream(STREAM).await?;
    Ok(samples)
}

async fn fan_out(context: Context) -> anyhow::Result<Samples> {
    let count = Arc::new(AtomicU64::new(0));
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..SUBSCRIBERS / PER_CONNECTION {
        let nats = context.target.nats().await?;
        for _ in 0..PER_CONNECTION {
            let mut messages = nats.subscribe("fan.>").await?;
            let count = count.clone();
            subscribers.spawn(async move {
                while messages.next().await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        nats.flush().await?;
    }
    let publisher = context.target.nats().await?;
    let bodies = bodies();
    let begin = Instant::now();
    let opens = begin + context.budget.warm;
    let closes = opens + context.budget.measure;
    let (mut published, mut before) = (0u64, None);
    let mut bodies = bodies.iter().cycle();
    while Instant::now() < closes {
        for body in bodies.by_ref().take(100) {
            publisher.publish("fan.a", body.clone()).await?;
            published += 1;
        }
        if before.is_none() && Instant::now() >= opens {
            before = Some((Instant::now(), count.load(Ordering::Relaxed)));
        }
        while published * SUBSCRIBERS > count.load(Ordering::Relaxed) + UNDER_WAY
            && Instant::now() < closes
        {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    let (opened, before) = before.context("the window did not open")?;
    let deliveries = count.load(Ordering::Relaxed) - before;
    Ok(Samples::timed(deliveries, opened.elapsed()))
}
