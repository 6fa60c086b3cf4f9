//! Lifecycles in a simulation: real managers and aggregates, nodes and agents that die,
//! hang, flap, lie and come back, in virtual time from a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use chrono::TimeDelta;
use domain::agent::{
    Agent, AgentCommand, AgentState, Desired, Exit, ObserveAgent, Phase, RegisterAgent,
};
use domain::node::{NodeCommand, RegisterNode, Running, SyncRequest, Want};
use domain::{AgentId, Command, Event, Json, Status, Timestamp};
use parking_lot::Mutex;
use uuid::Uuid;

use super::Lifecycle;
use crate::process::tests::log::Log;
use crate::process::tests::memory::{start_of_time, tenant};
use crate::process::watchdog::Signs;
use crate::process::{Manager, Moment, Watchdog};
use crate::{CommandEnvelope, Observation};

/// What a node has of an agent.
#[derive(Debug, Clone)]
pub(super) struct Proc {
    pub generation: u32,
    pub phase: Phase,
    pub seq: u32,
    pub hangs: bool,
    /// Told to end, and when it will.
    pub ends_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct SimNode {
    pub up: bool,
    pub procs: BTreeMap<AgentId, Proc>,
    /// Generations that ended here: never started again.
    pub over: HashMap<AgentId, u32>,
    /// Observations that the managers have not answered yet, in order.
    pub journal: Vec<(AgentId, ObserveAgent)>,
}

pub(super) struct World {
    pub log: Log,
    pub now: Timestamp,
    pub start: Instant,
    pub dice: u64,
    pub nodes: BTreeMap<Uuid, SimNode>,
    pub lifecycle: Arc<Mutex<Lifecycle>>,
    pub watchdog: Watchdog,
    pub folded: usize,
    pub beats: Beats,
    pub agents: Vec<AgentId>,
    pub serial: u128,
    /// Agents whose program ends as soon as it is started.
    pub flapping: BTreeSet<AgentId>,
    pub trace: Vec<String>,
}

pub(super) fn node_id(n: u128) -> Uuid {
    Uuid::from_u128(0xA000 + n)
}

impl World {
    pub fn new(seed: u64, nodes: u128, agents: u128) -> Self {
        let (lifecycle, watchdog, beats) = minds();
        let mut world = Self {
            log: Log::default(),
            now: start_of_time(),
            start: Instant::now(),
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            nodes: BTreeMap::new(),
            lifecycle,
            watchdog,
            folded: 0,
            beats,
            agents: Vec::new(),
            serial: 0,
            flapping: BTreeSet::new(),
            trace: Vec::new(),
        };
        for n in 1..=nodes {
            let body = format!(
                r#"{{"name":"node-{n}","level":"namespace",
                "capacity":{{"cpu_millis":8000,"memory_bytes":8589934592,"slots":6}}}}"#
            );
            let said: RegisterNode = Json::parse(&body).unwrap().read().unwrap();
            world.tell(node_id(n), NodeCommand::Register(said), "node");
            world.nodes.insert(node_id(n), SimNode { up: true, ..SimNode::default() });
        }
        for n in 1..=agents {
            let id = AgentId(Uuid::from_u128(n));
            let profile = r#"{"command":["run"],"restart":{"max":4,"window_ms":120000},
                "hibernate_after_ms":0,"start_timeout_ms":60000}"#;
            let new = RegisterAgent {
                profile: Json::parse(profile).unwrap(),
                ..RegisterAgent::named(format!("a{n}"))
            };
            world.tell(id.0, AgentCommand::Register(new), "operator");
            world.agents.push(id);
        }
        world
    }

    pub fn roll(&mut self, of: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % of
    }

    pub fn instant(&self) -> Instant {
        self.start + (self.now - start_of_time()).to_std().unwrap_or_default()
    }

    pub fn tell(&mut self, stream: Uuid, command: impl Into<Command>, actor: &str) -> Status {
        self.serial += 1;
        let id = Uuid::from_u128(0xFFFF_0000 + self.serial);
        let command = CommandEnvelope::new(tenant(), stream, command, id, actor);
        self.decide(command)
    }

    pub fn decide(&mut self, command: CommandEnvelope) -> Status {
        self.log.decide(&command, self.now).status
    }

    /// Lets the managers fold, ask and learn until nothing is left to do.
    pub fn managers(&mut self) {
        for _ in 0..50 {
            for event in &self.log.events[self.folded..] {
                self.trace.push(format!(
                    "{} {} {} {}",
                    event.position, event.stream_id, event.event_type, event.actor
                ));
                self.lifecycle.lock().apply(event);
                self.watchdog.apply(event);
            }
            self.folded = self.log.events.len();
            let now = Moment { time: self.now, instant: self.instant() };
            let mut asked = self.lifecycle.lock().react(now);
            let theirs = asked.len();
            let mut seen = self.watchdog.react(now);
            seen.sort_by_key(|command| command.command_id);
            asked.extend(seen);
            if asked.is_empty() {
                break;
            }
            for (n, command) in asked.into_iter().enumerate() {
                let outcome = self.log.decide(&command, self.now);
                if n < theirs {
                    self.lifecycle.lock().settle(&command, &outcome, now);
                } else {
                    self.watchdog.settle(&command, &outcome, now);
                }
            }
        }
    }

    /// A new process takes the managers over and folds the log from its start.
    pub fn restart_managers(&mut self) {
        let (lifecycle, watchdog, beats) = minds();
        *beats.lock() = self.beats.lock().clone();
        (self.lifecycle, self.watchdog, self.beats) = (lifecycle, watchdog, beats);
        self.folded = 0;
    }

    pub fn observe(&mut self, node: Uuid, agent: AgentId, phase: Phase) {
        let flaps = self.flapping.contains(&agent);
        let Some(at) = self.nodes.get_mut(&node) else { return };
        let Some(proc) = at.procs.get_mut(&agent) else { return };
        proc.seq += 1;
        proc.phase = phase;
        let exit = (phase == Phase::Exited)
            .then(|| Box::new(Exit { code: Some(i32::from(flaps)), ..Exit::default() }));
        let seen = ObserveAgent {
            node_id: node,
            generation: proc.generation,
            seq: proc.seq,
            phase,
            pid: None,
            exit,
            permanent: false,
            detail: None,
        };
        at.journal.push((agent, seen));
        if phase.is_over() {
            let generation = proc.generation;
            at.procs.remove(&agent);
            at.over.insert(agent, generation);
        }
    }

    /// One turn of a node's daemon: tells what it saw, hears what is wanted, does it.
    pub fn turn(&mut self, id: Uuid) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        for (agent, seen) in std::mem::take(&mut node.journal) {
            let name = format!("{agent}:{}:{}", seen.generation, seen.seq);
            let command_id = Uuid::new_v5(&id, name.as_bytes());
            let command = AgentCommand::Observe(seen);
            let actor = format!("node:{id}");
            let command = CommandEnvelope::new(tenant(), agent.0, command, command_id, &*actor);
            // Now and then twice: an answer was lost.
            if self.roll(4) == 0 {
                self.decide(command.clone());
            }
            self.decide(command);
        }
        self.managers();
        let node = &self.nodes[&id];
        let agents = node.procs.iter().map(|(agent, proc)| Running {
            agent_id: *agent,
            generation: proc.generation,
            phase: proc.phase,
        });
        let request = SyncRequest { boot: Uuid::from_u128(1), agents: agents.collect() };
        let reply = self.lifecycle.lock().sync(&tenant(), id, request, self.instant());
        if !reply.ok {
            return;
        }
        let mut wanted = BTreeMap::new();
        for one in reply.agents {
            wanted.insert(one.agent_id, (one.generation, one.want));
        }
        let have: Vec<AgentId> = self.nodes[&id].procs.keys().copied().collect();
        for agent in have {
            let proc = self.nodes[&id].procs[&agent].clone();
            let keep = wanted
                .get(&agent)
                .is_some_and(|(g, want)| *g == proc.generation && *want == Want::Run);
            if !keep && proc.ends_at.is_none() {
                self.observe(id, agent, Phase::Terminating);
                let patience = if proc.hangs { 5_000 } else { 200 };
                let ends = self.now + TimeDelta::milliseconds(patience);
                if let Some(proc) = self.nodes.get_mut(&id).and_then(|n| n.procs.get_mut(&agent)) {
                    proc.ends_at = Some(ends);
                }
            }
        }
        for (agent, (generation, want)) in wanted {
            let node = &self.nodes[&id];
            let ended = node.over.get(&agent).is_some_and(|over| *over >= generation);
            if ended || node.procs.contains_key(&agent) {
                continue;
            }
            let fresh =
                Proc { generation, phase: Phase::Starting, seq: 0, hangs: false, ends_at: None };
            self.nodes.get_mut(&id).unwrap().procs.insert(agent, fresh);
            // What it is to stop and never had is over: somebody waits for that word.
            if want != Want::Run {
                self.observe(id, agent, Phase::Exited);
                continue;
            }
            self.observe(id, agent, Phase::Started);
            if self.flapping.contains(&agent) {
                self.observe(id, agent, Phase::Exited);
            } else {
                self.observe(id, agent, Phase::Ready);
            }
        }
    }

    /// Time passes; what was told to end does, and what lives says so.
    pub fn pass(&mut self, ms: i64) {
        self.now += TimeDelta::milliseconds(ms);
        let instant = self.instant();
        let ids: Vec<Uuid> = self.nodes.keys().copied().collect();
        for id in ids {
            let procs: Vec<(AgentId, Proc)> =
                self.nodes[&id].procs.iter().map(|(a, p)| (*a, p.clone())).collect();
            for (agent, proc) in procs {
                if proc.ends_at.is_some_and(|at| at <= self.now) {
                    if proc.hangs {
                        self.observe(id, agent, Phase::Killing);
                    }
                    self.observe(id, agent, Phase::Exited);
                } else if !proc.hangs {
                    let seen = Observation::seen(instant, self.now);
                    self.beats.lock().insert(agent, seen);
                }
            }
        }
    }

    pub fn state(&self, agent: AgentId) -> Agent {
        let mut state = Agent::default();
        for event in self.log.events.iter().filter(|event| event.stream_id == agent.0) {
            if let Ok(Event::Agent(happened)) = event.event() {
                state.apply(happened);
            }
        }
        state
    }

    /// Something goes wrong, or somebody wants something.
    pub fn mischief(&mut self) {
        let which = self.roll(self.agents.len() as u64) as usize;
        let agent = self.agents[which];
        let nodes: Vec<Uuid> = self.nodes.keys().copied().collect();
        let which = self.roll(nodes.len() as u64) as usize;
        let node = nodes[which];
        let on = nodes.iter().copied().find(|id| self.nodes[id].procs.contains_key(&agent));
        match self.roll(12) {
            // It dies.
            0 | 1 => {
                if let Some(on) = on {
                    self.observe(on, agent, Phase::Exited);
                }
            }
            // It hangs: its process lives and says nothing.
            2 => {
                if let Some(proc) = on.and_then(|on| self.nodes.get_mut(&on)?.procs.get_mut(&agent))
                {
                    proc.hangs = true;
                }
            }
            // It flaps from now on, or no longer.
            3 => {
                if !self.flapping.remove(&agent) && self.flapping.len() < 2 {
                    self.flapping.insert(agent);
                }
            }
            // Somebody lies: of an older process, of one that is somewhere else.
            4 => {
                let lie = ObserveAgent {
                    node_id: node,
                    generation: self.roll(4) as u32,
                    seq: 1_000,
                    phase: Phase::ALL[self.roll(11) as usize],
                    pid: None,
                    exit: None,
                    permanent: false,
                    detail: None,
                };
                let current = self.state(agent).generation;
                if lie.generation != current {
                    self.tell(agent.0, AgentCommand::Observe(lie), "node:liar");
                }
            }
            // A node goes, or comes back with its processes still there, or without.
            5 => {
                let up = self.nodes[&node].up;
                let lost = up && self.roll(2) == 0;
                let gone: Vec<AgentId> = self.nodes[&node].procs.keys().copied().collect();
                if lost {
                    gone.into_iter().for_each(|agent| self.observe(node, agent, Phase::Lost));
                }
                self.nodes.get_mut(&node).unwrap().up = !up;
            }
            6 => self.restart_managers(),
            7 => drop(self.tell(agent.0, AgentCommand::Restart(Default::default()), "operator")),
            8 => drop(self.tell(agent.0, AgentCommand::Drain(Default::default()), "operator")),
            9 => drop(self.tell(agent.0, AgentCommand::Hibernate(Default::default()), "operator")),
            10 => drop(self.tell(agent.0, AgentCommand::Wake(Default::default()), "operator")),
            _ => drop(self.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator")),
        }
    }

    pub fn check(&self, seed: u64) {
        let fail = |why: String| {
            let tail = self.trace.iter().rev().take(60).rev().cloned().collect::<Vec<_>>();
            panic!("seed {seed}: {why}\n{}", tail.join("\n"));
        };
        for agent in &self.agents {
            let state = self.state(*agent);
            let lives: Vec<_> = self
                .nodes
                .values()
                .filter(|node| node.up)
                .filter_map(|node| node.procs.get(agent))
                .filter(|proc| proc.ends_at.is_none())
                .collect();
            for proc in &lives {
                if proc.generation > state.generation {
                    fail(format!("{agent} runs a generation that nobody placed"));
                }
            }
            let current = lives.iter().filter(|proc| proc.generation == state.generation).count();
            if current > 1 {
                fail(format!("{agent} runs twice in one generation"));
            }
        }
    }
}

type Beats = Arc<Mutex<HashMap<AgentId, Observation>>>;

fn minds() -> (Arc<Mutex<Lifecycle>>, Watchdog, Beats) {
    let lifecycle: Arc<Mutex<Lifecycle>> = Arc::default();
    let beats = Beats::default();
    let seen = beats.clone();
    let look = move |_: &_, agent| Signs { seen: seen.lock().get(&agent).cloned(), watch: None };
    (lifecycle, Watchdog::new(Box::new(look), Default::default()), beats)
}

/// Ten minutes of mischief, then peace: what should run does, once, and nothing is left open.
fn simulate(seed: u64) -> Vec<String> {
    let mut world = World::new(seed, 3, 6);
    let agents = world.agents.clone();
    for agent in &agents {
        world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    }
    for step in 0..600 {
        world.managers();
        let nodes: Vec<Uuid> = world.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|node| world.turn(node));
        world.check(seed);
        if step < 400 && world.roll(4) == 0 {
            world.mischief();
        }
        if step == 400 {
            world.flapping.clear();
            world.nodes.values_mut().for_each(|node| node.up = true);
        }
        world.pass(1_000);
    }
    for agent in agents {
        let state = world.state(agent);
        let running: Vec<u32> = world
            .nodes
            .values()
            .filter_map(|node| Some(node.procs.get(&agent)?.generation))
            .collect();
        let told = |why: &str| {
            let events = world.trace.iter().filter(|line| line.contains(&agent.to_string()));
            let mut tail: Vec<_> = events.rev().take(40).cloned().collect();
            tail.reverse();
            panic!(
                "seed {seed}: {agent} {why}: {state:?}, running {running:?}\n{}",
                tail.join("\n")
            )
        };
        match state.desired {
            Desired::Running => {
                if state.state != Some(AgentState::Ready) || running != [state.generation] {
                    told("should run, once");
                }
            }
            Desired::Unasked | Desired::Draining | Desired::Hibernating | Desired::Stopped => {
                if !running.is_empty() {
                    told("should not run");
                }
            }
        }
        if state.operation.is_some() {
            told("has an operation that nobody ends");
        }
    }
    world.trace
}

#[test]
fn whatever_dies_hangs_flaps_or_lies_in_the_end_all_is_as_wished() {
    for seed in 1..=60 {
        simulate(seed);
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    assert!(simulate(7) == simulate(7), "two stories");
}
