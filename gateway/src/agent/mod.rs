//! Agents over HTTP.

mod door;
mod heartbeat;
mod line;
mod logs;
mod routes;

pub use door::NatsAgents;
pub use heartbeat::{__path_beat, NatsHeartbeats, beat};
pub(crate) use heartbeat::{HeartbeatAnswer, HeartbeatBody, HeldTask};
pub(crate) use line::AgentLine;
pub use logs::{__path_follow_logs, NatsLogs, follow_logs};
pub use routes::{
    __path_command_agent, __path_get_agent, __path_list_agents, __path_register_agent,
    __path_update_agent, command_agent, get_agent, list_agents, register_agent, update_agent,
};
pub(crate) use routes::{LONG, NOT_HERE, OF_THE_SYSTEM};
