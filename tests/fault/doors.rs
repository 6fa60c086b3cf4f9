//! The ways into the product: HTTP, NATS requests, durable NATS commands.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, HeaderMap, jetstream};
use domain::{Outcome, Status, StreamType, TenantId};
use futures::StreamExt;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::history::{Answer, Done};
use crate::support::Api;

/// After this a client gives an answer up: nothing is known then.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The gateway's own namespace of command ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b1d_8f0e_7c52_5d1b_9b6a_71d4_f0a6_2c3e);

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Http,
    Request,
    Durable,
}

/// A command with all that is sent again when it is repeated.
#[derive(Debug, Clone)]
pub struct Order {
    pub door: Door,
    pub command_id: Uuid,
    key: String,
    kind: StreamType,
    /// Absent where HTTP creates something.
    stream: Option<Uuid>,
    command: &'static str,
    body: Value,
}

impl Order {
    /// A command that creates a thing; over HTTP the gateway names it.
    pub fn new(door: Door, kind: StreamType, command: &'static str, body: Value, id: Uuid) -> Self {
        let stream = (door != Door::Http).then_some(Uuid::from_u128(!id.as_u128()));
        Self::of(door, kind, stream, command, body, id)
    }

    /// A command for a thing that exists.
    pub fn on(door: Door, task: Uuid, command: &'static str, body: Value, id: Uuid) -> Self {
        Self::of(door, StreamType::Task, Some(task), command, body, id)
    }

    fn of(
        door: Door,
        kind: StreamType,
        stream: Option<Uuid>,
        command: &'static str,
        body: Value,
        id: Uuid,
    ) -> Self {
        let mut order =
            Self { door, command_id: id, key: id.to_string(), kind, stream, command, body };
        if door == Door::Http {
            let path = order.path();
            let parts = ["default", "admin", "POST", path.as_str(), order.key.as_str()];
            order.command_id = Uuid::new_v5(&NAMESPACE, parts.join("\0").as_bytes());
        }
        order
    }

    /// Door and command, for people.
    pub fn what(&self) -> String {
        format!("{:?} {}.{}", self.door, self.kind, self.command)
    }

    fn path(&self) -> String {
        match self.stream {
            None => format!("/v1/{}s", self.kind),
            Some(id) => format!("/v1/{}s/{id}/{}", self.kind, self.command),
        }
    }
}

/// A client's connections.
#[derive(Clone)]
pub struct Doors {
    pub gateways: Vec<Api>,
    pub nats: Client,
}

impl Doors {
    /// Sends a command once; `gateway` chooses among several.
    pub async fn send(&self, order: &Order, gateway: usize) -> Answer {
        let sent = async {
            match order.door {
                Door::Http => self.post(order, gateway).await,
                Door::Request => self.request(order).await,
                Door::Durable => self.publish(order).await,
            }
        };
        let late = || Err("no answer in time".to_owned());
        let answer = tokio::time::timeout(PATIENCE, sent).await.unwrap_or_else(|_| late());
        answer.unwrap_or_else(Answer::Unknown)
    }

    pub fn api(&self, gateway: usize) -> &Api {
        &self.gateways[gateway % self.gateways.len()]
    }

    async fn post(&self, order: &Order, gateway: usize) -> Result<Answer, String> {
        let request = self.api(gateway).request(Method::POST, &order.path());
        let key = format!("\"{}\"", order.key);
        let request = request.header("Idempotency-Key", key).json(&order.body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        of_response(answer).await
    }

    async fn request(&self, order: &Order) -> Result<Answer, String> {
        let body = order.body.to_string().into();
        let subject = self.subject(order, broker::subject::request);
        let request = async_nats::Request::new()
            .headers(headers(order))
            .payload(body)
            .timeout(Some(PATIENCE));
        let answer = self.nats.send_request(subject, request).await;
        of_outcome(&answer.map_err(|error| error.to_string())?.payload)
    }

    async fn publish(&self, order: &Order) -> Result<Answer, String> {
        let inbox = self.nats.new_inbox();
        let mut answers =
            self.nats.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let mut headers = headers(order);
        headers.insert("Taffrail-Reply-To", inbox);
        let body = order.body.to_string().into();
        let message = PublishMessage::build().headers(headers).payload(body);
        let subject = self.subject(order, broker::subject::command);
        let sent = jetstream::new(self.nats.clone()).send_publish(subject, message).await;
        sent.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())?;
        let answer = answers.next().await.ok_or("the inbox is closed")?;
        of_outcome(&answer.payload)
    }

    fn subject(
        &self,
        order: &Order,
        build: impl Fn(&TenantId, StreamType, Uuid, &str) -> String,
    ) -> String {
        let stream = order.stream.unwrap_or_default();
        build(&TenantId::default_tenant(), order.kind, stream, order.command)
    }

    /// Claims tasks; `None` when there is no answer.
    pub async fn claim(
        &self,
        door: Door,
        gateway: usize,
        queue: &str,
        claim: &Value,
    ) -> Option<Vec<Value>> {
        let answer: Value = match door {
            Door::Http => {
                let path = format!("/v1/queues/{queue}/claim");
                let request = self.api(gateway).request(Method::POST, &path).json(claim);
                let answer = request.timeout(PATIENCE).send().await.ok()?;
                answer.json().await.ok()?
            }
            Door::Request | Door::Durable => {
                let subject = format!("taffrail.default.req.queue.{queue}.claim");
                let request = async_nats::Request::new()
                    .payload(claim.to_string().into())
                    .timeout(Some(PATIENCE));
                let answer = self.nats.send_request(subject, request).await.ok()?;
                serde_json::from_slice(&answer.payload).ok()?
            }
        };
        answer["tasks"].as_array().cloned()
    }

    /// A sign of life: it is no event, so nobody waits for it.
    pub async fn heartbeat(&self, agent: Uuid) {
        let subject = format!("taffrail.default.agent.{agent}.heartbeat");
        let _ = tokio::time::timeout(PATIENCE, self.nats.publish(subject, "{}".into())).await;
    }
}

fn headers(order: &Order) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Taffrail-Command-Id", order.command_id.to_string());
    headers.insert("Taffrail-Actor", "fault");
    headers
}

fn of_outcome(payload: &[u8]) -> Result<Answer, String> {
    let outcome: Outcome = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let decision = outcome.decision();
    let code = || {
        let problem = decision.problem.as_ref();
        let code = problem.and_then(domain::Problem::code);
        code.map_or("none", domain::Code::slug).to_owned()
    };
    match decision.status {
        Status::Accepted => Ok(Answer::Accepted(Done {
            stream_id: decision.stream_id,
            version: decision.version,
            position: decision.position,
        })),
        Status::Refused => Ok(Answer::Refused(code())),
        Status::Invalid | Status::Duplicate | Status::Busy => Err(code()),
    }
}

async fn of_response(answer: Response) -> Result<Answer, String> {
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    if status.is_success() {
        let done = || {
            Some(Done {
                stream_id: body["id"].as_str()?.parse().ok()?,
                version: body["version"].as_u64()?,
                position: body["position"].as_u64()?,
            })
        };
        return done().map(Answer::Accepted).ok_or_else(|| format!("{status} {body}"));
    }
    let code = body["type"].as_str().and_then(|kind| kind.rsplit('/').next()).unwrap_or("none");
    match status.as_u16() {
        404 | 409 | 412 | 422 => Ok(Answer::Refused(code.to_owned())),
        _ => Err(format!("{status} {code}")),
    }
}

/// A task as the load submits it.
pub fn task(queue: &str, title: &str) -> Value {
    let retry = json!({ "max_attempts": 3, "backoff_ms": 100 });
    json!({ "title": title, "queue": queue, "payload": { "n": title }, "retry": retry })
}
