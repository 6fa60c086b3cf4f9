//! Agents.

use serde_json::Value;
use uuid::Uuid;

use crate::{Client, Error, Query};

impl Client {
    /// One agent.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn agent(&self, id: Uuid) -> Result<Value, Error> {
        self.get(&format!("v1/agents/{id}"), &[]).await
    }

    /// A page of agents; the filters are the contract's.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn agents(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/agents", query).await
    }

    /// The kept log lines of an agent, at most the last `tail` of them.
    ///
    /// # Errors
    /// When there is no such agent or no answer comes.
    pub async fn agent_logs(&self, id: Uuid, query: Query<'_>) -> Result<Value, Error> {
        self.get(&format!("v1/agents/{id}/logs"), query).await
    }

    /// A command of an agent; the long ones answer with an operation.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn command_agent(&self, id: Uuid, name: &str, body: &Value) -> Result<Value, Error> {
        self.post(&format!("v1/agents/{id}/{name}"), body).await
    }

    /// Registers an agent.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn register_agent(&self, body: &Value) -> Result<Value, Error> {
        self.post("v1/agents", body).await
    }

    /// Restarts many agents, a few at a time; answers with an operation.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn restart_fleet(&self, body: &Value) -> Result<Value, Error> {
        self.post("v1/fleet/restart", body).await
    }

    /// The health of the fleet.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn fleet(&self) -> Result<Value, Error> {
        self.get("v1/fleet", &[]).await
    }
}
