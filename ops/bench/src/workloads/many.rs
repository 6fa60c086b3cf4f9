//! Many tasks at once, by batches over NATS.

use ::commands::Ids;
use anyhow::{Context as _, ensure};
use async_nats::Client;
use broker::subject;
use domain::{Outcome, Status};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::fill;
use crate::commands::tenant;

/// Commands in one batch; the most that is taken.
const BATCH: u64 = 1_000;
/// Batches under way.
const UNDER_WAY: usize = 4;

#[derive(Deserialize)]
struct Answer {
    outcomes: Vec<Outcome>,
}

/// Submits tasks `from..to` to a queue; their ids, in the order of their numbers.
pub async fn submit(
    client: &Client,
    queue: &str,
    (from, to): (u64, u64),
) -> anyhow::Result<Vec<Uuid>> {
    let starts = (from..to).step_by(BATCH as usize);
    let batches = starts.map(|start| batch(client, queue, start..(start + BATCH).min(to)));
    let mut all = Vec::new();
    let mut batches = futures::stream::iter(batches).buffered(UNDER_WAY);
    while let Some(ids) = batches.next().await {
        all.extend(ids?);
    }
    Ok(all)
}

async fn batch(
    client: &Client,
    queue: &str,
    numbers: std::ops::Range<u64>,
) -> anyhow::Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = numbers.clone().map(|_| Ids.fresh()).collect();
    let commands: Vec<_> = numbers
        .zip(&ids)
        .map(|(n, id)| {
            let body = fill::submission(n, queue);
            json!({ "type": "task", "id": id, "command": "submit", "body": body })
        })
        .collect();
    let body = serde_json::to_vec(&json!({ "commands": commands }))?;
    let subject = subject::request_batch(&tenant(), Ids.fresh());
    let answer = client.request(subject, body.into()).await.context("a batch")?;
    let answer: Answer = serde_json::from_slice(&answer.payload).context("a batch's answer")?;
    let accepted = answer.outcomes.iter().filter(|o| o.status == Status::Accepted).count();
    ensure!(accepted == ids.len(), "{accepted} of {} tasks of a batch were accepted", ids.len());
    Ok(ids)
}
