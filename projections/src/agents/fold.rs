//! What each event makes of an agent's row.

use domain::agent::{AgentEvent, AgentRegistered, AgentState, state_after};
use domain::crew::CrewEvent;
use domain::values::Labels;
use domain::{CrewId, Event, Json, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
                row.apply(event);
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

    fn index(_: &Uuid, row: &AgentRow) -> Vec<Cell> {
        vec![
            Cell::position(row.created),
            Cell::text(&row.name),
            Cell::text(row.state.as_str()),
            Cell::text(&row.role),
            Cell::Uuid(row.crew_id.map(|id| id.0)),
            Cell::Text(None),
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
            crew_id: None,
            created_at: recorded.occurred_at,
            updated_at: recorded.occurred_at,
            stream_version: recorded.version,
            position: recorded.position,
            created: recorded.position,
        };
        row.describe(new);
        row
    }

    fn apply(&mut self, event: &AgentEvent) {
        use AgentEvent as E;
        match event {
            E::Registered(new) => self.describe(new),
            E::Reconnected(new) => {
                self.describe(new);
                self.observed_state = None;
                if !std::mem::take(&mut self.restarting) {
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
            }
            E::DeployRequested(_) | E::Ready(_) | E::Woken(_) => {
                self.desired_state = AgentState::Ready;
            }
            E::Restarted(_) => {
                self.desired_state = AgentState::Ready;
                self.observed_state = None;
                self.restart_count += 1;
                self.restarting = true;
            }
            E::Reported(seen) => self.observed_state = Some(seen.observed_state),
            E::Draining(_) => self.desired_state = AgentState::Draining,
            E::Hibernated(_) => self.desired_state = AgentState::Hibernating,
            E::Retired(_) => self.desired_state = AgentState::Retired,
            E::ForceStopped(_) => self.desired_state = AgentState::ForceStopped,
        }
        self.state = state_after(Some(self.state), event).unwrap_or(self.state);
    }

    fn describe(&mut self, new: &AgentRegistered) {
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
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
