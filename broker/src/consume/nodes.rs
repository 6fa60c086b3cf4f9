//! Nodes: answered by whoever runs the managers, and by nobody else.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use commands::Nodes;
use domain::macros::Body;
use domain::node::{SyncReply, SyncRequest};
use domain::{Code, Problem, TenantId, json};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{DRAIN, TenantCheck, intake};
use crate::streams::MAX_BODY;
use crate::subject::{self, NodeWord, Subject};

/// The queue group of managers.
const GROUP: &str = "taffrail-managers";
/// Exchanges under way at once; a node whose own is dropped asks again.
const AT_ONCE: usize = 1_024;
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);

/// Answers `taffrail.<tenant>.node.<id>.sync` until cancelled.
pub async fn serve_nodes(
    client: Client,
    nodes: Arc<dyn Nodes>,
    tenants: TenantCheck,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while !cancel.is_cancelled() {
        let subscribed = client.queue_subscribe(subject::ALL_SYNCS, GROUP.to_owned()).await;
        let mut requests = match subscribed {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(%error, "nodes cannot be heard; trying again");
                let _ = timeout(PAUSE, cancel.cancelled()).await;
                continue;
            }
        };
        loop {
            let message = tokio::select! {
                () = cancel.cancelled() => break,
                message = requests.next() => message,
            };
            let Some(message) = message else { break };
            let Some(reply) = message.reply.clone().filter(|reply| intake::is_reply(reply)) else {
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (client, nodes, tenants) = (client.clone(), nodes.clone(), tenants.clone());
            tasks.spawn(async move {
                let answer = match read(&tenants, &message) {
                    Ok((tenant, node, request)) => nodes.sync(tenant, node, request).await,
                    Err(problem) => SyncReply { problem: Some(problem), ..SyncReply::default() },
                };
                let body = serde_json::to_vec(&answer).unwrap_or_default();
                if let Err(error) = client.publish(reply, body.into()).await {
                    tracing::debug!(%error, "the answer to a node was not sent");
                }
                drop(place);
            });
        }
    }
    tasks.close();
    let _ = timeout(DRAIN, tasks.wait()).await;
}

fn read(
    tenants: &TenantCheck,
    message: &Message,
) -> Result<(TenantId, Uuid, SyncRequest), Problem> {
    let Subject::Node { tenant, node, word: NodeWord::Sync } = subject::parse(&message.subject)?
    else {
        return Err(Problem::new(Code::InvalidSubject, "no subject of a node"));
    };
    if !tenants(&tenant) {
        let detail = format!("there is no tenant `{tenant}`");
        return Err(Problem::new(Code::InvalidSubject, detail));
    }
    if message.payload.len() > MAX_BODY {
        return Err(Problem::new(Code::TooLarge, "the body is too large"));
    }
    let request: SyncRequest =
        json::read(&message.payload).map_err(|fault| Problem::invalid(vec![fault]))?;
    request.check().map_err(Problem::invalid)?;
    Ok((tenant, node, request))
}
