//! Deciding a batch in memory: each command on the state that the one before left.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use domain::task::{SubtaskLimits, Task, TaskTypes};
use domain::{
    Aggregate, Claim, ClaimChange, Code, Event, Facts, Outcome, OutcomeEvent, Problem, Refusal,
    Status, StreamType, TenantId, Timestamp, event_id,
};
use store::seeded::{Planted, planted};
use store::{Append, CommandRecord, NewEvent, NewResult, Origin, Snapshot, StreamKey, Written};
use uuid::Uuid;

use super::links;
use super::lookup::Known;
use super::{Pending, ProcessorConfig};
use crate::command::CommandEnvelope;
use crate::fence::{self, Fence, Standing};

/// A command id within its tenant.
pub(super) type CommandKey = (Uuid, TenantId);

/// A decided command that waits for its commit.
#[derive(Debug)]
pub(super) struct Decided {
    pub pending: Pending,
    pub version: u64,
    pub ordinal: u64,
    pub events: Vec<&'static str>,
    pub problem: Option<Problem>,
}

impl Decided {
    /// What its sender hears once the batch stands in the log.
    pub fn outcome(&self, written: Written) -> Outcome {
        let position = written.base + self.ordinal;
        let first = position + 1 - self.events.len() as u64;
        let events = (first..).zip(&self.events);
        Outcome {
            status: if self.problem.is_some() { Status::Refused } else { Status::Accepted },
            command_id: self.pending.command.command_id,
            stream_id: self.pending.command.stream_id,
            version: self.version,
            position,
            events: events
                .map(|(position, kind)| OutcomeEvent { kind: (*kind).into(), position })
                .collect(),
            problem: self.problem.clone(),
            original: None,
            retry_after_ms: None,
        }
    }
}

/// A batch that is decided and can be flushed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub append: Append,
    pub decided: Vec<Decided>,
    /// The speculative states; they become live with the commit.
    pub streams: HashMap<StreamKey, Snapshot>,
    /// Repeats of commands that were decided long ago, with their answers.
    pub answered: Vec<(Pending, Outcome)>,
    /// Commands that must wait for this batch's commit.
    pub parked: Vec<Pending>,
}

/// Decides commands in order.
pub(super) struct Decider {
    pub known: Known,
    pub now: Timestamp,
    pub stream_limit: u64,
    pub task_types: Arc<TaskTypes>,
    pub subtasks: SubtaskLimits,
    fence: Fence,
    batch: Batch,
    claims: HashSet<(TenantId, Claim)>,
    held_back: HashSet<StreamKey>,
}

impl Decider {
    pub fn new(
        known: Known,
        streams: HashMap<StreamKey, Snapshot>,
        now: Timestamp,
        config: &ProcessorConfig,
        fence: Fence,
    ) -> Self {
        let (stream_limit, task_types) = (config.stream_limit, config.task_types.clone());
        let batch = Batch { streams, ..Batch::default() };
        let (claims, held_back) = (HashSet::new(), HashSet::new());
        let subtasks = config.subtasks;
        Self { known, now, stream_limit, task_types, subtasks, fence, batch, claims, held_back }
    }

    pub fn decide(mut self, commands: Vec<Pending>) -> Batch {
        for pending in commands {
            let (key, id) = (pending.stream_key(), pending.command_key());
            let forgets = planted(Planted::DedupeForgets);
            if let Some(record) = self.known.results.get(&id).filter(|_| !forgets) {
                let mut outcome = repeat(&pending.command, record);
                if pending.failed && outcome.original.is_some() {
                    // Its own flush, whose answer was lost after the commit: no repeat.
                    outcome = outcome.decision().clone();
                }
                self.batch.answered.push((pending, outcome));
            } else if self.must_wait(&pending, &key) {
                self.held_back.insert(key);
                self.batch.parked.push(pending);
            } else if let Some(reason) = self.unreadable(&pending, &key) {
                let problem = Problem::new(Code::Internal, format!("its stream: {reason}"));
                let outcome = Outcome::undecided(Status::Invalid, id.0, key.1, problem);
                self.batch.answered.push((pending, outcome));
            } else {
                self.decide_one(pending, key);
            }
        }
        self.batch
    }

    /// Whether a command must not be decided in this batch: one before it on its stream, or
    /// on its parent's, was not, or the task's links were changed here already.
    fn must_wait(&self, pending: &Pending, key: &StreamKey) -> bool {
        let parent_waits = || pending.parent_key().is_some_and(|p| self.held_back.contains(&p));
        let relinks = || pending.command.command.links().is_some();
        self.held_back.contains(key)
            || parent_waits()
            || (self.known.links.has_changed(key) && relinks())
    }

    /// Why the stream of a command, or of the parent that it names, cannot be folded.
    fn unreadable(&self, pending: &Pending, key: &StreamKey) -> Option<&String> {
        let unreadable = &self.known.loaded.unreadable;
        unreadable.get(key).or_else(|| unreadable.get(&pending.parent_key()?))
    }

    fn decide_one(&mut self, pending: Pending, key: StreamKey) {
        let command = &pending.command;
        if !self.batch.streams.contains_key(&key) {
            let fresh =
                || Snapshot { version: 0, state: Aggregate::new(command.command.stream_type()) };
            let stream = self.known.loaded.streams.remove(&key).unwrap_or_else(fresh);
            self.batch.streams.insert(key.clone(), stream);
        }
        // The parent's state stays with the batch: it may be changed here, and asked for again.
        let parent = pending.parent_key();
        if let Some(parent) = &parent
            && let Some(stream) = self.known.loaded.streams.remove(parent)
        {
            self.batch.streams.entry(parent.clone()).or_insert(stream);
        }
        let Some(stream) = self.batch.streams.get(&key) else { return };

        let verdict = self.verdict(command, stream);
        let changes = verdict.as_ref().is_ok_and(|events| !events.is_empty());
        if stream.version == 0
            && !changes
            && !self.known.looked_for.contains(&key)
            && !command.new_stream
        {
            // Only an event would meet the one that shows that the stream is not new.
            self.held_back.insert(key);
            self.batch.parked.push(Pending { asks: true, ..pending });
            return;
        }
        let claims: Vec<ClaimChange> =
            verdict.iter().flatten().filter_map(Event::claim_change).collect();
        let wanted = command.command.claim();
        let touched = claims
            .iter()
            .map(|(ClaimChange::Take(claim) | ClaimChange::Free(claim))| claim)
            .chain(wanted.as_ref())
            .any(|claim| self.claims.contains(&(command.tenant.clone(), claim.clone())));
        if touched {
            // Who owns the claim is settled by this batch's commit, not before.
            self.held_back.insert(key);
            self.batch.parked.push(pending);
            return;
        }
        self.record(pending, key, verdict, claims);
    }

    fn verdict(&self, command: &CommandEnvelope, stream: &Snapshot) -> Result<Vec<Event>, Refusal> {
        // It may have waited here while another manager took over.
        if self.fence.standing(command) == Standing::Stale {
            return Err(fence::stale());
        }
        if let Some(expected) = command.expected_version.filter(|v| *v != stream.version) {
            let detail = format!("version {expected} expected, {} is current", stream.version);
            return Err(Refusal::new(Code::VersionMismatch, detail));
        }
        // A schedule, an agent, a node live on: what happens to them is an event of their stream, and snapshots keep it
        // quick to load.
        let endless = matches!(
            command.command.stream_type(),
            StreamType::Schedule | StreamType::Agent | StreamType::Node | StreamType::Profile
        );
        if stream.version >= self.stream_limit && !endless {
            return Err(Refusal::new(Code::StreamTooLong, "the stream takes no more events"));
        }
        let (actor, task_types) = (command.actor.clone(), self.task_types.clone());
        let parent = command.command.links().and_then(|links| links.parent);
        let parent = parent.and_then(|id| {
            let stream = self.batch.streams.get(&(command.tenant.clone(), id.0))?;
            links::task(stream)
        });
        let depth = parent.map_or(0, |parent: &Task| parent.depth.saturating_add(1));
        let command_id = command.command_id;
        let facts = Facts { now: self.now, actor, task_types, command_id, depth };
        // A fault in one rule must not take the batch with it.
        let events =
            catch_unwind(AssertUnwindSafe(|| stream.state.decide(&command.command, &facts)))
                .unwrap_or_else(|_| {
                    tracing::error!(
                        command = command.command.name(),
                        "a rule panicked; the command is refused"
                    );
                    Err(Refusal::new(Code::Internal, "the rule for this command broke"))
                })?;
        if let Some(links) = command.command.links() {
            let key = (command.tenant.clone(), command.stream_id);
            self.known.links.check(&key, links, parent, self.subtasks)?;
        }
        if let Some(claim) = command.command.claim() {
            let owner = self.known.owners.get(&(command.tenant.clone(), claim.clone()));
            if let Some(owner) = owner.filter(|owner| **owner != command.stream_id) {
                let detail = format!("`{}` belongs to {owner}", claim.value);
                return Err(Refusal {
                    conflicting_id: Some(*owner),
                    ..Refusal::new(Code::NameTaken, detail)
                });
            }
        }
        Ok(events)
    }

    fn record(
        &mut self,
        pending: Pending,
        key: StreamKey,
        verdict: Result<Vec<Event>, Refusal>,
        claims: Vec<ClaimChange>,
    ) {
        let Some(stream) = self.batch.streams.get_mut(&key) else { return };
        let command = &pending.command;
        let links = command.command.links().is_some() && verdict.is_ok();
        let before = links.then(|| links::task(stream).cloned()).flatten();
        let forgotten = planted(Planted::DedupeForgets)
            && self.known.results.contains_key(&pending.command_key());
        let command_id = if forgotten { Uuid::new_v4() } else { command.command_id };
        let append = &mut self.batch.append;
        // What nothing else caused is the root of what it causes.
        let correlation_id = Some(command.correlation_id.unwrap_or(command.command_id));
        let actor: Arc<str> = command.actor.as_str().into();
        let trace: Option<Arc<str>> = command.trace.as_deref().map(Into::into);
        let (events, problem) = match verdict {
            Ok(events) => (events, None),
            Err(refusal) => (Vec::new(), Some(Problem::from(&refusal))),
        };
        let names: Vec<&'static str> = events.iter().map(Event::name).collect();
        for (index, event) in events.into_iter().enumerate() {
            stream.state.apply(&event);
            stream.version += 1;
            let new = NewEvent {
                tenant: command.tenant.clone(),
                stream_type: event.stream_type(),
                stream_id: command.stream_id,
                version: stream.version,
                event_type: event.name(),
                schema_version: event.schema_version(),
                event_id: event_id(command_id, index),
                command_id,
                actor: actor.clone(),
                correlation_id,
                causation_position: command.causation_position,
                trace: trace.clone(),
                occurred_at: self.now,
                payload: Bytes::from(event.payload()),
                event,
            };
            append.events.push(new.hashed());
        }
        if let (Some(before), Some(after)) = (before, links::task(stream)) {
            self.known.links.decided(&key, &before, after, append);
        }
        for change in claims {
            let (list, claim) = match change {
                ClaimChange::Take(claim) => (&mut append.taken, claim),
                ClaimChange::Free(claim) => (&mut append.freed, claim),
            };
            self.claims.insert((command.tenant.clone(), claim.clone()));
            list.push((command.tenant.clone(), claim, command.stream_id));
        }
        append.results.push(NewResult {
            command_id,
            tenant: command.tenant.clone(),
            fingerprint: command.fingerprint,
            stream_type: command.command.stream_type(),
            stream_id: command.stream_id,
            command: command.command.name(),
            actor,
            version: stream.version,
            ordinal: append.events.len() as u64,
            events: names.clone(),
            problem: problem.as_ref().and_then(|problem| serde_json::to_string(problem).ok()),
            credential: command.credential.clone(),
            origin: problem.is_some().then_some(Origin {
                correlation_id,
                causation_position: command.causation_position,
                trace,
            }),
        });
        self.batch.decided.push(Decided {
            version: stream.version,
            ordinal: append.events.len() as u64,
            events: names,
            problem,
            pending,
        });
    }
}

/// The answer to a command whose id has a result: the first outcome, or a refusal
/// when something else was asked for under the same id.
pub(super) fn repeat(command: &CommandEnvelope, record: &CommandRecord) -> Outcome {
    // What was imported has none: nobody knows what was asked for.
    if !record.fingerprint.is_empty() && record.fingerprint != command.fingerprint {
        return mismatch(command, record.position);
    }
    let problem = record.problem.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let first = record.position + 1 - record.events.len() as u64;
    Outcome::duplicate_of(Outcome {
        status: if record.problem.is_some() { Status::Refused } else { Status::Accepted },
        command_id: record.command_id,
        stream_id: record.stream_id,
        version: record.version,
        position: record.position,
        events: (first..)
            .zip(&record.events)
            .map(|(position, kind)| OutcomeEvent { kind: kind.clone(), position })
            .collect(),
        problem,
        original: None,
        retry_after_ms: None,
    })
}

/// Refuses another body under a known id; changes nothing and is not remembered.
pub(super) fn mismatch(command: &CommandEnvelope, position: u64) -> Outcome {
    let problem = Problem::new(
        Code::IdempotencyMismatch,
        "this command id was used before with another command or body",
    );
    Outcome {
        position,
        ..Outcome::undecided(Status::Refused, command.command_id, command.stream_id, problem)
    }
}

/// Whether an outcome is that of [`mismatch`].
pub(super) fn is_mismatch(outcome: &Outcome) -> bool {
    outcome.problem.as_ref().and_then(Problem::code) == Some(Code::IdempotencyMismatch)
}
