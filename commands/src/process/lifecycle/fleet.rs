//! What the log says of agents, nodes and profiles, as far as lifecycles need it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use domain::agent::{Agent, AgentEvent, AgentState, DriftState, Phase, Rounds};
use domain::node::{Capacity, Launch, Node, NodeEvent, NodeState, RegisterNode};
use domain::profile::{Level, Profile, ProfileEvent, Resolved, Runtime, Watch, resolve, used};
use domain::{AgentId, Code, OperationId, Problem, Recorded, TenantId, Timestamp};
use uuid::Uuid;

use super::place::Usage;
use crate::process::roster::Labelled;

/// Restarts that are remembered of an agent: more than any window may hold.
const MOST_RESTARTS: usize = 1_000;

/// One node.
#[derive(Debug, Clone)]
pub(in crate::process) struct NodeFacts {
    pub tenant: TenantId,
    pub node: Node,
    pub name: String,
    pub state: NodeState,
    pub capacity: Capacity,
    pub labels: Labelled,
    pub level: Level,
    pub runtimes: Vec<Runtime>,
    /// When it came to be there, or not to be there any more.
    pub state_since: Timestamp,
    pub version: u64,
    pub since: u64,
}

impl NodeFacts {
    pub fn of(said: &RegisterNode) -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            node: Node::default(),
            name: said.name.clone(),
            state: NodeState::Online,
            capacity: said.capacity,
            labels: Labelled::of(&said.labels),
            level: said.level,
            runtimes: said.runtimes.clone(),
            state_since: Timestamp::UNIX_EPOCH,
            version: 0,
            since: 0,
        }
    }

    /// Whether its daemon is believed to be there.
    pub fn is_there(&self) -> bool {
        matches!(self.state, NodeState::Online | NodeState::Draining)
    }
}

/// One agent.
#[derive(Debug, Clone)]
pub(in crate::process) struct Life {
    pub tenant: TenantId,
    pub agent: Agent,
    /// Of its stream; commands about it expect it.
    pub version: u64,
    /// Position of its last event: the cause of commands.
    pub since: u64,
    /// When what is believed of it changed last.
    pub state_since: Timestamp,
    /// When something was last wished of it.
    pub wished_at: Timestamp,
    /// When a node last saw something of it.
    pub seen_at: Timestamp,
    /// What its last process was started with.
    pub launch: Option<Arc<Launch>>,
    /// When it was restarted by itself, the oldest first.
    pub restarts: VecDeque<Timestamp>,
    /// When it is to be started again.
    pub restart_due: Option<Timestamp>,
    /// Why it is in the state it is in.
    pub reason: String,
    /// The code that its process ended with.
    pub exit_code: Option<i32>,
    /// No restart would help.
    pub permanent: bool,
    /// It counts as offline for the silence of its node, not for what is known of itself.
    pub cut_off: bool,
    /// How long its drain waits, where somebody said so.
    pub drain_ms: Option<u64>,
    pub handed_back: bool,
    /// When it has its rounds.
    pub rounds: Option<Rounds>,
    /// When the next one is due by its timetable.
    pub next_round: Option<Timestamp>,
    /// An event asks for one: its type.
    pub round_wanted: Option<String>,
    /// It sleeps because it was idle, not because somebody wished so.
    pub dozes: bool,
    /// What its drift was noted as last.
    pub drift: Option<DriftState>,
}

impl Life {
    /// When desired and observed state last had reason to differ.
    pub fn differs_since(&self) -> Timestamp {
        self.wished_at.max(self.seen_at)
    }

    /// How it is started, watched and stopped.
    pub fn profile(&self) -> Option<&Profile> {
        self.launch.as_ref().map(|launch| &launch.profile)
    }

    /// The node of its last process.
    pub fn node(&self) -> Option<Uuid> {
        self.agent.process.as_ref().map(|process| process.node_id)
    }

    pub fn is_live(&self) -> bool {
        self.agent.process.as_ref().is_some_and(domain::agent::Process::is_live)
    }

    fn apply(&mut self, recorded: &Recorded, event: &AgentEvent) {
        use AgentEvent as E;
        let (before, at) = (self.agent.state, recorded.recorded_at);
        self.agent.apply(event);
        self.version = recorded.version;
        self.since = recorded.position;
        if self.agent.state != before {
            self.state_since = at;
        }
        match event {
            E::DeployRequested(asked) | E::Woken(asked) | E::Restarted(asked) => {
                let by_itself =
                    matches!(event, E::Restarted(_)) && recorded.actor.starts_with("manager:");
                if by_itself {
                    self.restarts.push_back(at);
                    if self.restarts.len() > MOST_RESTARTS {
                        self.restarts.pop_front();
                    }
                } else {
                    self.restarts.clear();
                }
                self.wish(at);
                self.reason = asked.reason.clone().unwrap_or_default();
            }
            E::Draining(asked) | E::Hibernated(asked) | E::ForceStopped(asked) => {
                self.wish(at);
                self.dozes = recorded.actor.starts_with("manager:");
                self.drain_ms = asked.timeout_ms;
                self.reason = asked.reason.clone().unwrap_or_default();
            }
            E::Retired(_) => self.wish(at),
            E::Quarantined(why) => {
                self.wish(at);
                let (n, s) = (why.restarts, why.window_ms / 1_000);
                self.reason = format!("{n} restarts within {s} s; at last: {}", why.reason);
            }
            E::Placed(placed) => {
                self.launch = Some(Arc::new((*placed.launch).clone()));
                self.seen_at = at;
                self.permanent = false;
                self.exit_code = None;
            }
            E::Observed(seen) => {
                self.seen_at = at;
                if seen.phase.is_over() {
                    self.permanent = seen.permanent;
                    self.exit_code = seen.exit.as_ref().and_then(|exit| exit.code);
                }
            }
            E::Assessed(believed) => {
                self.reason.clone_from(&believed.reason);
                self.cut_off =
                    believed.state == AgentState::Offline && &*recorded.actor == super::ACTOR;
            }
            E::Reported(seen) => {
                let said = || format!("it says that it is {}", seen.observed_state.as_str());
                self.reason = seen.reason.clone().unwrap_or_else(said);
                self.cut_off = false;
            }
            E::Validated(found) => self.reason.clone_from(&found.reason),
            E::Ready(why) => {
                self.reason = why.reason.clone().unwrap_or_default();
                // It came round: what was planned for it while it was not well is over.
                self.restart_due = None;
            }
            E::RestartScheduled(plan) => self.restart_due = Some(plan.due_at),
            E::HandedBack(_) => self.handed_back = true,
            E::Drifted(drift) => {
                self.drift = Some(drift.state).filter(|state| *state != DriftState::Healed);
            }
            E::Registered(said) | E::Reconnected(said) => {
                self.rounds.clone_from(&said.rounds);
                self.next_round = said.rounds.as_ref().and_then(|rounds| rounds.next_after(at));
            }
            E::Updated(changes) => {
                if let Some(rounds) = &changes.rounds {
                    self.next_round = rounds.next_after(at);
                    self.rounds = Some(rounds.clone());
                }
            }
            E::RoundBegun(_) => {
                self.next_round = self.rounds.as_ref().and_then(|rounds| rounds.next_after(at));
                self.round_wanted = None;
            }
            E::RoundEnded(_) | E::Ignored(_) => {}
        }
    }

    fn wish(&mut self, at: Timestamp) {
        self.wished_at = at;
        self.restart_due = None;
        self.handed_back = false;
    }
}

/// How an operation about an agent ended.
pub(in crate::process) type Ended = Result<(), Problem>;

/// Everything that lives.
#[derive(Debug, Default)]
pub(in crate::process) struct Fleet {
    pub agents: HashMap<AgentId, Life>,
    pub nodes: BTreeMap<Uuid, NodeFacts>,
    profiles: HashMap<TenantId, HashMap<String, Box<Profile>>>,
    /// Who has, or may have, a process on a node.
    on: HashMap<Uuid, BTreeSet<AgentId>>,
}

impl Fleet {
    /// Folds an event about an agent. Names the operations that ended by it.
    pub fn apply_agent(
        &mut self,
        recorded: &Recorded,
        event: &AgentEvent,
    ) -> Vec<(OperationId, Ended)> {
        let id = AgentId(recorded.stream_id);
        let at = recorded.recorded_at;
        if !matches!(event, AgentEvent::Registered(_)) && !self.agents.contains_key(&id) {
            return Vec::new();
        }
        let life = self.agents.entry(id).or_insert_with(|| Life {
            tenant: recorded.tenant.clone(),
            agent: Agent::default(),
            version: 0,
            since: 0,
            state_since: at,
            wished_at: at,
            seen_at: at,
            launch: None,
            restarts: VecDeque::new(),
            restart_due: None,
            reason: String::new(),
            exit_code: None,
            permanent: false,
            cut_off: false,
            drain_ms: None,
            handed_back: false,
            rounds: None,
            next_round: None,
            round_wanted: None,
            dozes: false,
            drift: None,
        });
        let before = (life.agent.operation, life.node().filter(|_| life.is_live()));
        life.apply(recorded, event);
        let node = life.node().filter(|_| life.is_live());
        if before.1 != node {
            if let Some(left) = before.1.and_then(|node| self.on.get_mut(&node)) {
                left.remove(&id);
            }
            if let Some(node) = node {
                self.on.entry(node).or_default().insert(id);
            }
        }
        let ended = ended(before.0, life, event);
        // Nothing happens to it any more.
        if life.agent.state == Some(AgentState::Retired) && !life.is_live() {
            self.agents.remove(&id);
        }
        ended
    }

    /// Folds an event about a node.
    pub fn apply_node(&mut self, recorded: &Recorded, event: &NodeEvent) {
        let facts = match event {
            NodeEvent::Registered(said) | NodeEvent::Reconnected(said) => {
                let new = NodeFacts::of(said);
                let old = self.nodes.remove(&recorded.stream_id);
                let state = old.as_ref().map_or(NodeState::Offline, |old| old.state);
                let state_since = old.as_ref().map_or(new.state_since, |old| old.state_since);
                let node = old.map(|old| old.node).unwrap_or_default();
                let tenant = recorded.tenant.clone();
                let new = NodeFacts { tenant, node, state, state_since, ..new };
                self.nodes.entry(recorded.stream_id).or_insert(new)
            }
            NodeEvent::Draining(_)
            | NodeEvent::Resumed(_)
            | NodeEvent::Assessed(_)
            | NodeEvent::Retired(_) => {
                let Some(facts) = self.nodes.get_mut(&recorded.stream_id) else { return };
                facts
            }
        };
        facts.node.apply(event);
        let was_there = facts.is_there();
        facts.state = facts.node.state.unwrap_or(NodeState::Offline);
        if facts.is_there() != was_there {
            facts.state_since = recorded.recorded_at;
        }
        facts.version = recorded.version;
        facts.since = recorded.position;
        if facts.state == NodeState::Retired {
            self.nodes.remove(&recorded.stream_id);
        }
    }

    /// Folds an event about a profile.
    pub fn apply_profile(&mut self, recorded: &Recorded, event: &ProfileEvent) {
        let all = self.profiles.entry(recorded.tenant.clone()).or_default();
        match event {
            ProfileEvent::Defined(new) => drop(all.insert(new.name.clone(), new.profile.clone())),
            ProfileEvent::Deleted(gone) => drop(all.remove(&gone.name)),
        }
    }

    /// What an agent would be started with now.
    ///
    /// # Errors
    /// When its profile cannot be put together.
    pub fn launch(&self, life: &Life) -> Result<Launch, Problem> {
        let none = || Problem::new(Code::NotPossible, "the agent has no profile");
        let said = life.agent.managed.as_deref().ok_or_else(none)?;
        let used = used(&said.profile).map_err(Problem::invalid)?.ok_or_else(none)?;
        let Resolved { name, profile } = resolve(&used, |name| {
            self.profiles.get(&life.tenant)?.get(name).map(|profile| &**profile)
        })?;
        Ok(Launch {
            profile_name: name,
            profile,
            role: said.role.clone(),
            capabilities: said.capabilities.clone(),
            slots: said.slots,
        })
    }

    /// When an agent counts as unhealthy: its own word, else its profile's as it stands now.
    pub fn watch(&self, life: &Life) -> Watch {
        let Some(said) = life.agent.managed.as_deref() else { return Watch::default() };
        let own = said.watch.clone().unwrap_or_default();
        let named = life.launch.as_ref().and_then(|launch| launch.profile_name.as_deref());
        let now = named.and_then(|name| self.profiles.get(&life.tenant)?.get(name));
        let now = now.and_then(|profile| profile.watch.clone()).unwrap_or_default();
        let placed = life.profile().and_then(|profile| profile.watch.clone()).unwrap_or_default();
        own.or(&now).or(&placed)
    }

    /// Who has, or may have, a process on a node.
    pub fn on(&self, node: Uuid) -> impl Iterator<Item = (AgentId, &Life)> {
        let ids = self.on.get(&node).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.agents.get(id)?)))
    }

    /// What is taken of each node.
    pub fn used(&self) -> HashMap<Uuid, Usage> {
        let mut all: HashMap<Uuid, Usage> = HashMap::new();
        for node in self.on.keys() {
            let used = all.entry(*node).or_default();
            for (_, life) in self.on(*node) {
                used.add(life.launch.as_deref().map(Usage::of).unwrap_or_default());
            }
        }
        all
    }
}

/// The operations that an event ended: the one that was under way, and the event's own where
/// there was nothing to wait for.
fn ended(
    before: Option<OperationId>,
    life: &Life,
    event: &AgentEvent,
) -> Vec<(OperationId, Ended)> {
    use AgentEvent as E;
    let after = life.agent.operation;
    let mut all = Vec::new();
    if let Some(over) = before.filter(|over| after != Some(*over)) {
        let failed = |detail: String| Err(Problem::new(Code::NotPossible, detail));
        let result = match event {
            E::Ready(_) => Ok(()),
            E::Observed(seen) if seen.phase.is_over() => Ok(()),
            E::Assessed(_) | E::Quarantined(_) | E::Reported(_) => failed(life.reason.clone()),
            E::Registered(_)
            | E::Reconnected(_)
            | E::Updated(_)
            | E::DeployRequested(_)
            | E::Draining(_)
            | E::Hibernated(_)
            | E::Woken(_)
            | E::Restarted(_)
            | E::Retired(_)
            | E::ForceStopped(_)
            | E::Validated(_)
            | E::Placed(_)
            | E::Observed(_)
            | E::RestartScheduled(_)
            | E::HandedBack(_)
            | E::Drifted(_)
            | E::RoundBegun(_)
            | E::RoundEnded(_)
            | E::Ignored(_) => failed(format!("overtaken by `{}`", event.name())),
        };
        all.push((over, result));
    }
    let own = operation_of(event).map(|(own, _)| own);
    if let Some(own) = own.filter(|own| after != Some(*own) && before != Some(*own)) {
        all.push((own, Ok(())));
    }
    all
}

/// The operation that an event begins, and its kind.
pub(in crate::process) fn operation_of(event: &AgentEvent) -> Option<(OperationId, &'static str)> {
    use AgentEvent as E;
    let (id, kind) = match event {
        E::DeployRequested(asked) => (asked.operation_id, "agent.deploy"),
        E::Draining(asked) => (asked.operation_id, "agent.drain"),
        E::Hibernated(asked) => (asked.operation_id, "agent.hibernate"),
        E::Woken(asked) => (asked.operation_id, "agent.wake"),
        E::Restarted(asked) => (asked.operation_id, "agent.restart"),
        E::ForceStopped(asked) => (asked.operation_id, "agent.force_stop"),
        E::Retired(gone) => (gone.operation_id, "agent.retire"),
        E::Registered(_)
        | E::Reconnected(_)
        | E::Updated(_)
        | E::Ready(_)
        | E::Reported(_)
        | E::Validated(_)
        | E::Placed(_)
        | E::Observed(_)
        | E::Assessed(_)
        | E::RestartScheduled(_)
        | E::Quarantined(_)
        | E::HandedBack(_)
        | E::Drifted(_)
        | E::RoundBegun(_)
        | E::RoundEnded(_)
        | E::Ignored(_) => return None,
    };
    Some((id?, kind))
}

/// Whether a node has an agent's process and finds nothing wrong with it.
pub(in crate::process) fn is_well(phase: Phase) -> bool {
    match phase {
        Phase::Ready => true,
        Phase::Starting
        | Phase::Started
        | Phase::Warming
        | Phase::NotReady
        | Phase::Unhealthy
        | Phase::Terminating
        | Phase::Killing
        | Phase::Exited
        | Phase::StartFailed
        | Phase::Lost => false,
    }
}
