//! Pages of events and of the audit.

use serde_json::Value;

use crate::{Client, Error, Query};

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only behind this position.
    pub after: Option<u64>,
    /// A CloudEvents type, or its short form such as `task.submitted`.
    pub kind: Option<String>,
    /// The stream's id.
    pub stream: Option<String>,
    /// Who asked for it.
    pub actor: Option<String>,
    /// What they belong to.
    pub correlation: Option<String>,
}

impl EventFilter {
    /// As query parameters.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let texts = [
            ("type", &self.kind),
            ("stream", &self.stream),
            ("actor", &self.actor),
            ("correlation", &self.correlation),
        ];
        let after = self.after.map(|after| ("after", after.to_string()));
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        after.into_iter().chain(texts).collect()
    }
}

impl Client {
    /// A page of events in the order of the log.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn events(&self, filter: &EventFilter, limit: u32) -> Result<Value, Error> {
        let mut query = filter.query();
        query.push(("limit", limit.to_string()));
        self.get("v1/events", &query).await
    }

    /// Because of what something happened, and what came of it.
    ///
    /// # Errors
    /// When there is no such thing or no answer comes.
    pub async fn causes(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/time/why", query).await
    }

    /// A page of the audit: events and refusals, with who and why.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn audit(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/audit", query).await
    }
}
