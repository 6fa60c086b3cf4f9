//! Nodes and profiles.

use reqwest::Method;
use serde_json::Value;

use crate::{Client, Error, Query};

impl Client {
    /// A page of nodes; the filters are the contract's.
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn nodes(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/nodes", query).await
    }

    /// One node by id.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn node(&self, id: &str) -> Result<Value, Error> {
        self.get(&format!("v1/nodes/{id}"), &[]).await
    }

    /// drain (answers with an operation), resume, retire.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn command_node(&self, id: &str, name: &str, body: &Value) -> Result<Value, Error> {
        self.post(&format!("v1/nodes/{id}/{name}"), body).await
    }

    /// A page of profiles.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn profiles(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/profiles", query).await
    }

    /// One profile, put together with those that it extends where asked.
    ///
    /// # Errors
    /// When there is none or no answer comes.
    pub async fn profile(&self, name: &str, resolved: bool) -> Result<Value, Error> {
        let query = [("resolved", resolved.to_string())];
        self.get(&format!("v1/profiles/{name}"), &query).await
    }

    /// Sets a profile.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn put_profile(&self, name: &str, body: &Value) -> Result<Value, Error> {
        self.call(Method::PUT, &format!("v1/profiles/{name}"), &[], Some(body), &[]).await
    }

    /// Deletes a profile.
    ///
    /// # Errors
    /// When it is refused or no answer comes.
    pub async fn delete_profile(&self, name: &str) -> Result<Value, Error> {
        self.delete(&format!("v1/profiles/{name}"), &[]).await
    }
}
