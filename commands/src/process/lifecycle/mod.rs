//! Lifecycles: what is wished of agents that nodes run is brought about, step by step.
//!
//! A fold of agents, nodes, profiles and held tasks; what it asks for follows from what
//! stands open in it ([`step`]). What a node should run it learns when it says what it runs
//! ([`door`]), so nothing has to be remembered on the way to it. A wish that an operation
//! follows ends with it ([`work`]).

mod door;
mod fleet;
mod held;
mod place;
#[cfg(test)]
mod sim;
mod step;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use domain::agent::{AgentCommand, AgentEvent, Phase};
use domain::node::{AssessNode, NodeCommand, NodeState, Want};
use domain::operation::{AcceptOperation, OperationCommand, OperationEvent, Resource};
use domain::profile::{Mode, Watch};
use domain::{AgentId, Event, Outcome, Recorded, Status, TenantId, Timestamp};
use uuid::Uuid;

pub use door::LifecycleHandle;
pub(in crate::process) use work::is_about_one;
pub use work::{AgentWork, FleetWork, LONG_COMMANDS, NODE_DRAIN, ROLLING_RESTART};

use super::{Manager, Moment, command_id, until};
use crate::CommandEnvelope;
use fleet::{Ended, Fleet, Life, operation_of};
use held::Held;
use step::{Ask, Look};

/// Who the commands are from.
const ACTOR: &str = "manager:lifecycle";
/// Silence after which a node counts as offline.
const NODE_SILENT: Duration = Duration::from_secs(30);
/// How often nodes, and the demand for sleepers, are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the gateway has to accept the operation of a command that it took.
const ACCEPT_WITHIN: chrono::TimeDelta = chrono::TimeDelta::seconds(2);

/// Whether work waits that an agent could do.
pub(super) type Demand = Box<dyn Fn(AgentId) -> bool + Send>;

/// What a node said last.
#[derive(Debug)]
struct Heard {
    at: Instant,
    boot: Uuid,
    running: HashMap<AgentId, (u32, Phase)>,
}

/// An operation that an agent's event began and that nobody has accepted yet.
#[derive(Debug)]
struct Begun {
    kind: &'static str,
    agent: AgentId,
    tenant: TenantId,
    at: Timestamp,
    position: u64,
}

/// Brings agents to where they are wished.
pub(super) struct Lifecycle {
    fleet: Fleet,
    held: Held,
    demand: Demand,
    usual: Watch,
    heard: HashMap<Uuid, Heard>,
    /// Silence of nodes counts from here at the earliest (reliability D38).
    began: Option<Instant>,
    looked: Option<Instant>,
    /// Agents to look at now.
    touched: BTreeSet<AgentId>,
    /// Agents to look at later.
    dues: BTreeSet<(Timestamp, AgentId)>,
    due_of: HashMap<AgentId, Timestamp>,
    asleep: BTreeSet<AgentId>,
    /// A node, a profile or some room is new: those without a place look for one again.
    reopened: bool,
    pending: BTreeSet<AgentId>,
    /// Room that placements take which are asked for and not folded yet, with the version
    /// of the agent that they expect.
    placing: HashMap<AgentId, (u64, Uuid, place::Usage)>,
    under_way: HashMap<Uuid, AgentId>,
    begun: BTreeMap<Uuid, Begun>,
    ended: HashMap<Uuid, Ended>,
    /// What nodes were told to do with each process.
    told: HashMap<AgentId, (Uuid, u32, Option<Want>)>,
    /// Since when each agent's present process is placed, by our own clock.
    placed: HashMap<AgentId, Instant>,
    /// Agents that have their rounds on events of a type.
    on_events: HashMap<String, BTreeSet<AgentId>>,
    /// Operations that nobody wants any more.
    cancelled: BTreeSet<Uuid>,
    /// Nodes that are to ask what is wanted of them.
    calls: BTreeSet<(TenantId, Uuid)>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            fleet: Fleet::default(),
            held: Held::default(),
            demand: Box::new(|_| false),
            usual: Watch::default(),
            heard: HashMap::new(),
            began: None,
            looked: None,
            touched: BTreeSet::new(),
            dues: BTreeSet::new(),
            due_of: HashMap::new(),
            asleep: BTreeSet::new(),
            reopened: false,
            pending: BTreeSet::new(),
            placing: HashMap::new(),
            under_way: HashMap::new(),
            begun: BTreeMap::new(),
            ended: HashMap::new(),
            told: HashMap::new(),
            placed: HashMap::new(),
            on_events: HashMap::new(),
            cancelled: BTreeSet::new(),
            calls: BTreeSet::new(),
        }
    }
}

impl Lifecycle {
    /// Sets how it learns that work waits for a sleeper, and when agents of which nobody
    /// said so count as unhealthy.
    pub fn with(&mut self, demand: Demand, usual: Watch) {
        (self.demand, self.usual) = (demand, usual);
    }

    /// The nodes that are to be called, each once.
    pub fn take_calls(&mut self) -> BTreeSet<(TenantId, Uuid)> {
        std::mem::take(&mut self.calls)
    }

    /// The last sign of life that a node gave of an agent's process, and when that process
    /// was placed. A node tells at once when a process ends and else speaks every few
    /// seconds, whatever an agent's own limit of silence: it vouches until it counts as
    /// silent itself.
    pub fn vouched(&self, agent: AgentId, now: Instant) -> Option<(Instant, Instant)> {
        let life = self.fleet.agents.get(&agent)?;
        let heard = self.heard.get(&life.node()?)?;
        let (generation, phase) = heard.running.get(&agent)?;
        let placed = self.placed.get(&agent)?;
        let present = *generation == life.agent.generation && !phase.is_over();
        let speaks = now.saturating_duration_since(heard.at) <= NODE_SILENT;
        present.then_some((if speaks { now } else { heard.at }, *placed))
    }

    /// When a managed agent counts as unhealthy, as far as somebody said so.
    pub fn watch(&self, agent: AgentId) -> Option<Watch> {
        let life = self.fleet.agents.get(&agent)?;
        life.agent.managed.is_some().then(|| self.fleet.watch(life))
    }

    fn look_at(
        &mut self,
        id: AgentId,
        used: &mut Option<HashMap<Uuid, place::Usage>>,
        now: Moment,
        commands: &mut Vec<CommandEnvelope>,
    ) {
        if let Some(due) = self.due_of.remove(&id) {
            self.dues.remove(&(due, id));
        }
        let Some(life) = self.fleet.agents.get(&id) else {
            self.asleep.remove(&id);
            self.pending.remove(&id);
            self.told.remove(&id);
            self.placed.remove(&id);
            return;
        };
        let heard = life.node().and_then(|node| self.heard.get(&node));
        // One that somebody sent to sleep, or that never took a task, no work wakes.
        let works = self.held.idle_since(id).is_some()
            || life.profile().is_some_and(|profile| profile.mode == Some(Mode::PerTask));
        let sleeps =
            life.dozes && works && life.agent.state == Some(domain::agent::AgentState::Hibernating);
        let mut look = Look {
            fleet: &self.fleet,
            usual: &self.usual,
            held: &self.held,
            used,
            placing: &self.placing,
            running: heard.and_then(|heard| heard.running.get(&id).copied()),
            wanted: sleeps && (self.demand)(id),
            cancelled: life.agent.operation.is_some_and(|op| self.cancelled.contains(&op.0)),
            id,
            life,
            now: now.time,
            next: None,
            asks: Vec::new(),
        };
        look.take();
        let (next, want) = (look.next, look.want());
        for ask in std::mem::take(&mut look.asks) {
            let command = match ask {
                Ask::Agent(word, body) => {
                    let version = life.version;
                    if let AgentCommand::Place(place) = &body {
                        let usage = place::Usage::of(&place.launch);
                        self.placing.insert(id, (version, place.node_id, usage));
                    }
                    let command_id = command_id(id.0, ACTOR, format_args!("{word}:{version}"));
                    CommandEnvelope {
                        expected_version: Some(version),
                        ..CommandEnvelope::new(life.tenant.clone(), id.0, body, command_id, ACTOR)
                    }
                }
                Ask::Task(task, body) => {
                    let word = format_args!("{id}:{}", life.wished_at.timestamp_micros());
                    let command_id = command_id(task.0, ACTOR, word);
                    CommandEnvelope::new(life.tenant.clone(), task.0, body, command_id, ACTOR)
                }
            };
            if self.under_way.insert(command.command_id, id).is_none() {
                let causation_position = Some(life.since);
                commands.push(CommandEnvelope { causation_position, ..command });
            }
        }
        if sleeps {
            self.asleep.insert(id)
        } else {
            self.asleep.remove(&id)
        };
        if life.agent.pending {
            self.pending.insert(id)
        } else {
            self.pending.remove(&id)
        };
        if let Some(next) = next {
            self.due_of.insert(id, next);
            self.dues.insert((next, id));
        }
        // Its node asks as soon as what is wanted of it has changed.
        if let Some(process) = &life.agent.process {
            let told = (process.node_id, process.generation, want);
            let before = self.told.insert(id, told);
            if before.is_none_or(|(_, generation, _)| generation != process.generation) {
                self.placed.insert(id, now.instant);
            }
            if before != Some(told) {
                self.calls.insert((life.tenant.clone(), process.node_id));
            }
        }
    }

    /// What the silence of nodes, and their return, ask for.
    fn look_at_nodes(&mut self, now: Moment, commands: &mut Vec<CommandEnvelope>) {
        let began = *self.began.get_or_insert(now.instant);
        for (id, node) in &self.fleet.nodes {
            let heard = self.heard.get(id).map_or(began, |heard| heard.at).max(began);
            let silent = now.instant.saturating_duration_since(heard);
            let (state, reason) = match node.state {
                NodeState::Online | NodeState::Draining if silent > NODE_SILENT => {
                    let s = NODE_SILENT.as_secs();
                    (NodeState::Offline, format!("silent for longer than {s} s"))
                }
                NodeState::Offline if heard > began && silent < NODE_SILENT => {
                    (NodeState::Online, "it is heard again".into())
                }
                NodeState::Online
                | NodeState::Draining
                | NodeState::Offline
                | NodeState::Retired => continue,
            };
            let body = NodeCommand::Assess(AssessNode { state, reason });
            let word = format_args!("{}:{}", state.as_str(), node.version);
            let command_id = command_id(*id, ACTOR, word);
            if self.under_way.insert(command_id, AgentId(*id)).is_none() {
                commands.push(CommandEnvelope {
                    expected_version: Some(node.version),
                    causation_position: Some(node.since),
                    ..CommandEnvelope::new(node.tenant.clone(), *id, body, command_id, ACTOR)
                });
            }
        }
    }

    /// Commands that came over NATS have an operation as well: somebody has to accept it.
    fn accept_operations(&mut self, now: Moment, commands: &mut Vec<CommandEnvelope>) {
        for (operation, begun) in &self.begun {
            if now.time < begun.at + ACCEPT_WITHIN {
                continue;
            }
            let accept = OperationCommand::Accept(AcceptOperation {
                kind: begun.kind.into(),
                resource: Resource { kind: "agent".into(), id: begun.agent.to_string() },
                command: None,
                input: domain::Json::null(),
            });
            let command_id = command_id(*operation, ACTOR, format_args!("accept"));
            if self.under_way.insert(command_id, begun.agent).is_none() {
                let tenant = begun.tenant.clone();
                commands.push(CommandEnvelope {
                    causation_position: Some(begun.position),
                    ..CommandEnvelope::new(tenant, *operation, accept, command_id, ACTOR)
                });
            }
        }
    }

    /// Events that agents have their rounds on. Their own and the managers' words about
    /// rounds do not count: a round would call for the next.
    fn call_for_rounds(&mut self, recorded: &Recorded) {
        if self.on_events.is_empty() || recorded.event_type.starts_with("round_") {
            return;
        }
        let kind = format!("{}.{}", recorded.stream_type, recorded.event_type);
        for agent in self.on_events.get(&kind).into_iter().flatten() {
            let own = recorded.stream_id == agent.0;
            if let Some(life) = self.fleet.agents.get_mut(agent).filter(|_| !own)
                && life.tenant == recorded.tenant
            {
                life.round_wanted = Some(kind.clone());
                self.touched.insert(*agent);
            }
        }
    }

    /// Which events an agent has its rounds on, as it says now.
    fn index_rounds(&mut self, id: AgentId) {
        for agents in self.on_events.values_mut() {
            agents.remove(&id);
        }
        self.on_events.retain(|_, agents| !agents.is_empty());
        let rounds = self.fleet.agents.get(&id).and_then(|life| life.rounds.as_ref());
        for kind in rounds.into_iter().flat_map(|rounds| &rounds.on) {
            self.on_events.entry(kind.clone()).or_default().insert(id);
        }
    }

    fn touch_all_on(&mut self, node: Uuid) {
        self.touched.extend(self.fleet.on(node).map(|(id, _)| id));
    }
}

impl Manager for Lifecycle {
    fn apply(&mut self, recorded: &Recorded) {
        let id = AgentId(recorded.stream_id);
        self.call_for_rounds(recorded);
        match recorded.event() {
            Ok(Event::Agent(event)) => {
                if let Some((operation, kind)) = operation_of(event) {
                    let tenant = recorded.tenant.clone();
                    let (at, position) = (recorded.recorded_at, recorded.position);
                    self.begun.insert(operation.0, Begun { kind, agent: id, tenant, at, position });
                }
                let had_room = self.fleet.agents.get(&id).is_some_and(Life::is_live);
                for (operation, ended) in self.fleet.apply_agent(recorded, event) {
                    self.cancelled.remove(&operation.0);
                    self.ended.insert(operation.0, ended);
                }
                if !self.fleet.agents.contains_key(&id) {
                    self.held.forget(id);
                }
                if matches!(
                    event,
                    AgentEvent::Registered(_)
                        | AgentEvent::Reconnected(_)
                        | AgentEvent::Updated(_)
                        | AgentEvent::Retired(_)
                ) {
                    self.index_rounds(id);
                }
                self.touched.insert(id);
                self.reopened |= had_room && !self.fleet.agents.get(&id).is_some_and(Life::is_live);
            }
            Ok(Event::Node(event)) => {
                self.fleet.apply_node(recorded, event);
                self.touch_all_on(recorded.stream_id);
                self.reopened = true;
            }
            Ok(Event::Profile(event)) => {
                self.fleet.apply_profile(recorded, event);
                self.reopened = true;
            }
            Ok(Event::Task(event)) => {
                if let Some(agent) = self.held.apply(recorded, event) {
                    self.touched.insert(agent);
                }
            }
            Ok(Event::Operation(event)) => match event {
                OperationEvent::Accepted(_) => drop(self.begun.remove(&recorded.stream_id)),
                OperationEvent::Succeeded(_) | OperationEvent::Failed(_) => {
                    self.ended.remove(&recorded.stream_id);
                }
                OperationEvent::Cancelled(_) => {
                    self.ended.remove(&recorded.stream_id);
                    let operation = domain::OperationId(recorded.stream_id);
                    let mut all = self.fleet.agents.iter();
                    let of = all.find(|(_, life)| life.agent.operation == Some(operation));
                    if let Some((agent, _)) = of {
                        self.touched.insert(*agent);
                        self.cancelled.insert(operation.0);
                    }
                }
                OperationEvent::Started(_) | OperationEvent::Progressed(_) => {}
            },
            Ok(Event::Crew(_) | Event::Schedule(_) | Event::Queue(_)) | Err(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        if self.looked.is_none_or(|at| now.instant.duration_since(at) >= LOOK_EVERY) {
            self.looked = Some(now.instant);
            self.look_at_nodes(now, &mut commands);
            self.accept_operations(now, &mut commands);
            self.touched.extend(self.asleep.iter().copied().filter(|id| (self.demand)(*id)));
        }
        let fleet = &self.fleet;
        self.placing.retain(|id, (version, _, _)| {
            let life = fleet.agents.get(id);
            let waits = life.is_some_and(|life| life.version == *version);
            // It came to nothing: what was kept for it is free again.
            self.reopened |= !waits && !life.is_some_and(Life::is_live);
            waits
        });
        if std::mem::take(&mut self.reopened) {
            self.touched.extend(self.pending.iter().copied());
        }
        while let Some((at, id)) = self.dues.first().copied()
            && at <= now.time
        {
            self.dues.remove(&(at, id));
            self.due_of.remove(&id);
            self.touched.insert(id);
        }
        if self.touched.is_empty() {
            return commands;
        }
        let mut used = None;
        for id in std::mem::take(&mut self.touched) {
            self.look_at(id, &mut used, now, &mut commands);
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, _: Moment) {
        match outcome.status {
            // Not taken: it is asked for again at the next look.
            Status::Busy => {
                if let Some(agent) = self.under_way.remove(&command.command_id) {
                    self.touched.insert(agent);
                }
            }
            // Decided once and for all; what is asked for again is answered as a duplicate.
            Status::Accepted | Status::Refused | Status::Invalid | Status::Duplicate => {
                if self.under_way.len() > 100_000 {
                    self.under_way.clear();
                }
            }
        }
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        if !self.touched.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.dues.first().map(|(at, _)| until(now.time, *at));
        let busy =
            !(self.fleet.nodes.is_empty() && self.asleep.is_empty() && self.begun.is_empty());
        next.into_iter().chain(busy.then_some(LOOK_EVERY)).min()
    }
}
