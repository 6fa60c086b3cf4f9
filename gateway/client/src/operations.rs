//! Operations: long-running work and its end.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{Client, Error, Query};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whether an operation in this state has come to an end.
pub fn is_final_operation(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled")
}

impl Client {
    /// One operation.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn operation(&self, id: Uuid) -> Result<Value, Error> {
        self.get(&format!("v1/operations/{id}"), &[]).await
    }

    /// A page of operations.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn operations(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/operations", query).await
    }

    /// Asks an operation to stop.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn cancel_operation(&self, id: Uuid, body: &Value) -> Result<Value, Error> {
        self.post(&format!("v1/operations/{id}/cancel"), body).await
    }

    /// Waits until an operation has come to an end; `seen` is told what it is at.
    ///
    /// # Errors
    /// When there is none, no answer comes or the time is up.
    pub async fn wait_operation(
        &self,
        id: Uuid,
        within: Option<Duration>,
        mut seen: impl FnMut(&Value),
    ) -> Result<Value, Error> {
        let begin = Instant::now();
        let mut answered = false;
        loop {
            match self.operation(id).await {
                Ok(operation) => {
                    answered = true;
                    seen(&operation);
                    if is_final_operation(operation["state"].as_str().unwrap_or_default()) {
                        return Ok(operation);
                    }
                }
                Err(error) if answered && error.retryable() => {}
                Err(error) => return Err(error),
            }
            if let Some(after) = within.filter(|within| begin.elapsed() >= *within) {
                return Err(Error::TimedOut { what: format!("operation {id}"), after });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Builds a read model anew; the answer is the operation that does it.
    ///
    /// # Errors
    /// When there is no such model or no answer comes.
    pub async fn rebuild(&self, model: &str, dry_run: bool) -> Result<Value, Error> {
        let body = serde_json::json!({ "dry_run": dry_run });
        self.post(&format!("v1/projections/{model}/rebuild"), &body).await
    }

    /// Puts the version of a read model that was read before in place again; the answer is
    /// the operation that does it.
    ///
    /// # Errors
    /// When there is no such model or no answer comes.
    pub async fn roll_back(&self, model: &str) -> Result<Value, Error> {
        self.post(&format!("v1/projections/{model}/rollback"), &serde_json::json!({})).await
    }

    /// Frees the space of the version of a read model that was read before; the answer is the
    /// operation that does it.
    ///
    /// # Errors
    /// When there is no such model or no answer comes.
    pub async fn forget_previous(&self, model: &str) -> Result<Value, Error> {
        self.delete(&format!("v1/projections/{model}/previous"), &[]).await
    }

    /// How each read model stands.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn models(&self) -> Result<Value, Error> {
        self.get("v1/projections", &[]).await
    }

    /// Publishes past events once more; the answer is the operation that does it.
    ///
    /// # Errors
    /// When the body is refused or no answer comes.
    pub async fn replay(&self, body: &Value) -> Result<Value, Error> {
        self.post("v1/replay", body).await
    }

    /// Makes every decision of the scheduler once more; the answer is the operation that
    /// does it.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn verify_decisions(&self) -> Result<Value, Error> {
        self.post("v1/replay/verify-decisions", &serde_json::json!({})).await
    }

    /// Asks what would have happened; the answer is the operation that tells.
    ///
    /// # Errors
    /// When the question is refused or no answer comes.
    pub async fn fork(&self, asked: &Value) -> Result<Value, Error> {
        self.post("v1/time/fork", asked).await
    }
}
