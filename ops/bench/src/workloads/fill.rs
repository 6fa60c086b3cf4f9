//! Logs made quickly: lives that the aggregates themselves decided, appended in big batches.
//!
//! The rows are those that a processor would have written, command results included; only
//! the queue before it and the flush per handful of commands are left out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::commands::{CommandEnvelope, Ids};
use anyhow::{Context, bail};
use bytes::Bytes;
use domain::agent::{AgentCommand, Reason, RegisterAgent};
use domain::task::{AssignTask, CompleteTask, ProgressTask, StartTask, SubmitTask, TaskCommand};
use domain::{
    AgentId, Aggregate, ClaimChange, Command, Event, Facts, Json, TenantId, Timestamp, event_id,
};
use futures::future::try_join_all;
use serde_json::json;
use store::{Append, Leases, Log, NewEvent, NewResult, Writer};
use uuid::Uuid;

/// Events in one append: large enough that the commit costs nothing.
const BATCH: usize = 4_000;
/// How long the right to append is taken for; nobody else runs meanwhile.
const TERM: Duration = Duration::from_secs(3_600);
/// Agents that do the work of the lives.
const AGENTS: u64 = 100;
/// Every so many lives the agent tells once how far it is.
const PROGRESS_EVERY: u64 = 8;
/// Connections that append at the same time, so that both cores have work.
const WRITERS: usize = 2;

/// What a log is to hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Tasks that were submitted, assigned, started and completed.
    pub lives: u64,
    /// Tasks that wait in the queue.
    pub open: u64,
    /// Streams of an exact length, and how many of each.
    pub streams: &'static [(u64, u64)],
}

impl Plan {
    /// Lives and waiting tasks of about so many events in all.
    pub fn of_events(events: u64, open: u64) -> Self {
        // Every eighth life has a fifth event.
        let lives = events.saturating_sub(open + 2 * AGENTS) * 8 / 33;
        Self { lives, open, streams: &[] }
    }
}

/// What was made.
#[derive(Debug, Clone, Default)]
pub struct Filled {
    /// The head afterwards.
    pub head: u64,
    /// Events appended.
    pub events: u64,
    /// Command results appended.
    pub commands: u64,
    /// Tasks in all.
    pub tasks: u64,
    /// Some tasks that are done.
    pub done: Vec<Uuid>,
    /// Some tasks that wait.
    pub open: Vec<Uuid>,
    /// The streams of each length that was asked for.
    pub streams: Vec<(u64, Vec<Uuid>)>,
}

/// Tasks of each kind that are named in [`Filled`]; enough to ask for at random.
const NAMED: usize = 10_000;

/// A task body of about 300 bytes of JSON, like those that W2 and W3 submit.
pub fn task_payload(n: u64) -> Json {
    Json::of(&json!({
        "n": n,
        "document": format!("s3://inbox/{:016x}.pdf", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        "instructions": "summarise the document in three sentences and name its author; \
                         answer in the language of the document",
        "model": "large",
        "limits": { "tokens": 4_096, "seconds": 120 },
    }))
}

/// The command that submits the `n`th task to a queue.
pub fn submission(n: u64, queue: &str) -> SubmitTask {
    SubmitTask {
        kind: "summarise-document".into(),
        queue: queue.into(),
        payload: task_payload(n),
        ..SubmitTask::titled(format!("Summarise document {n}"))
    }
}

/// Appends what the plan says behind the head. Nobody else may append meanwhile.
pub async fn fill(log: &Log, plan: Plan) -> anyhow::Result<Filled> {
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("processor", "bench fill", TERM, true).await?;
    let lease = lease.context("the log's lease was not given")?;
    let mut made = Maker::new(lease.given_at);
    let mut filled = Filled::default();
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(log.writer().await?);
    }
    let mut out = Out { writers, token: lease.token, waiting: VecDeque::new() };

    for n in 0..AGENTS {
        made.agent(n)?;
    }
    out.push(&mut made, true).await?;
    // A batch holds whole lives alone, so it does not matter which of two comes first.
    for n in 0..plan.lives {
        let id = made.life(n, None)?;
        if filled.done.len() < NAMED {
            filled.done.push(id);
        }
        out.push(&mut made, false).await?;
    }
    for &(length, count) in plan.streams {
        let mut ids = Vec::new();
        for n in 0..count {
            ids.push(made.life(n, Some(length))?);
            out.push(&mut made, false).await?;
        }
        filled.streams.push((length, ids));
    }
    for n in 0..plan.open {
        let id = made.submitted(n)?.0;
        if filled.open.len() < NAMED {
            filled.open.push(id);
        }
        out.push(&mut made, false).await?;
    }
    out.push(&mut made, true).await?;
    leases.release(&lease).await?;
    filled.events = made.events;
    filled.commands = made.commands;
    filled.tasks = made.tasks;
    filled.head = log.head().await?.position;
    Ok(filled)
}

/// Batches on their way.
struct Out {
    writers: Vec<Writer>,
    token: i64,
    waiting: VecDeque<Append>,
}

impl Out {
    async fn push(&mut self, made: &mut Maker, last: bool) -> anyhow::Result<()> {
        if made.batch.events.len() >= BATCH || last {
            self.waiting.push_back(std::mem::take(&mut made.batch));
        }
        while self.waiting.len() >= self.writers.len() || (last && !self.waiting.is_empty()) {
            let some: Vec<_> = (0..self.writers.len())
                .filter_map(|_| self.waiting.pop_front())
                .filter(|batch| !batch.events.is_empty())
                .collect();
            let token = self.token;
            let appends = self.writers.iter().zip(&some).map(|(w, batch)| w.append(token, batch));
            try_join_all(appends).await?;
        }
        Ok(())
    }
}

/// Decides commands one after the other, as a processor does.
struct Maker {
    tenant: TenantId,
    now: Timestamp,
    actor: Arc<str>,
    batch: Append,
    agents: Vec<AgentId>,
    events: u64,
    commands: u64,
    tasks: u64,
}

type Stream = (Uuid, Aggregate, u64);

impl Maker {
    fn new(now: Timestamp) -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            now,
            actor: "bench".into(),
            batch: Append::default(),
            agents: Vec::new(),
            events: 0,
            commands: 0,
            tasks: 0,
        }
    }

    fn agent(&mut self, n: u64) -> anyhow::Result<()> {
        let id = Ids.fresh();
        let register = RegisterAgent::named(format!("filled-{n}-{id}"));
        let mut stream = None;
        self.decide(&mut stream, id, AgentCommand::Register(register))?;
        self.decide(&mut stream, id, AgentCommand::MarkReady(Reason::default()))?;
        self.agents.push(AgentId(id));
        Ok(())
    }

    fn submitted(&mut self, n: u64) -> anyhow::Result<(Uuid, Option<Stream>)> {
        let (id, mut stream) = (Ids.fresh(), None);
        self.tasks += 1;
        self.decide(&mut stream, id, TaskCommand::Submit(submission(n, "default")))?;
        Ok((id, stream))
    }

    /// A whole life; `length` events long where that is said.
    fn life(&mut self, n: u64, length: Option<u64>) -> anyhow::Result<Uuid> {
        let (id, mut stream) = self.submitted(n)?;
        let agent_id = self.agents[(n % AGENTS) as usize];
        let assign = AssignTask::to(agent_id);
        self.decide(&mut stream, id, TaskCommand::Assign(assign))?;
        let lease_token = 1;
        self.decide(&mut stream, id, TaskCommand::Start(StartTask { lease_token }))?;
        let progressed = match length {
            Some(length) => length.saturating_sub(4),
            None => u64::from(n.is_multiple_of(PROGRESS_EVERY)),
        };
        for step in 0..progressed {
            let progress = ProgressTask {
                lease_token,
                percent: Some((step % 100) as f64),
                message: Some(format!("page {step}")),
                data: Json::null(),
            };
            self.decide(&mut stream, id, TaskCommand::Progress(progress))?;
        }
        let result = Json::of(&json!({ "summary": "three sentences", "pages": n % 40 }));
        self.decide(&mut stream, id, TaskCommand::Complete(CompleteTask { lease_token, result }))?;
        Ok(id)
    }

    fn decide(
        &mut self,
        stream: &mut Option<Stream>,
        id: Uuid,
        command: impl Into<Command>,
    ) -> anyhow::Result<()> {
        let command: Command = command.into();
        let kind = command.stream_type();
        let (_, state, version) = stream.get_or_insert_with(|| (id, Aggregate::new(kind), 0));
        // A log that grew: a hundred microseconds between two commands.
        self.now += chrono::Duration::microseconds(100);
        let facts = Facts::new(self.now, self.actor.as_ref());
        let events = match state.decide(&command, &facts) {
            Ok(events) => events,
            Err(refusal) => bail!("the bench's own {} was refused: {refusal}", command.name()),
        };
        let command_id = Ids.fresh();
        for (index, event) in events.iter().enumerate() {
            state.apply(event);
            *version += 1;
            if let Some(ClaimChange::Take(claim)) = event.claim_change() {
                self.batch.taken.push((self.tenant.clone(), claim, id));
            }
            let new = NewEvent {
                tenant: self.tenant.clone(),
                stream_type: kind,
                stream_id: id,
                version: *version,
                event_type: event.name(),
                schema_version: event.schema_version(),
                event_id: event_id(command_id, index),
                command_id,
                actor: self.actor.clone(),
                correlation_id: Some(command_id),
                causation_position: None,
                trace: None,
                occurred_at: self.now,
                payload: Bytes::from(event.payload()),
                event: event.clone(),
            };
            self.batch.events.push(new.hashed());
        }
        self.events += events.len() as u64;
        self.commands += 1;
        self.batch.results.push(NewResult {
            command_id,
            tenant: self.tenant.clone(),
            fingerprint: CommandEnvelope::fingerprint_of(&command, Some(id)),
            stream_type: kind,
            stream_id: id,
            command: command.name(),
            actor: self.actor.clone(),
            version: *version,
            ordinal: self.batch.events.len() as u64,
            events: events.iter().map(Event::name).collect(),
            problem: None,
            credential: None,
            origin: None,
        });
        Ok(())
    }
}
