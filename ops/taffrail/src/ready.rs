//! The lines that tell, one by one, what is ready.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Prints readiness as text or as JSON lines.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    json: bool,
}

impl Ready {
    /// Text for people, or a JSON object per line.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    fn line(self, text: &str, object: &Value) {
        let mut out = std::io::stdout().lock();
        // Whoever does not read the lines does not stop the system.
        let _ = if self.json { writeln!(out, "{object}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
    }

    /// PostgreSQL takes queries. The address holds the owner's password, so only programs
    /// that ask for JSON get it.
    pub fn postgres(self, url: &str) {
        if self.json {
            self.line("", &json!({ "ready": "postgres", "url": url }));
        }
    }

    /// NATS takes connections.
    pub fn nats(self, url: &str, token: Option<&str>) {
        let object = match token {
            Some(token) => json!({ "ready": "nats", "url": url, "token": token }),
            None => json!({ "ready": "nats", "url": url }),
        };
        self.line(&format!("NATS    {url}"), &object);
    }

    /// The gateway answers.
    pub fn http(self, url: &str) {
        self.line(
            &format!("HTTP    {url}   (API page: {url}/docs)"),
            &json!({ "ready": "http", "url": url }),
        );
    }

    /// The data folder.
    pub fn data(self, path: &Path) {
        let path = path.display().to_string();
        self.line(&format!("Data    {path}"), &json!({ "ready": "data", "path": path }));
    }

    /// The node has its folder, and what the last daemon left running.
    pub fn node(self, id: uuid::Uuid, level: &str, agents: usize) {
        self.line(
            &format!("Node    {id}   (isolation: {level}; agents from before: {agents})"),
            &json!({ "ready": "node", "id": id, "level": level, "agents": agents }),
        );
    }

    /// The first admin token.
    pub fn token(self, token: &str) {
        self.line(&format!("Token   {token}"), &json!({ "ready": "token", "token": token }));
    }

    /// Everything is ready.
    pub fn all(self, took: Duration) {
        let ms = took.as_millis() as u64;
        self.line(
            &format!("Ready in {ms} ms. Ctrl-C stops everything."),
            &json!({ "ready": "all", "ms": ms }),
        );
    }
}
