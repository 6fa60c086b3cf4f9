//! Tasks.

use std::fmt::Display;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::http::idempotency_key;
use crate::{Client, Error, Query};

/// Between two looks at a task that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether a task in this state has come to an end.
pub fn is_final_task(state: &str) -> bool {
    matches!(state, "done" | "failed" | "dead" | "cancelled")
}

/// Whether it came to a good end.
pub fn is_success_task(state: &str) -> bool {
    state == "done"
}

impl Client {
    /// Submits a task: `body` has the fields of `POST /v1/tasks`.
    ///
    /// With a key a repeat is the same task, for ever.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn submit_task(&self, body: &Value, key: Option<&str>) -> Result<Value, Error> {
        let headers = key.map(idempotency_key);
        self.call(Method::POST, "v1/tasks", &[], Some(body), headers.as_slice()).await
    }

    /// Submits up to 1,000 tasks in one request; the answer has one outcome per item.
    ///
    /// # Errors
    /// When the request as a whole is refused or no answer comes.
    pub async fn submit_tasks(&self, tasks: &[Value]) -> Result<Value, Error> {
        self.post("v1/tasks/batch", &serde_json::json!({ "items": tasks })).await
    }

    /// One task, by its id or its number (`TASK-7`).
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn task(&self, id: impl Display) -> Result<Value, Error> {
        self.get(&format!("v1/tasks/{id}"), &[]).await
    }

    /// A page of tasks; the filters are the contract's.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn tasks(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/tasks", query).await
    }

    /// A page of the parts of a task.
    ///
    /// # Errors
    /// When there is no such task or no answer comes.
    pub async fn task_children(&self, id: impl Display, query: Query<'_>) -> Result<Value, Error> {
        self.get(&format!("v1/tasks/{id}/children"), query).await
    }

    /// The agents that could have a task, the best first.
    ///
    /// # Errors
    /// When there is no such task, it has ended, or no answer comes.
    pub async fn candidates(&self, id: impl Display) -> Result<Value, Error> {
        self.get(&format!("v1/tasks/{id}/candidates"), &[]).await
    }

    /// What a task waits for, and why.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn why(&self, id: impl Display) -> Result<Value, Error> {
        self.get(&format!("v1/tasks/{id}/why"), &[]).await
    }

    /// Any other command of a task, such as `cancel` or `requeue`.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn command_task(
        &self,
        id: impl Display,
        name: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        self.post(&format!("v1/tasks/{id}/{name}"), body).await
    }

    /// Waits until a task has come to an end; `seen` is told of every state on the way.
    ///
    /// # Errors
    /// When there is none, no answer comes or the time is up.
    pub async fn wait_task(
        &self,
        id: impl Display,
        within: Option<Duration>,
        mut seen: impl FnMut(&Value),
    ) -> Result<Value, Error> {
        let begin = Instant::now();
        let mut last = (String::new(), Value::Null, Value::Null);
        loop {
            match self.task(&id).await {
                Ok(task) => {
                    let state = task["state"].as_str().unwrap_or_default().to_owned();
                    let now = (state, task["progress"].clone(), task["attempt"].clone());
                    if now != last {
                        seen(&task);
                        last = now;
                    }
                    if is_final_task(&last.0) {
                        return Ok(task);
                    }
                }
                // A server that restarts is waited for as long as the task is.
                Err(error) if error.retryable() && !last.0.is_empty() => {}
                Err(error) => return Err(error),
            }
            if let Some(after) = within.filter(|within| begin.elapsed() >= *within) {
                return Err(Error::TimedOut { what: format!("task {id}"), after });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
