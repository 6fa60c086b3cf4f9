//! Schedules.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::http::idempotency_key;
use crate::{Client, Error, Query};

impl Client {
    /// Makes a schedule; the same key again is the same schedule.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn create_schedule(&self, body: &Value, key: Option<&str>) -> Result<Value, Error> {
        let headers = key.map(idempotency_key);
        self.call(Method::POST, "v1/schedules", &[], Some(body), headers.as_slice()).await
    }

    /// One schedule.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn schedule(&self, id: Uuid) -> Result<Value, Error> {
        self.get(&format!("v1/schedules/{id}"), &[]).await
    }

    /// A page of schedules.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn schedules(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/schedules", query).await
    }

    /// A schedule's next slots.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn next_runs(&self, id: Uuid, query: Query<'_>) -> Result<Value, Error> {
        self.get(&format!("v1/schedules/{id}/next"), query).await
    }

    /// Gives a schedule a command.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn command_schedule(
        &self,
        id: Uuid,
        name: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        self.post(&format!("v1/schedules/{id}/{name}"), body).await
    }
}
