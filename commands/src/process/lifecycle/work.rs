//! Operations about agents: each ends when what was wished of the agent has come about, and
//! those about many agents take them a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::agent::{AgentCommand, Reason};
use domain::node::NodeCommand;
use domain::operation::{CommandSpec, OperationProgress};
use domain::{AgentId, Code, Command, Json, OperationId, Outcome, Problem, Status, operation_id};
use futures::{StreamExt, stream};
use serde::Deserialize;
use uuid::Uuid;

use super::fleet::Life;
use crate::process::perform::Session;
use crate::process::{SchedulerHandle, command_id};
use crate::{Boxed, CommandEnvelope, Errand, Work};

/// Restarts the agents of a selection, a few at a time.
pub const ROLLING_RESTART: &str = "fleet.restart";
/// Empties a node: nothing new is placed there, and its agents move, a few at a time.
pub const NODE_DRAIN: &str = "node.drain";
/// Who the commands are from.
const ACTOR: &str = "operator:rolling";
/// Agents that may be on their way at once, when nobody said so.
const AT_ONCE: u32 = 1;
/// Operations of others that a round awaits for one agent.
const MOST_TURNS: u32 = 10;

/// The commands of an agent that take their time: operations `agent.<command>` follow them.
pub const LONG_COMMANDS: &[&str] =
    &["deploy", "drain", "hibernate", "wake", "restart", "retire", "force_stop"];

/// Whether an operation only waits for one agent.
pub(in crate::process) fn is_about_one(kind: &str) -> bool {
    kind.strip_prefix("agent.").is_some_and(|command| LONG_COMMANDS.contains(&command))
}

/// Follows what was wished of one agent to the end.
pub struct AgentWork(pub(in crate::process) Arc<SchedulerHandle>);

impl Work for AgentWork {
    fn takes(&self, kind: &str) -> bool {
        is_about_one(kind)
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let session = handle.session().await.ok_or_else(not_here)?;
            let agent: Uuid = errand.accepted.resource.id.parse().map_err(|_| no_agent())?;
            let mut seen = errand.position;
            if let Some(outcome) = decided(&errand).await? {
                seen = seen.max(outcome.decision().position);
                // The managers before may have died between the commit and the word.
                if outcome.status == Status::Duplicate
                    && let Some(word) = errand.accepted.command.as_ref().and_then(word_of)
                {
                    let tenant = errand.tenant.clone();
                    session.wire.control(tenant, AgentId(agent), word).await;
                }
            }
            session.folded_to(seen).await;
            let told = |message: String| {
                let step = OperationProgress { done: 0, total: Some(1), message };
                // Whoever is too slow to listen misses a word; the next one comes.
                let _ = errand.progress.try_send(step);
            };
            wait(&session, OperationId(errand.id), AgentId(agent), told).await
        })
    }
}

/// Waits until an operation about an agent has come to its end.
async fn wait(
    session: &Session,
    operation: OperationId,
    agent: AgentId,
    told: impl Fn(String),
) -> Result<Json, Problem> {
    let mut folded = session.folded.subscribe();
    let mut last = String::new();
    loop {
        let (ended, words) = session.lifecycle.lock().standing(operation, agent);
        if let Some(result) = ended {
            return result;
        }
        if words != last {
            last.clone_from(&words);
            told(words);
        }
        if folded.changed().await.is_err() {
            return Err(not_here());
        }
    }
}

impl super::Lifecycle {
    fn standing(
        &self,
        operation: OperationId,
        agent: AgentId,
    ) -> (Option<Result<Json, Problem>>, String) {
        let life = self.fleet.agents.get(&agent);
        let words = life.map_or_else(String::new, words);
        if life.is_some_and(|life| life.agent.operation == Some(operation)) {
            return (None, words);
        }
        let result = match self.ended.get(&operation.0) {
            Some(Err(problem)) => Err(problem.clone()),
            // Without an end of its own there was nothing to wait for.
            Some(Ok(())) | None => Ok(picture(agent, life)),
        };
        (Some(result), words)
    }

    /// What a round does about an agent that would not be restarted.
    pub(super) fn after_refusal(
        &self,
        which: &Selection,
        agent: AgentId,
        problem: &Problem,
    ) -> Next {
        if !self.fleet.agents.get(&agent).is_some_and(|life| which.has(agent, life)) {
            return Next::PassOver;
        }
        let other = problem.conflicting_id.filter(|_| problem.code() == Some(Code::InProgress));
        other.map_or(Next::GiveUp, |other| Next::Await(OperationId(other)))
    }

    /// Agents of a selection: the managed ones that should run.
    fn chosen(&self, tenant: &domain::TenantId, which: &Selection) -> Vec<AgentId> {
        let mut found: Vec<_> = self
            .fleet
            .agents
            .iter()
            .filter(|(id, life)| life.tenant == *tenant && which.has(**id, life))
            .map(|(id, life)| (life.agent.name.clone(), *id))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }
}

/// The word that its own process is sent.
fn word_of(spec: &CommandSpec) -> Option<&'static str> {
    match spec.command.as_str() {
        "drain" | "hibernate" => Some("drain"),
        "force_stop" | "retire" | "restart" => Some("stop"),
        "wake" => Some("wake"),
        _ => None,
    }
}

fn words(life: &Life) -> String {
    let state = life.agent.state.map_or("unknown", domain::agent::AgentState::as_str);
    if life.reason.is_empty() { state.into() } else { format!("{state}: {}", life.reason) }
}

fn picture(agent: AgentId, life: Option<&Life>) -> Json {
    Json::of(&serde_json::json!({
        "agent_id": agent,
        "state": life.and_then(|life| life.agent.state),
        "generation": life.map(|life| life.agent.generation),
        "node_id": life.filter(|life| life.is_live()).and_then(Life::node),
    }))
}

/// Has the command that an operation carries decided, if it carries one.
async fn decided(errand: &Errand) -> Result<Option<Outcome>, Problem> {
    let Some(spec) = &errand.accepted.command else { return Ok(None) };
    let command = Command::parse(spec.kind, &spec.command, spec.body.as_str().as_bytes())?;
    let named = (!command.creates()).then_some(spec.id);
    let envelope = CommandEnvelope {
        fingerprint: CommandEnvelope::fingerprint_of(&command, named),
        correlation_id: Some(errand.id),
        causation_position: Some(errand.position),
        expected_version: spec.expected_version,
        ..CommandEnvelope::new(
            errand.tenant.clone(),
            spec.id,
            command,
            spec.command_id,
            &*errand.actor,
        )
    };
    let outcome = errand.executor.execute(envelope).await;
    let decision = outcome.decision();
    match &decision.problem {
        Some(problem) => Err(problem.clone()),
        None if decision.status == Status::Busy => Err(not_here()),
        None => Ok(Some(outcome)),
    }
}

/// Which agents, and how many at a time.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::process) struct Selection {
    /// With this label: a name, or `name=value`.
    label: Option<String>,
    /// Of this profile.
    profile: Option<String>,
    /// Of this role.
    role: Option<String>,
    /// On this node.
    node_id: Option<Uuid>,
    /// Agents that may be on their way at once.
    max_unavailable: Option<u32>,
    reason: Option<String>,
}

impl Selection {
    fn has(&self, _: AgentId, life: &Life) -> bool {
        let Some(said) = life.agent.managed.as_deref() else { return false };
        if life.agent.desired != domain::agent::Desired::Running {
            return false;
        }
        let labels = crate::process::roster::Labelled::of(&said.labels);
        let labelled = self.label.as_ref().is_none_or(|label| match label.split_once('=') {
            Some((name, value)) => labels.value(name) == Some(value),
            None => labels.has(label, &[]),
        });
        let profile = life.launch.as_ref().and_then(|launch| launch.profile_name.as_ref());
        labelled
            && self.role.as_ref().is_none_or(|role| *role == said.role)
            && self.profile.as_ref().is_none_or(|name| profile == Some(name))
            && self.node_id.is_none_or(|node| life.is_live() && life.node() == Some(node))
    }
}

/// Carries out what is about many agents.
pub struct FleetWork(pub(in crate::process) Arc<SchedulerHandle>);

impl Work for FleetWork {
    fn takes(&self, kind: &str) -> bool {
        kind == ROLLING_RESTART || kind == NODE_DRAIN
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let session = handle.session().await.ok_or_else(not_here)?;
            let mut which: Selection = match errand.accepted.input.is_null() {
                true => Selection::default(),
                false => errand
                    .accepted
                    .input
                    .read()
                    .map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?,
            };
            let mut seen = errand.position;
            if errand.accepted.kind == NODE_DRAIN {
                let node: Uuid = errand.accepted.resource.id.parse().map_err(|_| no_agent())?;
                which.node_id = Some(node);
                let reason = which.reason.clone();
                let drain = NodeCommand::Drain(Reason { reason });
                let id = command_id(node, ACTOR, format_args!("{}:drain", errand.id));
                let outcome = errand.executor.execute(envelope(&errand, node, drain, id)).await;
                let decision = outcome.decision();
                let drains = decision
                    .problem
                    .as_ref()
                    .is_some_and(|problem| problem.state.as_deref() == Some("draining"));
                if let Some(problem) = decision.problem.as_ref().filter(|_| !drains) {
                    return Err(problem.clone());
                }
                seen = seen.max(decision.position);
            }
            session.folded_to(seen).await;
            let result = roll(&session, &errand, &which).await?;
            // What was on its way to the node when the drain began has landed there since.
            if errand.accepted.kind == NODE_DRAIN {
                roll(&session, &errand, &which).await?;
            }
            Ok(result)
        })
    }
}

/// Restarts the chosen agents; one that does not come back ends the round, so that a fault
/// does not take the whole fleet.
async fn roll(session: &Arc<Session>, errand: &Errand, which: &Selection) -> Result<Json, Problem> {
    let chosen = session.lifecycle.lock().chosen(&errand.tenant, which);
    let total = chosen.len() as u64;
    let at_once = which.max_unavailable.unwrap_or(AT_ONCE).clamp(1, 1_000) as usize;
    let tell = |done: u64, message: String| {
        let _ = errand.progress.try_send(OperationProgress { done, total: Some(total), message });
    };
    tell(0, format!("{total} agents, {at_once} at a time"));
    let one = |agent: AgentId| async move { (agent, turn(session, errand, which, agent).await) };
    let (mut done, mut failed) = (0u64, BTreeMap::new());
    let mut under_way = stream::iter(chosen).map(one).buffer_unordered(at_once);
    while let Some((agent, result)) = under_way.next().await {
        done += 1;
        if let Err(problem) = result {
            failed.insert(agent.to_string(), problem.detail);
            break;
        }
        tell(done, format!("{agent} is back"));
    }
    if let Some((agent, why)) = failed.first_key_value() {
        let detail =
            format!("agent {agent} did not come back ({why}); {done} of {total} were begun");
        return Err(Problem::new(Code::NotPossible, detail));
    }
    Ok(Json::of(&serde_json::json!({ "agents": total })))
}

/// Restarts one agent of a round, after what somebody else has under way for it.
async fn turn(
    session: &Arc<Session>,
    errand: &Errand,
    which: &Selection,
    agent: AgentId,
) -> Result<Json, Problem> {
    let mut refused = not_here();
    for nth in 0..MOST_TURNS {
        let word = if nth == 0 { String::new() } else { format!(":{nth}") };
        let id = command_id(agent.0, ACTOR, format_args!("{}:restart{word}", errand.id));
        let why = which.reason.clone().unwrap_or_else(|| errand.accepted.kind.clone());
        let restart = AgentCommand::Restart(Reason { reason: Some(why) });
        let outcome = errand.executor.execute(envelope(errand, agent.0, restart, id)).await;
        let decision = outcome.decision();
        let Some(problem) = &decision.problem else {
            session.folded_to(decision.position).await;
            return wait(session, operation_id(id), agent, |_| {}).await;
        };
        let head = *session.source.watch().borrow();
        session.folded_to(head).await;
        let next = session.lifecycle.lock().after_refusal(which, agent, problem);
        match next {
            Next::PassOver => return Ok(Json::null()),
            // However it ends: what the agent is then is looked at anew.
            Next::Await(other) => drop(wait(session, other, agent, |_| {}).await),
            Next::GiveUp => return Err(problem.clone()),
        }
        refused = problem.clone();
    }
    Err(refused)
}

/// What a round does about an agent that would not be restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is none of those that the round is about any more.
    PassOver,
    /// Somebody else's operation is under way for it.
    Await(OperationId),
    /// It cannot be restarted.
    GiveUp,
}

fn envelope(
    errand: &Errand,
    stream: Uuid,
    command: impl Into<Command>,
    command_id: Uuid,
) -> CommandEnvelope {
    CommandEnvelope {
        correlation_id: Some(errand.id),
        causation_position: Some(errand.position),
        ..CommandEnvelope::new(errand.tenant.clone(), stream, command, command_id, ACTOR)
    }
}

fn not_here() -> Problem {
    Problem::new(Code::Unavailable, "the managers do not run in this process at present")
}

fn no_agent() -> Problem {
    Problem::new(Code::InvalidParameter, "the resource's id is no UUID")
}
