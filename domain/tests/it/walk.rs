//! Random walks: steps that mostly fit the state they meet, so that walks go deep.

use chrono::TimeDelta;
use domain::agent::{Agent, AgentCommand, AgentState, Phase};
use domain::node::{Node, NodeCommand};
use domain::operation::OperationCommand;
use domain::schedule::{Schedule, ScheduleCommand, ScheduleKind};
use domain::task::TaskCommand;
use domain::{Aggregate, Command, Event, Facts, StreamType};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{at, facts};

/// One step: which command, with which of a few choices, and how much later.
#[derive(Debug, Clone)]
pub struct Step {
    which: prop::sample::Index,
    pick: u8,
    later_us: i64,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<prop::sample::Index>(), any::<u8>(), 0..45_000_000i64);
    vec(step.prop_map(|(which, pick, later_us)| Step { which, pick, later_us }), 0..60)
}

/// A state that was met, the command it was asked and what it said.
pub struct Met {
    pub before: Aggregate,
    pub command: Command,
    pub facts: Facts,
    pub answer: Result<Vec<Event>, domain::Refusal>,
    pub after: Aggregate,
}

/// Walks through a stream's life; refused steps leave it where it is.
pub fn walk(kind: StreamType, steps: &[Step]) -> Vec<Met> {
    let mut state = Aggregate::new(kind);
    let mut now = at(0);
    let mut met = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        now += TimeDelta::microseconds(step.later_us);
        let names = Command::names(kind);
        let name = if index == 0 { names[0] } else { step.which.get(names) };
        let body = body(&state, name, step.pick);
        let command = Command::parse(kind, name, body.as_bytes()).expect("a good body");
        let facts = facts(now);
        let answer = state.decide(&command, &facts);
        let before = state.clone();
        for event in answer.iter().flatten() {
            state.apply(event);
        }
        met.push(Met { before, command, facts, answer, after: state.clone() });
    }
    met
}

/// A body for a command; three of four show the current token.
pub fn body(state: &Aggregate, name: &str, pick: u8) -> String {
    if let Aggregate::Schedule(schedule) = state {
        return schedule_body(schedule, name, pick);
    }
    let pick = u64::from(pick);
    let lease = match state {
        Aggregate::Task(task) if pick % 4 == 3 => task.tokens.saturating_sub(pick / 4 % 3),
        Aggregate::Task(task) => task.tokens,
        Aggregate::Agent(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Schedule(_)
        | Aggregate::Queue(_)
        | Aggregate::Node(_)
        | Aggregate::Profile(_) => 0,
    };
    match state {
        Aggregate::Agent(agent) => {
            if let Some(body) = agent_body(agent, name, pick) {
                return body;
            }
        }
        Aggregate::Node(node) => return node_body(node, name, pick),
        Aggregate::Profile(_) => {
            let profile = if name == "put" { r#","profile":{"command":["a"]}"# } else { "" };
            return format!(r#"{{"name":"p"{profile}}}"#);
        }
        Aggregate::Task(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Schedule(_)
        | Aggregate::Queue(_) => {}
    }
    let agent = domain::AgentId::nth(u128::from(pick % 3 + 1));
    let lease_ms = 1_000 + pick * 200;
    match name {
        _ if matches!(state, Aggregate::Queue(_)) && pick % 2 == 0 => r#"{"queue":"q"}"#.into(),
        "configure" => format!(r#"{{"queue":"q","policy":{{"weight":{}}}}}"#, pick % 9 + 1),
        _ if matches!(state, Aggregate::Queue(_)) => r#"{"queue":"q","reason":"so"}"#.into(),
        "submit" => format!(
            r#"{{"title":"t","triage":{},"retry":{{"max_attempts":{},"backoff_ms":{}}}}}"#,
            pick % 4 == 0,
            pick % 5 + 1,
            pick * 100
        ),
        "assign" | "reassign" => format!(r#"{{"agent_id":"{agent}","lease_ms":{lease_ms}}}"#),
        "assign_role" => format!(r#"{{"agent_id":"{agent}","role":"r{pick}"}}"#),
        "assemble" => r#"{"name":"c","agents":[]}"#.into(),
        "start" if !matches!(state, Aggregate::Task(_)) => "{}".into(),
        "start" | "complete" | "release" | "expire_lease" => {
            format!(r#"{{"lease_token":{lease}}}"#)
        }
        "progress" if matches!(state, Aggregate::Operation(_)) => format!(r#"{{"done":{pick}}}"#),
        "progress" => format!(r#"{{"lease_token":{lease},"percent":{}}}"#, pick as f64 / 2.57),
        "extend" => format!(r#"{{"lease_token":{lease},"lease_ms":{lease_ms}}}"#),
        "fail" if matches!(state, Aggregate::Operation(_)) => {
            let problem = domain::Problem::new(domain::Code::Internal, "p");
            format!(r#"{{"problem":{}}}"#, domain::Json::of(&problem).as_str())
        }
        "fail" => format!(r#"{{"lease_token":{lease},"retryable":{}}}"#, pick % 5 != 0),
        "block" if pick % 2 == 0 => r#"{"reason":"r"}"#.into(),
        "block" => format!(r#"{{"reason":"r","lease_token":{lease}}}"#),
        "update" if matches!(state, Aggregate::Agent(_)) => r#"{"slots":2}"#.into(),
        "update" if pick % 5 == 2 => {
            r#"{"depends_on":["0192f0c0-0000-7000-8000-0000000000ab"]}"#.into()
        }
        "update" if pick % 5 == 3 => r#"{"dependency":{"need":"any","on":"end"}}"#.into(),
        "update" => r#"{"description":null,"priority":"low"}"#.into(),
        "escalate" => format!(
            r#"{{"since":"2026-01-01T00:00:0{}Z","due_at":"2026-01-01T00:0{}:00Z",
            "path":["0192f0c0-0000-7000-8000-0000000000ab"]}}"#,
            pick % 3,
            pick % 10
        ),
        "register" => {
            let known = match state {
                Aggregate::Agent(agent) if pick % 8 != 7 => agent.name.as_str(),
                Aggregate::Agent(_)
                | Aggregate::Task(_)
                | Aggregate::Operation(_)
                | Aggregate::Crew(_)
                | Aggregate::Schedule(_)
                | Aggregate::Queue(_)
                | Aggregate::Node(_)
                | Aggregate::Profile(_) => "",
            };
            let new = if pick % 2 == 0 { "ada" } else { "bob" };
            let name = if known.is_empty() { new } else { known };
            format!(r#"{{"name":"{name}"}}"#)
        }
        "report" => {
            let seen: Vec<_> =
                AgentState::ALL.into_iter().filter(|s| s.can_be_observed()).collect();
            let seen = seen[pick as usize % seen.len()];
            format!(r#"{{"observed_state":"{}"}}"#, seen.as_str())
        }
        "accept" => r#"{"kind":"k","resource":{"type":"agent","id":"1"}}"#.into(),
        _ if pick % 2 == 0 => "{}".into(),
        "submit_for_review" | "succeed" => format!(r#"{{"result":{pick}}}"#),
        _ => r#"{"reason":"so"}"#.into(),
    }
}

/// What nodes and managers say of an agent, three of four times of its present process.
fn agent_body(agent: &Agent, name: &str, pick: u64) -> Option<String> {
    let node = uuid::Uuid::from_u128(9);
    Some(match name {
        "register" if pick % 3 != 0 => {
            let known = if agent.name.is_empty() { "ada" } else { &agent.name };
            format!(r#"{{"name":"{known}","profile":{{"command":["a"]}}}}"#)
        }
        "validate" => r#"{"reason":"r"}"#.into(),
        "begin_round" => "{}".into(),
        "end_round" => r#"{"summary":"s"}"#.into(),
        "assess" => {
            let seen: Vec<_> =
                AgentState::ALL.into_iter().filter(|s| s.can_be_observed()).collect();
            let seen = seen[pick as usize % seen.len()];
            format!(r#"{{"state":"{}","reason":"r"}}"#, seen.as_str())
        }
        "place" => format!(
            r#"{{"node_id":"{node}","node":"n",
            "launch":{{"role":"worker","slots":1,"profile":{{"command":["a"]}}}}}}"#
        ),
        "observe" => {
            let (generation, seq) =
                agent.process.as_ref().map_or((1, 0), |process| (process.generation, process.seq));
            let generation = if pick % 4 == 3 { generation.saturating_sub(1) } else { generation };
            let phase = Phase::ALL[pick as usize % Phase::ALL.len()].as_str();
            format!(
                r#"{{"node_id":"{node}","generation":{generation},"seq":{},"phase":"{phase}"}}"#,
                u64::from(seq) + pick % 3
            )
        }
        "schedule_restart" => r#"{"delay_ms":5,"attempt":1,"reason":"r"}"#.into(),
        "quarantine" => r#"{"restarts":5,"window_ms":1000,"reason":"r"}"#.into(),
        "hand_back" => r#"{"tasks":2,"waited_ms":5}"#.into(),
        "drift" => r#"{"state":"open","desired":"ready","age_ms":5,"owner":"node"}"#.into(),
        _ => return None,
    })
}

fn node_body(node: &Node, name: &str, pick: u64) -> String {
    match name {
        "register" => {
            let known = if node.name.is_empty() { "n" } else { &node.name };
            format!(
                r#"{{"name":"{known}",
                "capacity":{{"cpu_millis":1000,"memory_bytes":1073741824,"slots":1}}}}"#
            )
        }
        "assess" => {
            let state = if pick % 2 == 0 { "offline" } else { "online" };
            format!(r#"{{"state":"{state}","reason":"r"}}"#)
        }
        _ => "{}".into(),
    }
}

/// The names of the commands that a state says it takes.
pub fn allowed(state: &Aggregate) -> Option<Vec<&'static str>> {
    match state {
        Aggregate::Task(task) if task.archived => Some(vec![]),
        Aggregate::Task(task) => task.state.map(|state| state.allowed().to_vec()),
        Aggregate::Agent(agent) => agent.state.map(|_| agent.allowed()),
        Aggregate::Operation(operation) => operation.state.map(|state| state.allowed().to_vec()),
        Aggregate::Schedule(schedule) => schedule.state.map(|_| schedule.allowed()),
        Aggregate::Queue(queue) => Some(queue.state.allowed().to_vec()),
        Aggregate::Node(node) => node.state.map(|state| state.allowed().to_vec()),
        Aggregate::Crew(_) | Aggregate::Profile(_) => None,
    }
}

/// Whether a command may be taken though the list does not name it: a creation, or
/// what only repeats or records what is so already.
pub fn unlisted(command: &Command) -> bool {
    match command {
        Command::Task(command) => {
            matches!(
                command,
                TaskCommand::Submit(_) | TaskCommand::ExpireLease(_) | TaskCommand::Escalate(_)
            )
        }
        Command::Agent(command) => matches!(command, AgentCommand::Register(_)),
        Command::Operation(command) => matches!(command, OperationCommand::Accept(_)),
        Command::Schedule(command) => matches!(
            command,
            ScheduleCommand::Create(_)
                | ScheduleCommand::Fire(_)
                | ScheduleCommand::Skip(_)
                | ScheduleCommand::ReportFailure(_)
        ),
        Command::Node(command) => matches!(command, NodeCommand::Register(_)),
        Command::Crew(_) | Command::Profile(_) => true,
        Command::Queue(_) => false,
    }
}

/// A body for a schedule's command; slots and events are mostly the next ones.
fn schedule_body(schedule: &Schedule, name: &str, pick: u8) -> String {
    let off = chrono::TimeDelta::seconds(i64::from(pick % 8 / 7));
    let next = schedule.next_run().unwrap_or(schedule.cursor) + off;
    let place = match schedule.kind() {
        Some(ScheduleKind::Event) => {
            format!(r#""position":{}"#, schedule.event_cursor + u64::from(pick % 3))
        }
        _ => format!(r#""slot_at":"{}""#, next.to_rfc3339()),
    };
    let task = r#""task":{"title":"t"}"#;
    match name {
        "create" => match pick % 4 {
            0 | 1 => format!(r#"{{"name":"s","interval_ms":5000,{task}}}"#),
            2 => format!(r#"{{"name":"s","cron":"* * * * *","timezone":"Asia/Tokyo",{task}}}"#),
            _ => format!(r#"{{"name":"s","on_event":{{"type":"task.completed"}},{task}}}"#),
        },
        "update" if pick % 4 == 3 => r#"{"at":"2026-01-01T00:05:00Z"}"#.into(),
        "update" => r#"{"name":"other"}"#.into(),
        "fire" => format!("{{{place}}}"),
        "skip" => format!(r#"{{{place},"reason":"overlap"}}"#),
        "backfill" => {
            let from = schedule.cursor - chrono::TimeDelta::minutes(10);
            let (from, to) = (from.to_rfc3339(), schedule.cursor.to_rfc3339());
            format!(r#"{{"from":"{from}","to":"{to}"}}"#)
        }
        "report_failure" => {
            let problem = domain::Problem::new(domain::Code::Internal, "p");
            let run = schedule.run.max(1) + u64::from(pick % 4);
            format!(r#"{{"run":{run},"problem":{}}}"#, domain::Json::of(&problem).as_str())
        }
        _ if pick.is_multiple_of(2) => "{}".into(),
        _ => r#"{"reason":"so"}"#.into(),
    }
}
