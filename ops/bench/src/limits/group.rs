//! Group commit in its barest form: clients send, a sequencer flushes what has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, anyhow};
use commands::Ids;
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::cell::Budget;
use crate::commands::payload_json;
use crate::load::{Client, Reply, Samples, closed};

/// Events that may wait.
const QUEUE: usize = 8_192;
/// Events in one flush.
const MOST: usize = 1_024;

/// One event on its way.
pub(super) struct Sent {
    /// Its stream.
    pub stream: Uuid,
    /// Its place there.
    pub sequence: i64,
    /// Its payload.
    pub body: Vec<u8>,
    done: oneshot::Sender<()>,
}

impl Sent {
    /// Tells the client that it is durable.
    pub fn answer(self) {
        // A client that has gone needs no answer.
        let _ = self.done.send(());
    }
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// How many there are.
    pub clients: usize,
    /// Sequencers; a client belongs to one.
    pub sequencers: usize,
    /// Flushes that a sequencer has under way.
    pub in_flight: usize,
    /// Events of one stream.
    pub per_stream: i64,
    /// An operation is a whole stream rather than one event.
    pub whole_streams: bool,
}

/// Runs clients against flushes; `flush` gets the sequencer's number and a batch, makes it
/// durable and answers it. Adds `avg_batch`.
pub(super) async fn group<F, Fut>(
    budget: &Budget,
    shape: Shape,
    flush: F,
) -> anyhow::Result<Samples>
where
    F: Fn(usize, Vec<Sent>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let flush = Arc::new(flush);
    let (flushes, events) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut queues = Vec::new();
    let mut sequencers = Vec::new();
    for number in 0..shape.sequencers {
        let (queue, sent) = mpsc::channel(QUEUE);
        queues.push(queue);
        let (flush, flushes, events) = (flush.clone(), flushes.clone(), events.clone());
        let counted = move |batch: Vec<Sent>| {
            flushes.fetch_add(1, Ordering::Relaxed);
            events.fetch_add(batch.len() as u64, Ordering::Relaxed);
            flush(number, batch)
        };
        sequencers.push(tokio::spawn(sequence(sent, shape.in_flight, counted)));
    }
    let clients: Vec<Publisher> = (0..shape.clients)
        .map(|n| Publisher {
            queue: queues[n % shape.sequencers].clone(),
            shape,
            n: (n as u64) << 32,
            stream: Ids.fresh(),
            sequence: 0,
        })
        .collect();
    drop(queues);
    let samples = closed(budget, clients).await;
    for sequencer in sequencers {
        sequencer.await??;
    }
    let flushes = flushes.load(Ordering::Relaxed).max(1) as f64;
    Ok(samples?.with("avg_batch", events.load(Ordering::Relaxed) as f64 / flushes))
}

/// No timer: a batch is what came while the flushes before it ran.
async fn sequence<F, Fut>(
    mut sent: mpsc::Receiver<Sent>,
    in_flight: usize,
    flush: F,
) -> anyhow::Result<()>
where
    F: Fn(Vec<Sent>) -> Fut + Send,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(in_flight));
    let (failed, mut failure) = mpsc::channel(in_flight);
    let mut batch = Vec::with_capacity(MOST);
    loop {
        let place = places.clone().acquire_owned().await?;
        if sent.recv_many(&mut batch, MOST).await == 0 {
            break;
        }
        let flushed = flush(std::mem::take(&mut batch));
        if in_flight == 1 {
            flushed.await?;
        } else {
            let failed = failed.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = flushed.await {
                    let _ = failed.try_send(error);
                }
            });
            tokio::task::yield_now().await;
        }
    }
    let _all = places.acquire_many(in_flight as u32).await?;
    match failure.try_recv() {
        Ok(error) => Err(error),
        Err(_) => Ok(()),
    }
}

struct Publisher {
    queue: mpsc::Sender<Sent>,
    shape: Shape,
    n: u64,
    stream: Uuid,
    sequence: i64,
}

impl Publisher {
    async fn publish(&mut self) -> anyhow::Result<()> {
        if self.sequence == self.shape.per_stream {
            self.sequence = 0;
            self.stream = Ids.fresh();
        }
        self.sequence += 1;
        self.n += 1;
        let (done, answer) = oneshot::channel();
        // The event's own encoding is part of the cost.
        let body = payload_json(self.n);
        let sent = Sent { stream: self.stream, sequence: self.sequence, body, done };
        self.queue.send(sent).await.map_err(|_| anyhow!("the sequencer ended"))?;
        answer.await.context("a flush failed")
    }
}

impl Client for Publisher {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let events = if self.shape.whole_streams { self.shape.per_stream } else { 1 };
        for _ in 0..events {
            self.publish().await?;
        }
        Ok(Reply::read())
    }
}
