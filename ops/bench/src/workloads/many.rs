//! Many tasks at once, by batches over NATS.

use ::commands::Ids;
use anyhow::{Context as _, ensure};
use async_nats::Client;
use broker::subject;
use domain::task::SubmitTask;
use domain::{Outcome, Status};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::commands::tenant;

/// Commands in one batch; the most that is taken.
const BATCH: u64 = 1_000;
/// Batches under way.
const UNDER_WAY: usize = 4;

#[derive(Deserialize)]
struct Answer {
    outcomes: Vec<Outcome>,
}

/// Submits the tasks of numbers `from..to`; their ids, in the same order.
pub async fn submit(
    client: &Client,
    (from, to): (u64, u64),
    task: impl Fn(u64) -> SubmitTask,
) -> anyhow::Result<Vec<Uuid>> {
    let starts = (from..to).step_by(BATCH as usize);
    let batches = starts.map(|start| batch(client, start..(start + BATCH).min(to), &task));
    let mut all = Vec::new();
    let mut batches = futures::stream::iter(batches).buffered(UNDER_WAY);
    while let Some(ids) = batches.next().await {
        all.extend(ids?);
    }
    Ok(all)
}

async fn batch(
    client: &Client,
    numbers: std::ops::Range<u64>,
    task: &impl Fn(u64) -> SubmitTask,
) -> anyhow::Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = numbers.clone().map(|_| Ids.fresh()).collect();
    let commands: Vec<_> = numbers
        .zip(&ids)
        .map(|(n, id)| json!({ "type": "task", "id": id, "command": "submit", "body": task(n) }))
        .collect();
    let body = serde_json::to_vec(&json!({ "commands": commands }))?;
    let subject = subject::request_batch(&tenant(), Ids.fresh());
    let answer = client.request(subject, body.into()).await.context("a batch")?;
    let answer: Answer = serde_json::from_slice(&answer.payload).context("a batch's answer")?;
    let accepted = answer.outcomes.iter().filter(|o| o.status == Status::Accepted).count();
    ensure!(accepted == ids.len(), "{accepted} of {} tasks of a batch were accepted", ids.len());
    Ok(ids)
}
