//! The agent's rules: state × command -> events, or a refusal.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::*;
use super::event::*;
use super::observation::*;
use super::round::*;
use super::state::AgentState;
use crate::decide::{Facts, Refusal, Timestamp, operation_id};
use crate::ids::OperationId;
use crate::problem::Code;
use crate::task::TaskNoted;

/// What waits while an operation is under way.
const ONE_AT_A_TIME: [&str; 5] = ["deploy", "drain", "hibernate", "wake", "restart"];

/// How the names of process managers begin.
const MANAGER: &str = "manager:";

/// What nodes and managers alone say of an agent: whoever may place one decides what is run
/// on a node.
const NOT_AGENTS: [&str; 8] = [
    "validate",
    "place",
    "observe",
    "assess",
    "schedule_restart",
    "quarantine",
    "hand_back",
    "drift",
];

/// What is wanted of an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Nobody asked for anything: it came by itself, or was only described.
    #[default]
    Unasked,
    /// It runs.
    Running,
    /// It finishes what it has and ends.
    Draining,
    /// It sleeps.
    Hibernating,
    /// It is not there.
    Stopped,
}

/// The process that a node runs for an agent, as far as the node told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The node.
    pub node_id: Uuid,
    /// One more with every placement.
    pub generation: u32,
    /// The last that was seen; `None`: the node has not said anything yet.
    pub phase: Option<Phase>,
    /// Of the last observation.
    pub seq: u32,
}

impl Process {
    /// Whether there is, or may be, a process.
    pub fn is_live(&self) -> bool {
        !self.phase.is_some_and(Phase::is_over)
    }
}

/// A worker of the fleet.
///
/// Invariant: `Retired` is final.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// What is believed of it; `None` until registered.
    pub state: Option<AgentState>,
    /// Unique in the tenant until retired.
    pub name: String,
    /// What is wanted of it.
    pub desired: Desired,
    /// Its description, when it has a profile: nodes start and stop it.
    pub managed: Option<Box<AgentRegistered>>,
    /// A node has to be found for a process of it.
    pub pending: bool,
    /// What was observed of it last.
    pub process: Option<Process>,
    /// Of its last process.
    pub generation: u32,
    /// The operation under way, one at a time.
    pub operation: Option<OperationId>,
    /// Rounds that it was told to begin.
    pub rounds: u64,
    /// When the open one began.
    pub round_since: Option<Timestamp>,
}

impl Agent {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command, or another operation is under way.
    pub fn decide(
        &self,
        command: &AgentCommand,
        facts: &Facts,
    ) -> Result<Vec<AgentEvent>, Refusal> {
        use AgentCommand as C;
        use AgentEvent as E;
        use AgentState as S;

        if facts.actor.starts_with("agent:") && NOT_AGENTS.contains(&command.name()) {
            let detail = format!("`{}` is not for agents to say", command.name());
            return Err(Refusal::new(Code::Forbidden, detail));
        }
        let Some(state) = self.state else {
            let C::Register(new) = command else {
                return Err(Refusal::unknown("agent"));
            };
            return Ok(vec![E::Registered(registered(new))]);
        };
        self.check_operation(command, facts)?;
        if !state.allowed().contains(&command.name()) {
            return Err(Refusal::illegal(command.name(), state.as_str(), &self.allowed()));
        }
        let noted = |why: &Reason| TaskNoted { reason: why.reason.clone() };
        let operation = self.managed.is_some().then(|| operation_id(facts.command_id));
        let asked = |why: &Reason| AgentAsked {
            reason: why.reason.clone(),
            operation_id: operation,
            timeout_ms: None,
        };
        Ok(vec![match command {
            C::Register(new) if new.name != self.name => {
                let detail = format!("this agent is registered as `{}`", self.name);
                return Err(Refusal::new(Code::AlreadyExists, detail));
            }
            C::Register(new) => E::Reconnected(self.reconnected(new)),
            C::Update(changes) => E::Updated(changes.clone()),
            C::Deploy(_) if self.managed.is_none() => {
                let detail = "the agent has no profile: nothing says what to start; \
                     give it one, or start it yourself with `taffrail agent run`";
                return Err(Refusal::new(Code::NotPossible, detail));
            }
            C::Deploy(why) => E::DeployRequested(asked(why)),
            C::MarkReady(_) if state == S::Ready || self.is_led() => return Ok(vec![]),
            C::MarkReady(why) => E::Ready(noted(why)),
            C::Report(seen) => return Ok(self.reported(state, seen)),
            C::Drain(why) => E::Draining(AgentAsked {
                reason: why.reason.clone(),
                operation_id: operation,
                timeout_ms: why.timeout_ms,
            }),
            C::Hibernate(why) => E::Hibernated(asked(why)),
            // It is awake: its process is told to look for work at once, and that is all.
            C::Wake(_) if state != S::Hibernating => return Ok(vec![]),
            C::Wake(why) => E::Woken(asked(why)),
            // A manager's restart is a step of what it does, not an operation of its own.
            C::Restart(why) if facts.actor.starts_with(MANAGER) => {
                E::Restarted(AgentAsked { operation_id: self.operation, ..asked(why) })
            }
            C::Restart(why) => E::Restarted(asked(why)),
            C::Retire(why) => E::Retired(AgentRetired {
                name: self.name.clone(),
                reason: why.reason.clone(),
                operation_id: operation,
            }),
            C::ForceStop(why) => E::ForceStopped(asked(why)),
            C::BeginRound(_) if self.round_since.is_some() => return Ok(vec![]),
            C::BeginRound(begin) => {
                let round = self.rounds + 1;
                let begun = E::RoundBegun(RoundBegun {
                    round,
                    at: facts.now,
                    cause: begin.cause,
                    reason: begin.reason.clone(),
                    tasks: begin.tasks.clone(),
                });
                let sleeps = state == S::Hibernating && self.operation.is_none();
                let reason = Some(format!("round {round}"));
                let woken = sleeps.then(|| E::Woken(asked(&Reason { reason })));
                return Ok([begun].into_iter().chain(woken).collect());
            }
            C::EndRound(done) => match self.round_since {
                None => return Ok(vec![]),
                Some(began_at) => E::RoundEnded(RoundEnded {
                    round: self.rounds,
                    began_at,
                    summary: done.summary.clone(),
                }),
            },
            C::Validate(_) if state != S::Validating => return Ok(vec![]),
            C::Validate(found) => E::Validated(found.clone()),
            C::Place(_) if !self.pending => return Ok(vec![]),
            C::Place(place) => return Ok(self.placed(state, place)),
            C::Observe(seen) => return Ok(self.observed(state, seen)),
            C::Assess(believed) => return Ok(assessed(state, believed)),
            C::ScheduleRestart(plan) => E::RestartScheduled(RestartScheduled {
                due_at: facts.now
                    + chrono::TimeDelta::milliseconds(plan.delay_ms.min(86_400_000) as i64),
                attempt: plan.attempt,
                reason: plan.reason.clone(),
            }),
            C::Quarantine(why) => E::Quarantined(why.clone()),
            C::HandBack(tasks) => E::HandedBack(tasks.clone()),
            C::Drift(drift) => E::Drifted(drift.clone()),
        }])
    }

    /// The commands that are possible now: those of its state, but without a profile it
    /// cannot be deployed, and while an operation is under way some have to wait.
    pub fn allowed(&self) -> Vec<&'static str> {
        let listed = self.state.map(AgentState::allowed).unwrap_or_default();
        let waits = |name: &str| self.operation.is_some() && ONE_AT_A_TIME.contains(&name);
        let possible = |name: &&str| !(waits(name) || *name == "deploy" && self.managed.is_none());
        listed.iter().copied().filter(possible).collect()
    }

    /// One operation at a time; what ends an agent for good does not wait for others.
    fn check_operation(&self, command: &AgentCommand, facts: &Facts) -> Result<(), Refusal> {
        let step = facts.actor.starts_with(MANAGER) && matches!(command, AgentCommand::Restart(_));
        match self.operation {
            Some(running) if ONE_AT_A_TIME.contains(&command.name()) && !step => Err(Refusal {
                conflicting_id: Some(running.0),
                state: self.state.map(|state| state.as_str().to_owned()),
                allowed: self.allowed(),
                ..Refusal::new(
                    Code::InProgress,
                    format!("operation {running} is under way for this agent"),
                )
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Its node knows better than itself whether it is ready.
    fn is_led(&self) -> bool {
        use AgentState as S;
        let starts = matches!(
            self.state,
            Some(S::Validating | S::Validated | S::Deploying | S::Warming | S::Offline)
        );
        let phase = self.process.as_ref().and_then(|process| process.phase);
        let ill = matches!(phase, Some(Phase::NotReady | Phase::Unhealthy));
        self.managed.is_some() && self.desired != Desired::Unasked && (starts || ill)
    }

    /// What a known agent says of itself when it registers again. One that a node runs may
    /// know little of itself: what it leaves out stays.
    fn reconnected(&self, new: &RegisterAgent) -> AgentRegistered {
        let mut said = registered(new);
        let Some(known) = self.managed.as_deref() else { return said };
        said.led =
            self.desired != Desired::Unasked && self.process.as_ref().is_some_and(Process::is_live);
        if !said.profile.is_null() {
            return said;
        }
        said.profile = known.profile.clone();
        said.watch = said.watch.or_else(|| known.watch.clone());
        if said.capabilities.is_empty() {
            said.capabilities.clone_from(&known.capabilities);
        }
        if said.labels == Default::default() {
            said.labels = known.labels.clone();
        }
        said.memory_context = said.memory_context.or_else(|| known.memory_context.clone());
        said
    }

    fn reported(&self, state: AgentState, seen: &ReportAgent) -> Vec<AgentEvent> {
        use AgentState as S;
        // The last words of a process that is being killed must not revive it.
        if state.is_final() {
            let said = seen.observed_state.as_str().to_owned();
            let reason = format!("the agent is {}", state.as_str());
            return vec![AgentEvent::Ignored(AgentIgnored { what: "report".into(), said, reason })];
        }
        let ends = matches!(seen.observed_state, S::Offline | S::Failed);
        let told = matches!(state, S::Draining | S::Hibernating);
        // What it is told to do, and what its node sees, outweighs what it says of itself,
        // but for its end; of the end of one that it was told to end, its node knows more.
        let known = told && self.process.as_ref().is_some_and(Process::is_live);
        if seen.observed_state == state || known || !ends && (told || self.is_led()) {
            return vec![];
        }
        vec![AgentEvent::Reported(AgentReported {
            observed_state: seen.observed_state,
            reason: seen.reason.clone(),
        })]
    }

    fn placed(&self, state: AgentState, place: &PlaceAgent) -> Vec<AgentEvent> {
        let validated = (state == AgentState::Validating).then(|| {
            AgentEvent::Validated(ValidateAgent { reason: format!("node {} takes it", place.node) })
        });
        let placed = AgentEvent::Placed(AgentPlaced {
            node_id: place.node_id,
            node: place.node.clone(),
            generation: self.generation + 1,
            launch: place.launch.clone(),
            candidates: place.candidates.clone(),
        });
        validated.into_iter().chain([placed]).collect()
    }

    /// What a node sees is a fact; what it makes us believe is another one.
    fn observed(&self, state: AgentState, seen: &ObserveAgent) -> Vec<AgentEvent> {
        use AgentState as S;
        let known = self.process.as_ref().filter(|process| {
            process.generation == seen.generation && process.node_id == seen.node_id
        });
        let Some(known) = known else {
            let what = "observe".into();
            let said = format!("generation {}: {}", seen.generation, seen.phase.as_str());
            let reason = format!("generation {} is the current one", self.generation);
            return vec![AgentEvent::Ignored(AgentIgnored { what, said, reason })];
        };
        if seen.seq <= known.seq {
            return vec![];
        }
        let mut events = vec![AgentEvent::Observed(seen.clone())];
        if state.is_final() || self.pending {
            return events;
        }
        let detail = seen.detail.as_deref();
        let believed = match seen.phase {
            Phase::Starting | Phase::Terminating | Phase::Killing => None,
            Phase::Started => Some((S::Warming, "its process runs".to_owned())),
            Phase::Warming => Some((S::Warming, detail.unwrap_or("it warms up").to_owned())),
            Phase::Ready => Some((S::Ready, detail.unwrap_or("its process runs").to_owned())),
            Phase::NotReady => {
                Some((S::Blocked, detail.unwrap_or("its readiness probe is bad").to_owned()))
            }
            Phase::Unhealthy => {
                Some((S::Unhealthy, detail.unwrap_or("its liveness probe is bad").to_owned()))
            }
            Phase::Exited => {
                let how = seen.exit.as_deref().map(Exit::words).unwrap_or_default();
                Some((S::Offline, format!("its process ended: {how}")))
            }
            Phase::StartFailed => {
                Some((S::Offline, format!("it could not be started: {}", detail.unwrap_or("?"))))
            }
            Phase::Lost => Some((S::Offline, "its process is gone".to_owned())),
        };
        if let Some((believed, reason)) = believed {
            let asleep = state == S::Hibernating && seen.phase.is_over();
            let wanted = matches!(self.desired, Desired::Running | Desired::Unasked);
            if !asleep && (wanted || seen.phase.is_over()) {
                events.extend(assessed(state, &AssessAgent { state: believed, reason }));
            }
        }
        events
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &AgentEvent) {
        use AgentEvent as E;
        let live = self.process.as_ref().is_some_and(Process::is_live);
        match event {
            E::Registered(new) | E::Reconnected(new) => {
                self.name.clone_from(&new.name);
                self.managed = (!new.profile.is_null()).then(|| Box::new(new.clone()));
                if !new.led && self.managed.is_none() {
                    (self.desired, self.operation) = (Desired::Unasked, None);
                }
            }
            E::Updated(changes) => self.update(changes),
            E::DeployRequested(asked) | E::Restarted(asked) | E::Woken(asked) => {
                self.desired = Desired::Running;
                self.pending = self.managed.is_some();
                self.operation = asked.operation_id;
            }
            E::Draining(asked) => self.stop(Desired::Draining, asked.operation_id, live),
            E::Hibernated(asked) => self.stop(Desired::Hibernating, asked.operation_id, live),
            E::ForceStopped(asked) => self.stop(Desired::Stopped, asked.operation_id, live),
            E::Retired(gone) => self.stop(Desired::Stopped, gone.operation_id, live),
            E::Quarantined(_) => self.stop(Desired::Stopped, None, live),
            E::Placed(placed) => {
                self.pending = false;
                self.generation = placed.generation;
                self.process = Some(Process {
                    node_id: placed.node_id,
                    generation: placed.generation,
                    phase: None,
                    seq: 0,
                });
            }
            E::Observed(seen) => {
                if let Some(process) = &mut self.process {
                    (process.phase, process.seq) = (Some(seen.phase), seen.seq);
                }
                if seen.phase.is_over() && self.desired != Desired::Running {
                    self.operation = None;
                }
            }
            E::RoundBegun(begun) => {
                (self.rounds, self.round_since) = (begun.round, Some(begun.at));
            }
            E::RoundEnded(_) => self.round_since = None,
            // A drain that is taken back: it goes on.
            E::Ready(_) if self.managed.is_some() && self.desired == Desired::Draining && live => {
                (self.desired, self.operation) = (Desired::Running, None);
            }
            E::Ready(_) if self.desired == Desired::Running => self.operation = None,
            E::Assessed(AssessAgent { state: AgentState::Failed, .. })
            | E::Reported(AgentReported { observed_state: AgentState::Failed, .. }) => {
                self.stop(Desired::Stopped, None, live);
            }
            E::Ready(_)
            | E::Assessed(_)
            | E::Validated(_)
            | E::Reported(_)
            | E::RestartScheduled(_)
            | E::HandedBack(_)
            | E::Drifted(_)
            | E::Ignored(_) => {}
        }
        self.state = state_after(self.state, event);
    }

    fn stop(&mut self, desired: Desired, operation: Option<OperationId>, live: bool) {
        (self.desired, self.pending) = (desired, false);
        self.operation = operation.filter(|_| live);
    }

    fn update(&mut self, changes: &UpdateAgent) {
        if let Some(profile) = &changes.profile {
            if profile.is_null() {
                self.managed = None;
            } else {
                let named = RegisterAgent::named(self.name.as_str());
                let known = self.managed.get_or_insert_with(|| Box::new(registered(&named)));
                known.profile = profile.clone();
            }
        }
        let Some(known) = &mut self.managed else { return };
        known.role = changes.role.clone().unwrap_or(std::mem::take(&mut known.role));
        known.slots = changes.slots.unwrap_or(known.slots);
        if let Some(capabilities) = &changes.capabilities {
            known.capabilities.clone_from(capabilities);
        }
        if let Some(labels) = &changes.labels {
            known.labels = labels.clone();
        }
        known.watch = changes.watch.clone().or_else(|| known.watch.take());
    }
}

/// The state that an event leads to; what only looks at the state of an agent needs no
/// more than this.
pub fn state_after(before: Option<AgentState>, event: &AgentEvent) -> Option<AgentState> {
    use AgentEvent as E;
    use AgentState as S;
    Some(match event {
        E::Registered(_) => S::Created,
        E::Reconnected(new) if new.led => return before,
        E::Reconnected(_) => S::Created,
        E::DeployRequested(_) => S::Validating,
        E::Validated(_) => S::Validated,
        E::Restarted(_) | E::Placed(_) => S::Deploying,
        E::Woken(asked) if asked.operation_id.is_some() => S::Deploying,
        E::Woken(_) => S::Warming,
        E::Ready(_) => S::Ready,
        E::Reported(seen) => seen.observed_state,
        E::Assessed(believed) => believed.state,
        E::Draining(_) => S::Draining,
        E::Hibernated(_) => S::Hibernating,
        E::Retired(_) => S::Retired,
        E::Quarantined(_) => S::Failed,
        E::ForceStopped(_) => S::ForceStopped,
        E::Updated(_)
        | E::Observed(_)
        | E::RestartScheduled(_)
        | E::HandedBack(_)
        | E::Drifted(_)
        | E::RoundBegun(_)
        | E::RoundEnded(_)
        | E::Ignored(_) => return before,
    })
}

/// What an agent is believed to be changes only to something else, and what it is told to do
/// outweighs everything but its end.
fn assessed(state: AgentState, believed: &AssessAgent) -> Vec<AgentEvent> {
    use AgentState as S;
    let told = matches!(state, S::Draining | S::Hibernating);
    let ends = matches!(believed.state, S::Offline | S::Failed);
    if believed.state == state || told && !ends {
        return vec![];
    }
    if believed.state == S::Ready {
        return vec![AgentEvent::Ready(TaskNoted { reason: Some(believed.reason.clone()) })];
    }
    vec![AgentEvent::Assessed(believed.clone())]
}

fn registered(new: &RegisterAgent) -> AgentRegistered {
    let new = new.clone();
    AgentRegistered {
        session_key: format!("agent:{}:{}", new.role, new.name),
        name: new.name,
        role: new.role,
        capabilities: new.capabilities,
        labels: new.labels,
        slots: new.slots,
        memory_context: new.memory_context,
        profile: new.profile,
        version: new.version,
        endpoint: new.endpoint,
        ttl_ms: new.ttl_ms,
        cost: new.cost,
        watch: new.watch,
        rounds: new.rounds,
        led: false,
    }
}

aggregate!(Agent, "agent", AgentCommand, AgentEvent);
