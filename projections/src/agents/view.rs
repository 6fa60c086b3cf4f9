//! The contract's Agent.

use chrono::{DateTime, Utc};
use domain::agent::{AgentState, Drift, Exit, Phase, RoundCause, Rounds};
use domain::profile::Watch;
use domain::values::Labels;
use domain::{AgentId, CrewId, Json, NodeId, TaskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AgentRow;

/// The process that a node runs for an agent, as the node told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Process)]
pub struct ProcessView {
    /// The node.
    pub node_id: Uuid,
    /// Its name.
    pub node: String,
    /// One more with every start.
    pub generation: u32,
    /// The last that was seen of it.
    pub phase: Option<Phase>,
    /// As the node numbers it.
    pub pid: Option<u32>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// For people.
    pub detail: Option<String>,
}

/// A round of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Round)]
pub struct RoundView {
    /// The how-manieth.
    pub round: u64,
    /// What began it.
    pub cause: RoundCause,
    /// For people: the type of the event, or what somebody said.
    pub reason: Option<String>,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it ended; null while it is open.
    pub ended_at: Option<DateTime<Utc>>,
    /// What it came to, where its agent said so.
    pub summary: Option<String>,
}

/// An agent as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Agent)]
pub struct AgentView {
    /// Its id.
    pub id: AgentId,
    /// Unique among the tenant's agents that are not retired.
    pub name: String,
    /// What it is for.
    pub role: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Free labels, as they were given.
    pub labels: Labels,
    /// A profile's name, or a profile inline.
    pub profile: Json,
    /// The version of its program.
    pub version: Option<String>,
    /// Where it can be reached, if anywhere.
    pub endpoint: Option<String>,
    /// `agent:<role>:<name>`
    pub session_key: String,
    /// What it should know from the start.
    pub memory_context: Option<String>,
    /// What it is believed to be; `busy` when it is ready and holds tasks.
    pub state: AgentState,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// What it was last told to be.
    pub desired_state: AgentState,
    /// What was last seen of it, by itself or its watcher.
    pub observed_state: Option<AgentState>,
    /// When it was last heard of; known live only.
    pub last_heartbeat: Option<DateTime<Utc>>,
    /// How busy it says it is; known live only.
    pub load: Option<f64>,
    /// How many tasks it could take now; known live only.
    pub slots_free: Option<u32>,
    /// How often its process was started again.
    pub restart_count: u32,
    /// Tasks it may hold at once.
    pub slots: u32,
    /// What it costs in comparison.
    pub cost: u32,
    /// The tasks it holds, oldest first.
    pub tasks: Vec<TaskId>,
    /// The crew it belongs to.
    pub crew_id: Option<CrewId>,
    /// The node it runs on.
    pub node_id: Option<NodeId>,
    /// Its last process on a node.
    pub process: Option<ProcessView>,
    /// The tier of the profile that it was started with.
    pub tier: Option<String>,
    /// When its silence is taken for a fault, as far as it said so itself.
    pub watch: Option<Watch>,
    /// When it will be started again, if it waits for that.
    pub restart_at: Option<DateTime<Utc>>,
    /// When it has its rounds, if it works in rounds.
    pub rounds: Option<Rounds>,
    /// When the next one is due by its timetable.
    pub next_round_at: Option<DateTime<Utc>>,
    /// The last one, or the one that is open.
    pub last_round: Option<RoundView>,
    /// Since when, and by whose fault, it is not what it should be.
    pub drift: Option<Drift>,
    /// When it was first registered.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// The stream's version.
    pub stream_version: u64,
    /// Of its last event.
    pub position: u64,
}

impl AgentView {
    /// A row with the tasks that the agent holds.
    pub fn of(id: AgentId, row: AgentRow, tasks: Vec<TaskId>) -> Self {
        let node_id = row.node_id().map(NodeId);
        let busy = row.state == AgentState::Ready && !tasks.is_empty();
        Self {
            id,
            name: row.name,
            role: row.role,
            capabilities: row.capabilities,
            labels: row.labels,
            profile: row.profile,
            version: row.version,
            endpoint: row.endpoint,
            session_key: row.session_key,
            memory_context: row.memory_context,
            state: if busy { AgentState::Busy } else { row.state },
            reason: row.reason.clone(),
            desired_state: row.desired_state,
            observed_state: row.observed_state,
            last_heartbeat: None,
            load: None,
            slots_free: None,
            restart_count: row.restart_count,
            slots: row.slots,
            cost: row.cost,
            tasks,
            crew_id: row.crew_id,
            node_id,
            process: row.process,
            tier: row.tier,
            watch: row.watch,
            restart_at: row.restart_at,
            rounds: row.rounds,
            next_round_at: row.next_round_at,
            last_round: row.last_round,
            drift: row.drift,
            created_at: row.created_at,
            updated_at: row.updated_at,
            stream_version: row.stream_version,
            position: row.position,
        }
    }
}
