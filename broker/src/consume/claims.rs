//! Claims: answered by whoever holds the scheduler, and by nobody else.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use commands::Claims;
use domain::macros::Body;
use domain::task::{Assignment, ClaimTasks};
use domain::{AgentId, Code, Problem, TenantId, json};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{DRAIN, RETRY_AFTER, TenantCheck, intake, requests};
use crate::agents::interest::Interest;
use crate::envelope::command_body;
use crate::streams::MAX_BODY;
use crate::subject::{self, ClaimSubject, Subject};

/// The queue group of schedulers. Another one than the processors', which see these subjects
/// too and would otherwise take half of the claims away.
const GROUP: &str = "taffrail-managers";
/// Most claims that wait at once: one per agent of a very large fleet.
const MAX_WAITING: usize = 16_384;
/// Pause after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(250);

/// A claim as it is sent; the agent may be left out where the subject names it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    agent_id: Option<AgentId>,
    #[serde(default = "one")]
    max: u32,
    #[serde(default)]
    wait_ms: u64,
    #[serde(default)]
    lease_ms: Option<u64>,
    #[serde(default)]
    start: bool,
}

fn one() -> u32 {
    1
}

/// The answer to a claim: tasks, or why there are none.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClaimReply {
    pub tasks: Vec<Assignment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl ClaimReply {
    fn refused(problem: Problem) -> Self {
        Self { tasks: Vec::new(), problem: Some(problem) }
    }
}

/// Answers `….req.queue.<queue>.claim` until cancelled; run by the scheduler's process alone.
///
/// The answer is `{ "tasks": […] }`, with `problem` where the claim could not be served.
pub async fn serve_claims(
    client: Client,
    claims: Arc<dyn Claims>,
    tenants: TenantCheck,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let interest = Arc::new(Interest::new(client.clone()));
    // Outlives the claims: their last answers want it too.
    let asking = CancellationToken::new();
    let answers = tokio::spawn({
        let (interest, asking) = (interest.clone(), asking.clone());
        async move { interest.run(asking).await }
    });
    let places = Arc::new(Semaphore::new(MAX_WAITING));
    while !cancel.is_cancelled() {
        let subjects = [subject::ALL_CLAIMS, subject::ALL_AGENT_CLAIMS];
        let mut requests = match requests::subscribe(&client, subjects, GROUP, &cancel).await {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(%error, "claims cannot be subscribed to; trying again");
                let _ = timeout(PAUSE, cancel.cancelled()).await;
                continue;
            }
        };
        while let Some(message) = requests.next().await {
            let Some(reply) = message.reply.clone().filter(|reply| intake::is_reply(reply)) else {
                tracing::debug!(subject = %message.subject, "a claim without an inbox");
                continue;
            };
            let place = places.clone().try_acquire_owned().ok();
            let (client, claims, tenants) = (client.clone(), claims.clone(), tenants.clone());
            let interest = interest.clone();
            let work = async move {
                let answer = match &place {
                    Some(_) => serve(claims.as_ref(), &tenants, &message).await,
                    None => ClaimReply::refused(full()),
                };
                let body = serde_json::to_vec(&answer).unwrap_or_default();
                if answer.tasks.is_empty() {
                    if let Err(error) = client.publish(reply, body.into()).await {
                        tracing::debug!(%error, "the answer to a claim was not sent");
                    }
                    return;
                }
                // A claimant that was killed while it waited must not hold its tasks until
                // their leases end.
                if !interest.ask(reply.to_string(), HeaderMap::new(), body.into()).await {
                    tracing::debug!(tasks = answer.tasks.len(), "a claimant has gone");
                    claims.unheard(answer.tasks).await;
                }
            };
            tasks.spawn(work);
        }
    }
    tasks.close();
    // What still waits after this has no tasks yet; its agent asks again.
    let _ = timeout(DRAIN, tasks.wait()).await;
    asking.cancel();
    let _ = answers.await;
}

async fn serve(claims: &dyn Claims, tenants: &TenantCheck, message: &Message) -> ClaimReply {
    let (tenant, queue, claim) = match read(tenants, message) {
        Ok(read) => read,
        Err(problem) => return ClaimReply::refused(problem),
    };
    match claims.claim(tenant, queue, claim).await {
        Ok(claimed) => ClaimReply { tasks: claimed.tasks, problem: None },
        Err(problem) => ClaimReply::refused(problem),
    }
}

fn read(
    tenants: &TenantCheck,
    message: &Message,
) -> Result<(TenantId, String, ClaimTasks), Problem> {
    let ClaimSubject { tenant, agent, queue } = match subject::parse(&message.subject)? {
        Subject::Claim(claim) => claim,
        Subject::Command(_)
        | Subject::Event { .. }
        | Subject::Agent { .. }
        | Subject::Node { .. }
        | Subject::Dead { .. } => {
            return Err(Problem::new(Code::InvalidSubject, "no claim subject"));
        }
    };
    if !tenants(&tenant) {
        let detail = format!("there is no tenant `{tenant}`");
        return Err(Problem::new(Code::InvalidSubject, detail));
    }
    if message.payload.len() > MAX_BODY {
        return Err(Problem::new(Code::TooLarge, "the body is too large"));
    }
    let body = command_body(message.headers.as_ref(), &message.payload)?;
    let claim: Claim = json::read(body).map_err(|fault| Problem::invalid(vec![fault]))?;
    let agent_id = match (agent, claim.agent_id) {
        (Some(agent), Some(claimed)) if agent != claimed => {
            let detail = format!("agent {agent} cannot claim for agent {claimed}");
            return Err(Problem::new(Code::Forbidden, detail));
        }
        (Some(agent), _) | (None, Some(agent)) => agent,
        (None, None) => {
            let fault = domain::FieldError::new("/agent_id", "required", "`agent_id` is required");
            return Err(Problem::invalid(vec![fault]));
        }
    };
    let Claim { max, wait_ms, lease_ms, start, .. } = claim;
    let claim = ClaimTasks { agent_id, max, wait_ms, lease_ms, start };
    claim.check().map_err(Problem::invalid)?;
    Ok((tenant, queue, claim))
}

fn full() -> Problem {
    Problem {
        retry_after_ms: Some(RETRY_AFTER.as_millis() as u64),
        ..Problem::new(Code::Busy, "too many claims are waiting")
    }
}
