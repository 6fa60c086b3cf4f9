//! Publishing with an answer to "did anybody listen?", in one round trip.
//!
//! The server answers a publish without subscribers at once, by an empty 503 on its reply
//! subject. A listener says nothing. So a second message follows on the heels of the first,
//! to the reply subject itself: the server handles a connection's messages in order, and
//! when ours comes back with no 503 before it, somebody listened. No waiting for a silence
//! to grow long enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for the server; without an answer nobody was reached.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<bool>>>>;

/// Asks whether anybody listens; works while [`Interest::run`] does.
#[derive(Debug)]
pub(crate) struct Interest {
    client: Client,
    inbox: String,
    next: AtomicU64,
    waiting: Waiting,
    /// Set once the answers are subscribed to: what is asked before would never be answered.
    ready: CancellationToken,
}

impl Interest {
    pub(crate) fn new(client: Client) -> Self {
        let inbox = client.new_inbox();
        Self {
            client,
            inbox,
            next: AtomicU64::new(0),
            waiting: Arc::default(),
            ready: CancellationToken::new(),
        }
    }

    /// Hands the server's answers to those who wait, until cancelled.
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let subscribed = self.client.subscribe(format!("{}.*", self.inbox)).await;
            let Ok(mut answers) = subscribed else {
                let _ = timeout(PAUSE, cancel.cancelled()).await;
                continue;
            };
            self.ready.cancel();
            loop {
                let message = tokio::select! {
                    () = cancel.cancelled() => return,
                    message = answers.next() => message,
                };
                let Some(message) = message else { break };
                let token = message.subject.rsplit('.').next().and_then(|t| t.parse().ok());
                let waiter = token.and_then(|token: u64| self.waiting.lock().remove(&token));
                if let Some(waiter) = waiter {
                    let heard = message.status != Some(StatusCode::NO_RESPONDERS);
                    // The asker may have given up.
                    let _ = waiter.send(heard);
                }
            }
        }
    }

    /// Publishes; true when somebody listened.
    pub(crate) async fn ask(&self, subject: String, headers: HeaderMap, body: Bytes) -> bool {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        self.waiting.lock().insert(token, waiter);
        // Also when this future is dropped: a waiter must not stay for good.
        let _forget = Forget { waiting: &self.waiting, token };
        let reply = format!("{}.{token}", self.inbox);
        let asked = async {
            self.ready.cancelled().await;
            let client = &self.client;
            client
                .publish_with_reply_and_headers(subject, reply.clone(), headers, body)
                .await
                .ok()?;
            client.publish(reply, Bytes::new()).await.ok()?;
            answer.await.ok()
        };
        timeout(TIMEOUT, asked).await.ok().flatten().unwrap_or(false)
    }
}

struct Forget<'a> {
    waiting: &'a Waiting,
    token: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
    }
}
