//! Waking other processes: a hint, never a promise (reliability D21).
//!
//! The notification is a statement of its own, behind the append and coalesced, because
//! a NOTIFY inside the append would hold PostgreSQL's cluster-wide lock through the flush.
//! It has a commit record of its own, which may stay unflushed.

use std::time::Duration;

use futures::StreamExt;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::server::configured;
use crate::{Feed, Log, StoreError};

const NOTIFY: &str = "SELECT pg_notify($1, $2) FROM set_config('synchronous_commit', 'off', true)";
const CHANNEL: &str = "taffrail_head";
/// At most so often; what comes in between is told together.
const PACE: Duration = Duration::from_millis(5);

/// Tells other processes how far the log has come; runs until dropped.
pub async fn notify(log: Log, feed: Feed) {
    let mut head = feed.watch();
    while head.changed().await.is_ok() {
        let position = head.borrow_and_update().to_string();
        if !feed.wrote_head() {
            // Heard from another process: an echo would go round and round.
            continue;
        }
        let told: Result<(), StoreError> = async {
            let client = log.pool().get().await?;
            let sql = client.prepare_cached(NOTIFY).await?;
            client.execute(&sql, &[&CHANNEL, &position]).await?;
            Ok(())
        }
        .await;
        if let Err(error) = told {
            tracing::debug!(%error, "a wake-up was not sent");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Carries other processes' wake-ups into the feed; runs until dropped.
pub async fn listen(url: String, feed: Feed) {
    loop {
        if let Err(error) = listen_once(&url, &feed).await {
            tracing::debug!(%error, "listening for wake-ups broke off");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn listen_once(url: &str, feed: &Feed) -> Result<(), StoreError> {
    let (client, mut connection) = configured(url)?.connect(NoTls).await?;
    let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
    let told = async {
        while let Some(message) = messages.next().await {
            if let AsyncMessage::Notification(note) = message?
                && let Ok(position) = note.payload().parse()
            {
                feed.announce(position);
            }
        }
        Ok::<_, StoreError>(())
    };
    let sql = format!("LISTEN {CHANNEL}");
    let listening = async {
        client.batch_execute(&sql).await?;
        // The client must live as long as the connection is to be read.
        std::future::pending::<Result<(), StoreError>>().await
    };
    tokio::select! {
        ended = told => ended,
        failed = listening => failed,
    }
}
