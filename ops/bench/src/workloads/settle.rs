//! Waiting until everything behind the log has come to its end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_postgres::Client;

use crate::target::Target;

/// The stream that mirrors the log.
const EVENTS: &str = "TAFFRAIL_EVENTS";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// How long it took after the question was asked.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// Until every event was in JetStream.
    pub relay: Duration,
    /// Until every event was in every read model.
    pub projections: Duration,
}

/// Waits until relay and read models have reached the log's end, or fails.
pub async fn settled(target: &Target, within: Duration) -> anyhow::Result<Settled> {
    let database = target.database().await?;
    let jetstream = async_nats::jetstream::new(target.nats().await?);
    let mut stream = jetstream.get_stream(EVENTS).await.context("the stream of events")?;
    let begun = Instant::now();
    let (mut relay, mut projections) = (None, None);
    loop {
        let (head, folded) = ends(&database).await?;
        let relayed = stream.info().await.context("the stream of events")?.state.last_sequence;
        let now = begun.elapsed();
        if relayed >= head {
            relay.get_or_insert(now);
        }
        if folded >= head {
            projections.get_or_insert(now);
        }
        if let (Some(relay), Some(projections)) = (relay, projections) {
            if relayed != head || folded != head {
                bail!("the log ends at {head}, its mirror at {relayed}, the rows at {folded}");
            }
            return Ok(Settled { relay, projections });
        }
        if now > within {
            bail!(
                "after {now:?} the log ends at {head}, its mirror at {relayed}, rows at {folded}"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The ends of the log and of the read model that is furthest behind.
pub async fn ends(database: &Client) -> anyhow::Result<(u64, u64)> {
    let sql = "SELECT (SELECT position FROM log_head WHERE shard = 0),
                      (SELECT min(position) FROM read.checkpoints)";
    let row = database.query_one(sql, &[]).await?;
    Ok((row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64))
}

/// One number of the database.
pub async fn number(database: &Client, sql: &str) -> anyhow::Result<u64> {
    Ok(database.query_one(sql, &[]).await?.get::<_, i64>(0) as u64)
}
