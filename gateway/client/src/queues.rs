//! Queues and dead letters.

use std::fmt::Display;

use reqwest::Method;
use serde_json::Value;

use crate::{Client, Error, Query};

impl Client {
    /// All queues with their depths.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn queues(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/queues", query).await
    }

    /// One queue.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn queue(&self, name: &str) -> Result<Value, Error> {
        self.get(&format!("v1/queues/{name}"), &[]).await
    }

    /// Sets a queue's policy.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn configure_queue(&self, name: &str, policy: &Value) -> Result<Value, Error> {
        self.call(Method::PUT, &format!("v1/queues/{name}"), &[], Some(policy), &[]).await
    }

    /// Has a queue paused, resumed, drained or purged.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn change_queue(
        &self,
        name: &str,
        command: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        self.post(&format!("v1/queues/{name}/{command}"), body).await
    }

    /// How many tasks a purge would cancel.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn preview_purge(&self, name: &str) -> Result<Value, Error> {
        let path = format!("v1/queues/{name}/purge");
        let query = [("dry_run", "true".to_owned())];
        self.call(Method::POST, &path, &query, Some(&serde_json::json!({})), &[]).await
    }

    /// A page of the tasks that failed or whose attempts are used up.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn dead_letters(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/dead-letters", query).await
    }

    /// What `action` (`requeue` or `discard`) would do to the dead letters that the filter
    /// in `body` takes.
    ///
    /// # Errors
    /// When the filter is malformed or no answer comes.
    pub async fn preview_dead(&self, action: &str, body: &Value) -> Result<Value, Error> {
        self.post(&format!("v1/dead-letters/{action}"), body).await
    }

    /// Does it to all of them, as an operation.
    ///
    /// # Errors
    /// When the filter is malformed or no answer comes.
    pub async fn all_dead(&self, action: &str, body: &Value) -> Result<Value, Error> {
        let path = format!("v1/dead-letters/{action}");
        let query = [("dry_run", "false".to_owned())];
        self.call(Method::POST, &path, &query, Some(body), &[]).await
    }

    /// Gives a dead task another life.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn requeue_dead(&self, id: impl Display, body: &Value) -> Result<Value, Error> {
        self.post(&format!("v1/dead-letters/{id}/requeue"), body).await
    }
}
