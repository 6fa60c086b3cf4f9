//! Subjects, built from ids: a token is valid by construction.
//!
//! `<tenant>` stands second, before the kind, so that one permission line isolates a tenant.

mod parse;

use domain::ids::is_token;
use domain::{AgentId, Recorded, StreamType, TenantId};
use uuid::Uuid;

pub use parse::{
    AgentWord, ClaimSubject, CommandSubject, NodeWord, Subject, Target, parse, tenant_of,
};

/// Every durable command of every tenant.
pub const ALL_COMMANDS: &str = "taffrail.*.cmd.>";
/// Every command request of every tenant, claims among them.
pub const ALL_REQUESTS: &str = "taffrail.*.req.>";
/// Every command request of every agent, claims among them.
pub const ALL_AGENT_REQUESTS: &str = "taffrail.*.agent.*.req.>";
/// Every claim.
pub const ALL_CLAIMS: &str = "taffrail.*.req.queue.*.claim";
/// Every claim that an agent makes under its own name.
pub const ALL_AGENT_CLAIMS: &str = "taffrail.*.agent.*.req.queue.*.claim";
/// Every event of every tenant.
pub const ALL_EVENTS: &str = "taffrail.*.evt.>";
/// Everything that could not be processed.
pub const ALL_DEAD: &str = "taffrail.*.dead.>";
/// Every exchange of a node with the managers.
pub const ALL_SYNCS: &str = "taffrail.*.node.*.sync";
/// Every agent's sign of life.
pub const ALL_HEARTBEATS: &str = "taffrail.*.agent.*.heartbeat";

/// Every agent's log lines.
pub const ALL_LOGS: &str = "taffrail.*.agent.*.log";

/// `taffrail.<tenant>.cmd.<type>.<id>.<command>`
pub fn command(tenant: &TenantId, kind: StreamType, id: Uuid, command: &str) -> String {
    format!("taffrail.{tenant}.cmd.{kind}.{id}.{}", token(command))
}

/// `taffrail.<tenant>.req.<type>.<id>.<command>`
pub fn request(tenant: &TenantId, kind: StreamType, id: Uuid, command: &str) -> String {
    format!("taffrail.{tenant}.req.{kind}.{id}.{}", token(command))
}

/// `taffrail.<tenant>.agent.<agent>.req.<type>.<id>.<command>`
pub fn agent_request(
    tenant: &TenantId,
    agent: AgentId,
    kind: StreamType,
    id: Uuid,
    command: &str,
) -> String {
    format!("taffrail.{tenant}.agent.{agent}.req.{kind}.{id}.{}", token(command))
}

/// `taffrail.<tenant>.cmd.batch.<id>.execute`
pub fn command_batch(tenant: &TenantId, id: Uuid) -> String {
    format!("taffrail.{tenant}.cmd.batch.{id}.execute")
}

/// `taffrail.<tenant>.req.batch.<id>.execute`
pub fn request_batch(tenant: &TenantId, id: Uuid) -> String {
    format!("taffrail.{tenant}.req.batch.{id}.execute")
}

/// `taffrail.<tenant>.req.queue.<queue>.claim`
pub fn claim(tenant: &TenantId, queue: &str) -> String {
    format!("taffrail.{tenant}.req.queue.{}.claim", token(queue))
}

/// `taffrail.<tenant>.agent.<agent>.req.queue.<queue>.claim`
pub fn agent_claim(tenant: &TenantId, agent: AgentId, queue: &str) -> String {
    format!("taffrail.{tenant}.agent.{agent}.req.queue.{}.claim", token(queue))
}

/// `taffrail.<tenant>.evt.<type>.<id>.<event>`
pub fn event(event: &Recorded) -> String {
    let Recorded { tenant, stream_type, stream_id, event_type, .. } = event;
    format!("taffrail.{tenant}.evt.{stream_type}.{stream_id}.{}", token(event_type))
}

/// `taffrail.<tenant>.replay.<name>.<type>.<id>.<event>`: an event published once more.
pub fn replay(event: &Recorded, name: &str) -> String {
    let Recorded { tenant, stream_type, stream_id, event_type, .. } = event;
    let (name, event_type) = (token(name), token(event_type));
    format!("taffrail.{tenant}.replay.{name}.{stream_type}.{stream_id}.{event_type}")
}

/// `taffrail.<tenant>.replay.<name>.end`: nothing more comes.
pub fn replay_end(tenant: &TenantId, name: &str) -> String {
    format!("taffrail.{tenant}.replay.{}.end", token(name))
}

/// `taffrail.<tenant>.replay.<name>.>`: all of a replay.
pub fn replay_all(tenant: &TenantId, name: &str) -> String {
    format!("taffrail.{tenant}.replay.{}.>", token(name))
}

/// `taffrail.<tenant>.agent.<id>.<heartbeat|tasks|control|log>`
pub fn agent(tenant: &TenantId, agent: AgentId, word: AgentWord) -> String {
    format!("taffrail.{tenant}.agent.{agent}.{}", word.as_str())
}

/// `taffrail.<tenant>.node.<id>.<sync|control>`
pub fn node(tenant: &TenantId, node: Uuid, word: NodeWord) -> String {
    format!("taffrail.{tenant}.node.{node}.{}", word.as_str())
}

/// `taffrail.<tenant>.dead.<consumer>`
pub fn dead(tenant: &TenantId, consumer: &str) -> String {
    format!("taffrail.{tenant}.dead.{}", token(consumer))
}

/// A word that is no token becomes `_`: such a subject reaches nobody, where a dot, a
/// wildcard or a blank in it could reach somebody else.
fn token(word: &str) -> &str {
    if is_token(word) { word } else { "_" }
}
