//! Logs for the tests of the folds: histories that the aggregates themselves decided.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use domain::agent::{AgentCommand, AgentState, RegisterAgent, ReportAgent};
use domain::operation::OperationCommand;
use domain::task::{AssignTask, Reason, SubmitTask, TaskCommand};
use domain::{
    AgentId, Aggregate, Command, Event, Facts, Json, Recorded, StreamType, TenantId, Timestamp,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::Projection;
use crate::engine::memory::World;

/// A log in memory that decides its own commands.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Arc<Recorded>>,
    streams: HashMap<(TenantId, Uuid), (Aggregate, u64)>,
}

impl History {
    /// Decides a command for a stream of the default tenant; a refused one adds nothing.
    pub(crate) fn decide(&mut self, stream: u128, command: impl Into<Command>) -> usize {
        self.decide_for(&TenantId::default_tenant(), stream, command)
    }

    pub(crate) fn decide_for(
        &mut self,
        tenant: &TenantId,
        stream: u128,
        command: impl Into<Command>,
    ) -> usize {
        let command = command.into();
        let now = self.now();
        let facts = Facts::new(now, "tester");
        let key = (tenant.clone(), Uuid::from_u128(stream));
        let (state, version) =
            self.streams.entry(key).or_insert_with(|| (Aggregate::new(command.stream_type()), 0));
        let events = state.decide(&command, &facts).unwrap_or_default();
        for event in &events {
            state.apply(event);
            *version += 1;
            let position = self.events.len() as u64 + 1;
            let made = recorded(position, tenant, Uuid::from_u128(stream), *version, now, event);
            self.events.push(Arc::new(made));
        }
        events.len()
    }

    /// Changes the last event, as nobody could in a real log.
    pub(crate) fn spoil(&mut self, change: impl FnOnce(&mut Recorded)) {
        let mut event = self.events.pop().unwrap().as_ref().clone();
        event.decoded = OnceLock::new();
        change(&mut event);
        self.events.push(Arc::new(event));
    }

    /// A second per event.
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + chrono::Duration::seconds(self.events.len() as i64)
    }

    /// The world that a projection makes of it.
    pub(crate) fn world<P: Projection>(&self, projection: P) -> World<P> {
        let mut world = World::new(projection);
        world.apply(&self.events).unwrap();
        world
    }
}

fn recorded(
    position: u64,
    tenant: &TenantId,
    stream_id: Uuid,
    version: u64,
    at: Timestamp,
    event: &Event,
) -> Recorded {
    Recorded {
        position,
        epoch: 1,
        tenant: tenant.clone(),
        stream_type: event.stream_type(),
        stream_id,
        version,
        event_type: event.name().into(),
        schema_version: event.schema_version(),
        event_id: Uuid::from_u128(u128::from(position)),
        command_id: Uuid::from_u128(u128::from(position) << 64),
        actor: "tester".into(),
        correlation_id: None,
        causation_position: None,
        trace: None,
        occurred_at: at,
        recorded_at: at,
        payload: event.payload().into(),
        hash: [0; 32],
        decoded: OnceLock::new(),
    }
}

/// A command by its name and JSON body, as it comes from outside.
pub(crate) fn command(kind: StreamType, name: &str, body: &str) -> Command {
    Command::parse(kind, name, body.as_bytes()).unwrap()
}

pub(crate) fn task(name: &str, body: &str) -> Command {
    command(StreamType::Task, name, body)
}

/// Any history of a few tasks, agents and operations of two tenants.
pub(crate) fn any_history() -> impl Strategy<Value = History> {
    let step = (any::<bool>(), 0..24u8, 1..5u128, 1..4u64, "[a-z]{0,6}");
    proptest::collection::vec(step, 0..120).prop_map(|steps| {
        let mut history = History::default();
        for (other, what, stream, token, text) in steps {
            let tenant = if other { "other" } else { "default" };
            let tenant = TenantId::parse(tenant).unwrap();
            let (id, command) = step_of(what, stream, token, text);
            history.decide_for(&tenant, id, command);
        }
        history
    })
}

fn step_of(what: u8, n: u128, token: u64, text: String) -> (u128, Command) {
    use TaskCommand as T;
    let why = || Reason { reason: Some(text.clone()) };
    let by = |name: &str, more: &str| task(name, &format!(r#"{{"lease_token":{token}{more}}}"#));
    let command: Command = match what {
        0 | 1 => {
            let mut new = SubmitTask::titled(format!("title {text}"));
            new.queue = format!("q{}", n % 2);
            new.triage = token == 3;
            new.payload = Json::parse(r#"{"b":1.10,"a":[1e3]}"#).unwrap();
            T::Submit(new).into()
        }
        2 => task("update", &format!(r#"{{"title":"new {text}","description":null}}"#)),
        3..=6 => {
            let to = AssignTask::to(AgentId::nth(200 + n));
            T::Assign(to).into()
        }
        7 | 8 => by("start", ""),
        9 => by("progress", r#","percent":12.345,"data":{"x":1.0}"#),
        10 => by("complete", r#","result":{"ok":true}"#),
        11 => by("fail", r#","error":"boom","retryable":false"#),
        12 => by("fail", r#","error":{"message":"boom"}"#),
        13 => by("release", ""),
        14 => T::Block(domain::task::BlockTask {
            reason: "w".into(),
            lifted_by: vec![],
            lease_token: None,
        })
        .into(),
        15 => T::Unblock(why()).into(),
        16 => T::Cancel(why().into()).into(),
        17 => T::Requeue(Default::default()).into(),
        18 => T::Archive(why()).into(),
        19 => {
            let new = RegisterAgent::named(format!("agent {n}"));
            return (200 + n, AgentCommand::Register(new).into());
        }
        20 => return (200 + n, AgentCommand::MarkReady(why()).into()),
        21 => {
            let seen = ReportAgent { observed_state: AgentState::Blocked, reason: None };
            return (200 + n, AgentCommand::Report(seen).into());
        }
        22 => {
            let body = r#"{"kind":"agent.drain","resource":{"type":"agent","id":"a"}}"#;
            return (300 + n, command(StreamType::Operation, "accept", body));
        }
        _ => return (300 + n, OperationCommand::Start(why()).into()),
    };
    (100 + n, command)
}
