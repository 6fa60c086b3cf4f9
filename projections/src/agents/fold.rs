//! What each event makes of an agent's row.

use domain::agent::{
    AgentEvent, AgentRegistered, AgentState, Drift, DriftState, ObserveAgent, Phase, Rounds,
    state_after,
};
use domain::crew::CrewEvent;
use domain::profile::{Resources, Watch};
use domain::values::Labels;
use domain::{CrewId, Event, Json, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::view::{ProcessView, RoundView};

use crate::engine::{Cell, Column, ColumnKind, Projection};
use crate::tasks::{label_terms, search_text};

/// The read model of agents.
#[derive(Debug, Clone, Copy)]
pub struct Agents;

/// What is kept of an agent; see [`super::AgentView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as AgentView, but for those explained")]
pub struct AgentRow {
    pub name: String,
    pub role: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub profile: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub session_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_context: Option<String>,
    /// Never `busy` by its tasks: those are added when it is shown.
    pub state: AgentState,
    pub desired_state: AgentState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_state: Option<AgentState>,
    pub restart_count: u32,
    /// A restart was asked for; the process that registers next is its fruit, not another.
    #[serde(default)]
    pub restarting: bool,
    pub slots: u32,
    #[serde(default)]
    pub cost: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// Why it is in its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessView>,
    /// What is reserved for it on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Resources>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_round: Option<RoundView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crew_id: Option<CrewId>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub stream_version: u64,
    pub position: u64,
    /// Of its first event: the order of lists, which never changes.
    pub created: u64,
}

impl Projection for Agents {
    const NAME: &'static str = "agents";
    const COLUMNS: &'static [Column] = &[
        Column::new("created", ColumnKind::Int),
        Column::new("name", ColumnKind::Text),
        Column::new("state", ColumnKind::Text),
        Column::new("role", ColumnKind::Text),
        Column::new("crew_id", ColumnKind::Uuid),
        Column::new("node_id", ColumnKind::Text),
        Column::new("capabilities", ColumnKind::Words),
        Column::new("labels", ColumnKind::Words),
        Column::new("search", ColumnKind::Text),
    ];
    type Key = Uuid;
    type Row = AgentRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        match event {
            Event::Agent(_) => vec![recorded.stream_id],
            Event::Crew(CrewEvent::RoleAssigned(role)) => vec![role.agent_id.0],
            Event::Crew(_)
            | Event::Task(_)
            | Event::Operation(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => Vec::new(),
        }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<AgentRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<AgentRow> {
        match event {
            Event::Agent(event) => {
                let mut row = match (event, row) {
                    (AgentEvent::Registered(new), None) => AgentRow::registered(new, recorded),
                    (_, None) => return None,
                    (_, Some(row)) => row,
                };
                row.apply(event, recorded.occurred_at);
                row.updated_at = recorded.occurred_at;
                row.stream_version = recorded.version;
                row.position = recorded.position;
                Some(row)
            }
            Event::Crew(CrewEvent::RoleAssigned(_)) => {
                let mut row = row?;
                row.crew_id = Some(CrewId(recorded.stream_id));
                row.updated_at = recorded.occurred_at;
                row.position = recorded.position;
                Some(row)
            }
            Event::Crew(_)
            | Event::Task(_)
            | Event::Operation(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_) => row,
        }
    }

    fn shown(key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::AgentView::of(domain::AgentId(*key), row, Vec::new()))
            .unwrap_or_default()
    }

    fn index(_: &Uuid, row: &AgentRow) -> Vec<Cell> {
        vec![
            Cell::position(row.created),
            Cell::text(&row.name),
            Cell::text(row.state.as_str()),
            Cell::text(&row.role),
            Cell::Uuid(row.crew_id.map(|id| id.0)),
            Cell::Text(row.node_id().map(|id| id.to_string())),
            Cell::Words(row.capabilities.clone()),
            Cell::Words(label_terms(&row.labels)),
            Cell::Text(Some(search_text(&row.name, Some(&row.role)))),
        ]
    }
}

impl AgentRow {
    fn registered(new: &AgentRegistered, recorded: &Recorded) -> Self {
        let mut row = Self {
            name: String::new(),
            role: String::new(),
            capabilities: Vec::new(),
            labels: Labels::default(),
            profile: Json::null(),
            version: None,
            endpoint: None,
            session_key: String::new(),
            memory_context: None,
            state: AgentState::Created,
            desired_state: AgentState::Created,
            observed_state: None,
            restart_count: 0,
            restarting: false,
            slots: new.slots,
            cost: new.cost,
            watch: None,
            reason: None,
            process: None,
            reserved: None,
            tier: None,
            restart_at: None,
            rounds: None,
            next_round_at: None,
            last_round: None,
            drift: None,
            crew_id: None,
            created_at: recorded.occurred_at,
            updated_at: recorded.occurred_at,
            stream_version: recorded.version,
            position: recorded.position,
            created: recorded.position,
        };
        row.describe(new, recorded.occurred_at);
        row
    }

    fn apply(&mut self, event: &AgentEvent, at: Timestamp) {
        use AgentEvent as E;
        match event {
            E::Registered(new) => self.describe(new, at),
            E::Reconnected(new) => {
                self.describe(new, at);
                if !new.led {
                    self.observed_state = None;
                }
                if !std::mem::take(&mut self.restarting) && !new.led {
                    self.restart_count += 1;
                }
            }
            E::Updated(changes) => {
                let changes = changes.clone();
                self.role = changes.role.unwrap_or(std::mem::take(&mut self.role));
                if let Some(capabilities) = changes.capabilities {
                    self.capabilities = capabilities;
                }
                if let Some(labels) = changes.labels {
                    self.labels = labels;
                }
                self.slots = changes.slots.unwrap_or(self.slots);
                self.cost = changes.cost.unwrap_or(self.cost);
                self.memory_context = changes.memory_context.or(self.memory_context.take());
                self.watch = changes.watch.or(self.watch.take());
                if let Some(rounds) = changes.rounds {
                    self.next_round_at = rounds.next_after(at);
                    self.rounds = Some(rounds);
                }
                if let Some(profile) = changes.profile {
                    self.profile = profile;
                }
            }
            E::DeployRequested(asked) | E::Woken(asked) => {
                self.desired_state = AgentState::Ready;
                self.reason.clone_from(&asked.reason);
                self.restart_at = None;
            }
            E::Ready(why) => {
                self.desired_state = AgentState::Ready;
                self.reason.clone_from(&why.reason);
            }
            E::Restarted(asked) => {
                self.desired_state = AgentState::Ready;
                self.reason.clone_from(&asked.reason);
                self.restart_at = None;
                self.observed_state = None;
                self.restart_count += 1;
                self.restarting = true;
            }
            E::Reported(seen) => {
                self.observed_state = Some(seen.observed_state);
                self.reason.clone_from(&seen.reason);
            }
            E::Draining(asked) => self.wished(AgentState::Draining, &asked.reason),
            E::Hibernated(asked) => self.wished(AgentState::Hibernating, &asked.reason),
            E::Retired(gone) => self.wished(AgentState::Retired, &gone.reason),
            E::ForceStopped(asked) => self.wished(AgentState::ForceStopped, &asked.reason),
            E::Placed(placed) => {
                let profile = &placed.launch.profile;
                self.reserved = Some(profile.resources.clone().unwrap_or_default());
                self.tier.clone_from(&profile.tier);
                self.process = Some(ProcessView {
                    node_id: placed.node_id,
                    node: placed.node.clone(),
                    generation: placed.generation,
                    phase: None,
                    pid: None,
                    exit: None,
                    detail: None,
                });
                self.observed_state = None;
            }
            E::Observed(seen) => self.observe(seen),
            E::Validated(found) => self.reason = Some(found.reason.clone()),
            E::Assessed(believed) => self.reason = Some(believed.reason.clone()),
            E::RestartScheduled(plan) => self.restart_at = Some(plan.due_at),
            E::Quarantined(why) => {
                let (n, s) = (why.restarts, why.window_ms / 1_000);
                let reason = format!("quarantined after {n} restarts in {s} s: {}", why.reason);
                self.wished(AgentState::Failed, &Some(reason));
            }
            E::Drifted(drift) => {
                self.drift = Some(drift.clone()).filter(|d| d.state != DriftState::Healed);
            }
            E::RoundBegun(begun) => {
                self.next_round_at = self.rounds.as_ref().and_then(|r| r.next_after(begun.at));
                self.last_round = Some(RoundView {
                    round: begun.round,
                    cause: begun.cause,
                    reason: begun.reason.clone(),
                    began_at: begun.at,
                    ended_at: None,
                    summary: None,
                });
            }
            E::RoundEnded(done) => {
                if let Some(last) = &mut self.last_round {
                    last.ended_at = Some(at);
                    last.summary.clone_from(&done.summary);
                }
            }
            E::HandedBack(_) | E::Ignored(_) => {}
        }
        self.state = state_after(Some(self.state), event).unwrap_or(self.state);
    }

    fn wished(&mut self, state: AgentState, reason: &Option<String>) {
        self.desired_state = state;
        self.reason.clone_from(reason);
        self.restart_at = None;
    }

    fn observe(&mut self, seen: &ObserveAgent) {
        if let Some(process) = &mut self.process {
            process.phase = Some(seen.phase);
            process.pid = seen.pid.or(process.pid);
            process.exit = seen.exit.as_deref().cloned();
            process.detail.clone_from(&seen.detail);
        }
        self.observed_state = match seen.phase {
            Phase::Starting => Some(AgentState::Deploying),
            Phase::Started | Phase::Warming => Some(AgentState::Warming),
            Phase::Ready => Some(AgentState::Ready),
            Phase::NotReady => Some(AgentState::Blocked),
            Phase::Unhealthy => Some(AgentState::Unhealthy),
            Phase::Terminating | Phase::Killing => self.observed_state,
            Phase::Exited | Phase::StartFailed | Phase::Lost => Some(AgentState::Offline),
        };
    }

    /// The node that has a process of it.
    pub fn node_id(&self) -> Option<Uuid> {
        let process = self.process.as_ref()?;
        (!process.phase.is_some_and(Phase::is_over)).then_some(process.node_id)
    }

    fn describe(&mut self, new: &AgentRegistered, at: Timestamp) {
        let new = new.clone();
        self.name = new.name;
        self.role = new.role;
        self.session_key = new.session_key;
        self.capabilities = new.capabilities;
        self.labels = new.labels;
        self.slots = new.slots;
        self.cost = new.cost;
        self.memory_context = new.memory_context;
        self.profile = new.profile;
        self.version = new.version;
        self.endpoint = new.endpoint;
        self.watch = new.watch;
        self.next_round_at = new.rounds.as_ref().and_then(|rounds| rounds.next_after(at));
        self.rounds = new.rounds;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
