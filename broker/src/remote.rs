//! The processor and the scheduler of another process, behind NATS.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, HeaderValue, RequestError, RequestErrorKind};
use bytes::Bytes;
use commands::{Boxed, Claims, CommandEnvelope, Executor};
use domain::task::{ClaimTasks, Claimed};
use domain::{Code, Outcome, Problem, Status, TenantId};
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;

use crate::consume::{ClaimReply, is_actor};
use crate::envelope::{JSON, header, hex};
use crate::subject;

/// How long an outcome is waited for: longer than a processor takes over (lease and reload).
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the first try may take; each further one twice as long. A processor that was
/// killed with the command in its hands never answers, and its standby is there after two
/// seconds; doubling keeps a processor that is merely slow from being asked ever oftener.
const FIRST_TRY: Duration = Duration::from_secs(2);
/// What a claim's way may take beside its own wait.
const CLAIM_SLACK: Duration = Duration::from_secs(5);
/// How often a claim that waits looks whether its connection is still the same.
const LOOK: Duration = Duration::from_secs(1);
/// When to try again while no processor listens.
const RETRY_AFTER_MS: u64 = 500;

/// Has commands decided by the process that holds the processor's lease.
#[derive(Debug, Clone)]
pub struct RemoteExecutor {
    client: Client,
}

impl RemoteExecutor {
    /// An executor behind a connection.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Executor for RemoteExecutor {
    /// Asks, again where no answer comes, and waits for the outcome.
    ///
    /// `busy` also when no answer came: then the command may have been decided all the same,
    /// and a repeat under its id gets the outcome.
    fn execute(&self, command: CommandEnvelope) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let client = self.client.clone();
        Box::pin(async move {
            let (command_id, stream_id) = (command.command_id, command.stream_id);
            let undecided =
                |problem| Outcome::undecided(Status::Busy, command_id, stream_id, problem);
            let kind = command.command.stream_type();
            let name = command.command.name();
            let subject = subject::request(&command.tenant, kind, stream_id, name);
            let (headers, body) = (headers(&command), Bytes::from(command.command.body()));
            let deadline = Instant::now() + OUTCOME_TIMEOUT;
            let mut patience = FIRST_TRY;
            let mut tries = 1;
            let answer = loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let request = async_nats::Request::new()
                    .headers(headers.clone())
                    .payload(body.clone())
                    .timeout(Some(patience.min(left)));
                match client.send_request(subject.clone(), request).await {
                    Err(error) if error.kind() == RequestErrorKind::TimedOut && patience < left => {
                        patience *= 2;
                        tries += 1;
                    }
                    answered => break answered,
                }
            };
            let outcome = match answer {
                Ok(answer) => serde_json::from_slice(&answer.payload).unwrap_or_else(|error| {
                    tracing::error!(%error, "the processor's answer cannot be read");
                    undecided(Problem::new(Code::Internal, "the processor's answer is malformed"))
                }),
                Err(error) => undecided(unreachable("processor", &error)),
            };
            // The first try was decided and its answer lost: our own repeat is none of the
            // caller's.
            if tries > 1 { outcome.decision().clone() } else { outcome }
        })
    }
}

fn headers(command: &CommandEnvelope) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::COMMAND_ID, command.command_id.to_string());
    headers.insert(header::FINGERPRINT, hex(&command.fingerprint));
    let mut put = |name: &'static str, value: Option<String>| {
        // A value that no header can carry is left out rather than sent crippled.
        if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    };
    put(header::ACTOR, Some(command.actor.clone()).filter(|actor| is_actor(actor)));
    put(header::CORRELATION_ID, command.correlation_id.map(|id| id.to_string()));
    put(header::CAUSATION_POSITION, command.causation_position.map(|p| p.to_string()));
    put(header::TRACEPARENT, command.trace.clone());
    put(header::CREDENTIAL, command.credential.as_deref().map(str::to_owned));
    put(header::FENCE, command.fence.map(|token| token.to_string()));
    put(header::EXPECTED_VERSION, command.expected_version.map(|v| v.to_string()));
    headers
}

/// Has claims answered by the process that holds the scheduler's lease.
#[derive(Debug, Clone)]
pub struct RemoteClaims {
    client: Client,
}

impl RemoteClaims {
    /// Claims behind a connection.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Claims for RemoteClaims {
    fn claim(
        &self,
        tenant: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Boxed<Result<Claimed, Problem>> {
        let client = self.client.clone();
        Box::pin(async move {
            let wait = Duration::from_millis(request.wait_ms);
            let body = serde_json::to_vec(&request).unwrap_or_default();
            // An inbox of its own, gone with this future: the scheduler then sees that nobody
            // waits for the tasks any more.
            let ask = async_nats::Request::new()
                .payload(body.into())
                .inbox(client.new_inbox())
                .timeout(Some(wait + CLAIM_SLACK));
            let answer = tokio::select! {
                biased;
                answer = client.send_request(subject::claim(&tenant, &queue), ask) => answer,
                // The claim or its answer may have gone with the old connection: the claimant
                // asks again rather than wait for nothing (reliability R21).
                () = reconnected(&client) => return Ok(Claimed::default()),
            };
            let answer = answer.map_err(|error| unreachable("scheduler", &error))?;
            let reply: ClaimReply = serde_json::from_slice(&answer.payload).map_err(|error| {
                tracing::error!(%error, "the scheduler's answer cannot be read");
                Problem::new(Code::Internal, "the scheduler's answer is malformed")
            })?;
            match reply.problem {
                Some(problem) => Err(problem),
                None => Ok(Claimed { tasks: reply.tasks }),
            }
        })
    }
}

/// Ready once the connection was made anew.
async fn reconnected(client: &Client) {
    let statistics = client.statistics();
    let made = || statistics.connects.load(Ordering::Relaxed);
    let before = made();
    while made() == before {
        tokio::time::sleep(LOOK).await;
    }
}

fn unreachable(whom: &str, error: &RequestError) -> Problem {
    let (code, detail) = match error.kind() {
        RequestErrorKind::MaxPayloadExceeded => {
            (Code::TooLarge, "the message exceeds what the NATS server takes".to_owned())
        }
        RequestErrorKind::TimedOut => {
            (Code::Unavailable, format!("the {whom} gave no answer in time"))
        }
        RequestErrorKind::NoResponders
        | RequestErrorKind::InvalidSubject
        | RequestErrorKind::Other => {
            (Code::Unavailable, format!("the {whom} cannot be reached: {error}"))
        }
    };
    Problem { retry_after_ms: Some(RETRY_AFTER_MS), ..Problem::new(code, detail) }
}
