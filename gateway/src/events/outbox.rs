//! What waits for a WebSocket's peer to read: bounded in messages and in bytes.

use std::sync::Arc;

use axum::extract::ws::Message;
use futures::{Sink, SinkExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Messages that wait.
const MESSAGES: usize = 64;
/// Bytes that wait; a single message may be larger.
const BYTES: usize = 128 << 10;

/// A message with the room that it takes until it is written.
pub(super) type Queued = (Message, Option<OwnedSemaphorePermit>);

/// Where messages for the peer are put; whoever puts one waits for room.
#[derive(Clone)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

/// The peer is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (queue, queued) = mpsc::channel(MESSAGES);
        (Self { queue, room: Arc::new(Semaphore::new(BYTES)) }, queued)
    }

    /// Waits for room and puts a message there.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Gone> {
        let bytes = u32::try_from(size(&message).clamp(1, BYTES)).unwrap_or(1);
        // Dropping the receiver drops what is queued, which gives its room back.
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.queue.send((message, Some(room))).await.map_err(|_| Gone)
    }

    /// Puts a small message there when there is a place, else forgets it.
    pub(super) fn try_send(&self, message: Message) {
        let _ = self.queue.try_send((message, None));
    }

    /// Ready when the peer is gone.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        Message::Close(_) => 1,
    }
}

/// Writes a message and what else is queued by now with one flush; whether the last one
/// was the good-bye.
pub(super) async fn write<S: Sink<Message> + Unpin>(
    sink: &mut S,
    first: Queued,
    queued: &mut mpsc::Receiver<Queued>,
) -> Result<bool, S::Error> {
    let mut next = Some(first);
    let mut last = false;
    while let Some((message, room)) = next.filter(|_| !last) {
        last = matches!(message, Message::Close(_));
        sink.feed(message).await?;
        drop(room);
        next = queued.try_recv().ok();
    }
    sink.flush().await?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let (outbox, mut queued) = Outbox::new();
        let half = || Message::text("x".repeat(BYTES / 2));
        outbox.send(half()).await.expect("room");
        outbox.send(half()).await.expect("room");
        let third = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.send(half()).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished(), "there was no room");
        drop(queued.recv().await);
        third.await.expect("runs").expect("room again");
        // A message beyond the bound takes all of it and goes alone.
        while queued.try_recv().is_ok() {}
        outbox.send(Message::text("x".repeat(3 * BYTES))).await.expect("alone");
        drop(queued);
        assert!(outbox.send(half()).await.is_err());
    }

    #[tokio::test]
    async fn many_messages_leave_with_one_flush() {
        let (outbox, mut queued) = Outbox::new();
        for text in ["a", "b"] {
            outbox.send(Message::text(text)).await.expect("room");
        }
        outbox.send(Message::Close(None)).await.expect("room");
        outbox.send(Message::text("unsaid")).await.expect("room");
        let mut written = Vec::new();
        let first = queued.recv().await.expect("queued");
        let last = write(&mut written, first, &mut queued).await.expect("a vector takes all");
        assert!(last);
        assert_eq!(written.len(), 3);
    }
}
