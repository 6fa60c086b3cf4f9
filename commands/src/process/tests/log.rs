//! A log in memory that decides with the real aggregates.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use domain::{Aggregate, Code, Facts, Outcome, OutcomeEvent, Problem, Recorded, Status, Timestamp};
use uuid::Uuid;

use crate::{CommandEnvelope, Fingerprint};

#[derive(Default)]
pub struct Log {
    pub events: Vec<Arc<Recorded>>,
    /// The state of each stream, with its version.
    streams: HashMap<Uuid, (Aggregate, u64)>,
    results: HashMap<Uuid, (Fingerprint, Outcome)>,
}

impl Log {
    /// Decides a command as the processor does: a known id has its first outcome.
    pub fn decide(&mut self, command: &CommandEnvelope, now: Timestamp) -> Outcome {
        let (id, stream) = (command.command_id, command.stream_id);
        if let Some((fingerprint, first)) = self.results.get(&id) {
            if *fingerprint == command.fingerprint {
                return Outcome::duplicate_of(first.clone());
            }
            let problem = Problem::new(Code::IdempotencyMismatch, "another body");
            return Outcome {
                events: vec![],
                problem: Some(problem),
                status: Status::Refused,
                ..first.clone()
            };
        }
        let kind = command.command.stream_type();
        let facts = Facts { command_id: id, ..Facts::new(now, command.actor.clone()) };
        let (state, version) =
            self.streams.entry(stream).or_insert_with(|| (Aggregate::new(kind), 0));
        let mut outcome = Outcome {
            status: Status::Accepted,
            command_id: id,
            stream_id: stream,
            version: *version,
            position: 0,
            events: vec![],
            problem: None,
            original: None,
            retry_after_ms: None,
        };
        let changed = command.expected_version.is_some_and(|expected| expected != *version);
        match state.decide(&command.command, &facts) {
            _ if changed => {
                outcome.status = Status::Refused;
                outcome.problem = Some(Problem::new(Code::VersionMismatch, "it has changed"));
            }
            Err(refusal) => {
                outcome.status = Status::Refused;
                outcome.problem = Some(Problem::from(&refusal));
            }
            Ok(events) => {
                for event in events {
                    state.apply(&event);
                    *version += 1;
                    outcome.version = *version;
                    let position = self.events.len() as u64 + 1;
                    outcome.events.push(OutcomeEvent { kind: event.name().into(), position });
                    self.events.push(Arc::new(Recorded {
                        position,
                        epoch: 1,
                        tenant: command.tenant.clone(),
                        stream_type: kind,
                        stream_id: stream,
                        version: *version,
                        event_type: event.name().into(),
                        schema_version: event.schema_version(),
                        event_id: domain::event_id(id, outcome.events.len()),
                        command_id: id,
                        actor: command.actor.as_str().into(),
                        correlation_id: command.correlation_id,
                        causation_position: command.causation_position,
                        trace: command.trace.as_deref().map(Into::into),
                        occurred_at: facts.now,
                        recorded_at: facts.now,
                        payload: event.payload().into(),
                        hash: [0; 32],
                        decoded: OnceLock::from(Ok(event)),
                    }));
                }
            }
        }
        outcome.position = self.events.len() as u64;
        self.results.insert(id, (command.fingerprint, outcome.clone()));
        outcome
    }
}
