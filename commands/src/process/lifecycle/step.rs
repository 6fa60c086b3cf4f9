//! What one agent's facts ask for now: a pure function of the fleet and the time.

use std::collections::HashMap;

use chrono::TimeDelta;
use domain::agent::{
    AgentCommand, AgentState, AssessAgent, BeginRound, Desired, Drift, DriftOwner, DriftState,
    EndRound, HandBack, MAX_ROUND_TASKS, ObserveAgent, Phase, PlaceAgent, QuarantineAgent, Reason,
    RoundCause, ScheduleRestart, ValidateAgent,
};
use domain::node::{Launch, Want};
use domain::profile::{Profile, Restart, RestartPolicy, Stop, Watch};
use domain::task::{self, TaskCommand};
use domain::{AgentId, TaskId, Timestamp};
use uuid::Uuid;

use super::fleet::{Fleet, Life, is_well};
use super::held::Held;
use super::place::{Usage, place, why_not};

/// How long desired and observed state may differ before it is an event.
const DRIFT_AFTER: TimeDelta = TimeDelta::seconds(10);
/// How long before somebody has to look.
const ESCALATE_AFTER: TimeDelta = TimeDelta::seconds(120);
/// Beyond the grace, for a node that does not say that a process has ended.
const NODE_ANSWERS_WITHIN: TimeDelta = TimeDelta::seconds(10);
/// Without a task for so long, a round is over.
const ROUND_QUIET: TimeDelta = TimeDelta::seconds(5);
/// How long an agent may be unhealthy before it is restarted, when nobody said so.
const RESTART_AFTER: TimeDelta = TimeDelta::seconds(60);

/// What is asked for.
#[derive(Debug)]
pub(super) enum Ask {
    /// Of the agent; the word makes the command's id.
    Agent(&'static str, AgentCommand),
    /// Of a task that it holds.
    Task(TaskId, TaskCommand),
}

/// One look at one agent.
pub(super) struct Look<'a> {
    pub fleet: &'a Fleet,
    /// Where neither agent nor profile says when it is unhealthy.
    pub usual: &'a Watch,
    pub held: &'a Held,
    /// What is taken of each node; added up when the first agent looks for a place.
    pub used: &'a mut Option<HashMap<Uuid, Usage>>,
    /// Room that is kept for placements which are not folded yet.
    pub placing: &'a HashMap<AgentId, (u64, Uuid, Usage)>,
    /// What its node said last of its process, where the node is there.
    pub running: Option<(u32, Phase)>,
    /// Whether work waits that it could do.
    pub wanted: bool,
    /// Whether its operation is not wanted any more.
    pub cancelled: bool,
    pub id: AgentId,
    pub life: &'a Life,
    pub now: Timestamp,
    /// When there may be something to ask for if nothing happens.
    pub next: Option<Timestamp>,
    pub asks: Vec<Ask>,
}

impl Look<'_> {
    /// Asks for what is due.
    pub fn take(&mut self) {
        self.mind_rounds();
        if self.life.agent.managed.is_none() && self.life.agent.process.is_none() {
            return;
        }
        match self.life.agent.desired {
            Desired::Unasked => {}
            Desired::Running if self.cancelled => {
                self.assess("cancelled", AgentState::Failed, "its operation was cancelled");
            }
            Desired::Draining if self.cancelled && self.life.is_live() => {
                let reason = Some("its drain was cancelled".into());
                self.ask("undrain", AgentCommand::MarkReady(Reason { reason }));
            }
            // The placement that was asked for is under way.
            Desired::Running if self.life.agent.pending && self.is_being_placed() => {}
            Desired::Running if self.life.agent.pending => self.find_a_place(),
            Desired::Running if self.life.is_live() => self.keep(),
            Desired::Running => self.after_its_end(),
            Desired::Draining | Desired::Hibernating => {
                self.end_gently();
                self.write_off();
            }
            Desired::Stopped => self.write_off(),
        }
        self.mind_drift();
    }

    /// Rounds begin when they are due, and end when nothing is left in the agent's hands.
    fn mind_rounds(&mut self) {
        let Some(state) = self.life.agent.state else { return };
        if let Some(since) = self.life.agent.round_since {
            let idle = self.held.idle_since(self.id).unwrap_or(since).max(since);
            if self.held.count(self.id) == 0 && self.is_due(idle + ROUND_QUIET) {
                self.ask("end_round", AgentCommand::EndRound(EndRound { summary: None }));
            }
            return;
        }
        if !state.allowed().contains(&"begin_round") {
            return;
        }
        let event = self.life.round_wanted.clone();
        let due = self.life.next_round.is_some_and(|at| self.is_due(at));
        let (cause, reason) = match event {
            Some(event) => (RoundCause::Event, Some(event)),
            None if due => (RoundCause::Schedule, None),
            None => return,
        };
        let tasks = self.held.of(self.id).take(MAX_ROUND_TASKS).collect();
        let begin = BeginRound { cause, reason, tasks };
        self.ask("begin_round", AgentCommand::BeginRound(begin));
    }

    fn is_being_placed(&self) -> bool {
        let asked = self.placing.get(&self.id);
        asked.is_some_and(|(version, ..)| *version == self.life.version)
    }

    fn ask(&mut self, word: &'static str, command: AgentCommand) {
        self.asks.push(Ask::Agent(word, command));
    }

    fn assess(&mut self, word: &'static str, state: AgentState, reason: impl Into<String>) {
        let reason = reason.into();
        self.ask(word, AgentCommand::Assess(AssessAgent { state, reason }));
    }

    /// Whether a time has come; else it is looked at again then.
    fn is_due(&mut self, at: Timestamp) -> bool {
        if at <= self.now {
            return true;
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        false
    }

    /// A process of it is wanted and has no node yet.
    fn find_a_place(&mut self) {
        let launch = match self.fleet.launch(self.life) {
            Ok(launch) => launch,
            Err(problem) => return self.assess("invalid", AgentState::Failed, problem.detail),
        };
        if self.life.is_live() && !self.is_free_of_its_last(&launch) {
            return;
        }
        let nodes = self.fleet.nodes.iter().map(|(id, node)| (*id, node));
        let nodes = nodes.filter(|(_, node)| node.tenant == self.life.tenant);
        let used = self.used.get_or_insert_with(|| {
            let mut used = self.fleet.used();
            for (_, node, usage) in self.placing.values() {
                used.entry(*node).or_default().add(*usage);
            }
            used
        });
        match place(&launch, self.life.node(), nodes, used) {
            Ok((node_id, candidates)) => {
                used.entry(node_id).or_default().add(Usage::of(&launch));
                let node = candidates.first().map(|one| one.name.clone()).unwrap_or_default();
                let launch = Box::new(launch);
                self.ask(
                    "place",
                    AgentCommand::Place(PlaceAgent { node_id, node, launch, candidates }),
                );
            }
            Err(candidates) => {
                let reason = why_not(&candidates);
                let patience = millis(launch.profile.start_timeout_ms());
                if self.is_due(self.life.wished_at + patience) {
                    self.assess("unplaced", AgentState::Failed, reason);
                } else if self.life.agent.state == Some(AgentState::Validating) {
                    self.ask("validate", AgentCommand::Validate(ValidateAgent { reason }));
                }
            }
        }
    }

    /// Its last process ends before the next begins, unless nobody can tell.
    fn is_free_of_its_last(&mut self, launch: &Launch) -> bool {
        let node = self.life.node().and_then(|node| self.fleet.nodes.get(&node));
        if !node.is_some_and(super::fleet::NodeFacts::is_there) {
            return true;
        }
        let grace = millis(stop_of(&launch.profile).grace_ms) + NODE_ANSWERS_WITHIN;
        self.is_due(self.life.wished_at + grace)
    }

    /// It has a process, and should.
    fn keep(&mut self) {
        use AgentState as S;
        let Some(state) = self.life.agent.state else { return };
        let since = self.life.state_since;
        let watch = self.fleet.watch(self.life).or(self.usual);
        let restart_after = watch.restart_after_ms.map_or(RESTART_AFTER, millis);
        let node = self.life.node().and_then(|node| self.fleet.nodes.get(&node));
        let there = node.is_some_and(super::fleet::NodeFacts::is_there);
        if !there {
            if state != S::Offline {
                return self.assess("node_gone", S::Offline, absent(node));
            }
            if self.is_due(since + restart_after) {
                self.restart("node_lost", format!("{}, still", absent(node)));
            }
            return;
        }
        match state {
            S::Offline => {
                let generation = self.life.agent.generation;
                let well = self.running.is_some_and(|(g, phase)| g == generation && is_well(phase));
                // Who took leave itself is about to end, however well its process is.
                if self.life.cut_off && well {
                    self.assess("back", S::Ready, "its node is back and has it running");
                } else if self.is_due(since + restart_after) {
                    self.plan_restart(self.life.reason.clone());
                }
            }
            S::Unhealthy => {
                let seen = self.life.agent.process.as_ref().and_then(|process| process.phase);
                if seen == Some(Phase::Unhealthy) || self.is_due(since + restart_after) {
                    self.plan_restart(self.life.reason.clone());
                }
            }
            S::Deploying | S::Warming => {
                let patience = self.life.profile().map_or(120_000, Profile::start_timeout_ms);
                let began = self.life.wished_at.max(since);
                if self.is_due(began + millis(patience)) {
                    let reason = format!("not ready within {patience} ms");
                    self.assess("not_ready", S::Failed, reason);
                }
            }
            S::Ready => self.mind_idleness(),
            S::Created
            | S::Validating
            | S::Validated
            | S::Busy
            | S::Blocked
            | S::Degraded
            | S::Hibernating
            | S::Draining
            | S::Retired
            | S::Failed
            | S::ForceStopped => {}
        }
    }

    fn mind_idleness(&mut self) {
        let profile = self.life.profile();
        let Some(after) = profile.and_then(Profile::hibernate_after_ms) else { return };
        if self.life.agent.operation.is_some() || self.held.count(self.id) > 0 {
            return;
        }
        let idle = self.held.idle_since(self.id).unwrap_or(self.life.state_since);
        if self.is_due(idle.max(self.life.state_since) + millis(after)) {
            let reason = Some(format!("idle for {after} ms"));
            self.ask("idle", AgentCommand::Hibernate(Reason { reason }));
        }
    }

    /// It should have a process and has none.
    fn after_its_end(&mut self) {
        let failed = AgentState::Failed;
        if self.life.agent.state == Some(AgentState::Offline) {
            if self.life.permanent {
                return self.assess("permanent", failed, self.life.reason.clone());
            }
            if !self.comes_back() {
                if self.life.agent.operation.is_some() {
                    self.assess("over", failed, self.life.reason.clone());
                }
                return;
            }
        }
        self.plan_restart(self.life.reason.clone());
    }

    /// Whether its restart policy has it started again after this end.
    fn comes_back(&self) -> bool {
        match restart_of(self.life).policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => self.life.exit_code != Some(0),
            RestartPolicy::Never => false,
        }
    }

    fn plan_restart(&mut self, reason: String) {
        if let Some(due) = self.life.restart_due {
            if self.is_due(due) {
                self.restart("restart", reason);
            }
            return;
        }
        let rules = restart_of(self.life);
        let window = self.now - millis(rules.window_ms);
        let recent = self.life.restarts.iter().filter(|at| **at > window).count() as u32;
        if recent >= rules.max {
            let (restarts, window_ms) = (recent, rules.window_ms);
            let why = QuarantineAgent { restarts, window_ms, reason };
            return self.ask("quarantine", AgentCommand::Quarantine(why));
        }
        let delay_ms = backoff(&rules, recent, self.id, self.life.version);
        let plan = ScheduleRestart { delay_ms, attempt: recent + 1, reason };
        self.ask("plan", AgentCommand::ScheduleRestart(plan));
    }

    fn restart(&mut self, word: &'static str, reason: String) {
        let reason = Some(reason.chars().take(2_000).collect());
        self.ask(word, AgentCommand::Restart(Reason { reason }));
    }

    /// It should finish what it has, and end.
    fn end_gently(&mut self) {
        if !self.life.is_live() {
            if self.life.agent.state == Some(AgentState::Draining) {
                self.assess("drained", AgentState::Offline, "drained");
            } else if self.life.agent.desired == Desired::Hibernating && self.wanted {
                let reason = Some("work waits that it can do".into());
                self.ask("demand", AgentCommand::Wake(Reason { reason }));
            }
            return;
        }
        let tasks: Vec<TaskId> = self.held.of(self.id).collect();
        let patience = self
            .life
            .drain_ms
            .unwrap_or_else(|| self.life.profile().map_or(Stop::default(), stop_of).drain_ms);
        if tasks.is_empty() || !self.is_due(self.life.wished_at + millis(patience)) {
            return;
        }
        if !self.life.handed_back {
            let back = HandBack { tasks: tasks.len() as u32, waited_ms: patience };
            self.ask("hand_back", AgentCommand::HandBack(back));
        }
        for task in tasks {
            let reason = Some("its agent ends and could not finish it in time".into());
            self.asks.push(Ask::Task(task, TaskCommand::Unassign(task::Reason { reason })));
        }
    }

    /// Its process should end, and nobody is there to say that it has: its node is gone for
    /// good, or silent for as long as an agent that should run would be waited for. Should
    /// the node come back, it finds the process in no list of what it is to run.
    fn write_off(&mut self) {
        let Some(process) = self.life.agent.process.as_ref().filter(|one| one.is_live()) else {
            return;
        };
        let node = self.fleet.nodes.get(&process.node_id);
        if node.is_some_and(super::fleet::NodeFacts::is_there) {
            return;
        }
        if let Some(node) = node
            && !self.is_due(node.state_since.max(self.life.wished_at) + RESTART_AFTER)
        {
            return;
        }
        let lost = ObserveAgent {
            node_id: process.node_id,
            generation: process.generation,
            seq: process.seq.saturating_add(1),
            phase: Phase::Lost,
            pid: None,
            exit: None,
            permanent: false,
            detail: Some(format!("{} and does not say what became of it", absent(node))),
        };
        self.ask("written_off", AgentCommand::Observe(lost));
    }

    /// Notes where desired and observed state differ for long, and where they agree again.
    fn mind_drift(&mut self) {
        let life = self.life;
        let live = life.is_live();
        let (differs, desired) = match life.agent.desired {
            Desired::Unasked => (false, AgentState::Created),
            Desired::Running => {
                let missing = life.agent.pending || !live && self.comes_back();
                (missing, AgentState::Ready)
            }
            Desired::Draining => (live && self.want() != Some(Want::Run), AgentState::Draining),
            Desired::Hibernating => {
                (live && self.want() != Some(Want::Run), AgentState::Hibernating)
            }
            Desired::Stopped => (live, AgentState::ForceStopped),
        };
        let since = life.differs_since();
        let age_ms = (self.now - since).num_milliseconds().max(0).unsigned_abs();
        let node = life.node().and_then(|node| self.fleet.nodes.get(&node));
        let owner = if life.agent.pending || !live && life.agent.desired == Desired::Running {
            DriftOwner::Managers
        } else if node.is_some_and(super::fleet::NodeFacts::is_there) {
            DriftOwner::Node
        } else {
            DriftOwner::Operator
        };
        let observed = life.agent.process.as_ref().and_then(|process| process.phase);
        match (differs, life.drift) {
            (false, Some(_)) => {
                let drift = Drift { state: DriftState::Healed, desired, observed, age_ms, owner };
                self.ask("drift_healed", AgentCommand::Drift(drift));
            }
            (false, None) | (true, Some(DriftState::Escalated)) => {}
            (true, Some(_)) => {
                if self.is_due(since + ESCALATE_AFTER) {
                    let drift = Drift {
                        state: DriftState::Escalated,
                        desired,
                        observed,
                        age_ms,
                        owner: DriftOwner::Operator,
                    };
                    self.ask("drift_escalated", AgentCommand::Drift(drift));
                }
            }
            (true, None) => {
                if self.is_due(since + DRIFT_AFTER) {
                    let drift = Drift { state: DriftState::Open, desired, observed, age_ms, owner };
                    self.ask("drift", AgentCommand::Drift(drift));
                }
            }
        }
    }

    /// What its node is to do with its process.
    pub fn want(&self) -> Option<Want> {
        want(self.life, self.held.count(self.id))
    }
}

/// What a node is to do with an agent's process; `None`: it has none that matters.
pub(super) fn want(life: &Life, held: usize) -> Option<Want> {
    if !life.is_live() {
        return None;
    }
    Some(match life.agent.desired {
        Desired::Running if life.agent.pending => Want::Stop,
        Desired::Running | Desired::Unasked => Want::Run,
        Desired::Draining | Desired::Hibernating if held > 0 => Want::Run,
        Desired::Draining | Desired::Hibernating => Want::Stop,
        Desired::Stopped if life.agent.state == Some(AgentState::ForceStopped) => Want::Kill,
        Desired::Stopped => Want::Stop,
    })
}

/// That a node is not there, for people.
fn absent(node: Option<&super::fleet::NodeFacts>) -> String {
    node.map_or("its node was retired".into(), |node| format!("node {} is silent", node.name))
}

fn stop_of(profile: &Profile) -> Stop {
    profile.stop.clone().unwrap_or_default()
}

fn restart_of(life: &Life) -> Restart {
    life.profile().and_then(|profile| profile.restart.clone()).unwrap_or_default()
}

pub(super) fn millis(ms: u64) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2_000).min(i64::MAX / 2_000))
}

/// Exponential, at most `backoff_max_ms`, and up to a fifth shorter so that a fleet that fell
/// together does not rise together; which fifth follows from the agent and its version.
fn backoff(rules: &Restart, recent: u32, id: AgentId, version: u64) -> u64 {
    let whole = rules.backoff_ms.saturating_mul(1u64 << recent.min(32)).min(rules.backoff_max_ms);
    let dice = (id.0.as_u128() as u64 ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % 1_000;
    whole - whole / 5 * dice / 1_000
}
