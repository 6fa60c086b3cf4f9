//! Holds what the clients saw against what the database and the stream have.
//!
//! A pure function: it can be shown bad histories, and `tests` shows it one per rule.

mod commands;
mod log;
mod mirror;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use domain::Recorded;
use uuid::Uuid;

use crate::history::Entry;

/// What was left when the clients had ended.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Generation of the store.
    pub epoch: u64,
    /// The last position that is looked at; the log may have grown since.
    pub head: u64,
    /// The log up to the head.
    pub events: Vec<Arc<Recorded>>,
    /// What became of every command.
    pub results: Vec<ResultRow>,
    /// The stream of events up to the head.
    pub mirror: Vec<Mirrored>,
    /// The read models beside a fresh replay.
    pub models: Vec<Model>,
    /// Who held which role, in the order of looking.
    pub tokens: Vec<RoleToken>,
    /// Whether a subscriber listened to the whole run.
    pub subscribed: bool,
}

/// A row of `command_results`.
#[derive(Debug, Clone)]
pub struct ResultRow {
    pub command_id: Uuid,
    pub stream_id: Uuid,
    pub version: u64,
    pub position: u64,
    pub events: Vec<String>,
    /// The code of the refusal.
    pub refused: Option<String>,
}

/// A message of the stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    pub sequence: u64,
    pub position: u64,
    pub epoch: u64,
    pub subject: String,
    pub event_id: String,
    pub hash: String,
    pub payload: Vec<u8>,
}

/// A read model, compared.
#[derive(Debug, Clone)]
pub struct Model {
    pub name: String,
    /// How far it was.
    pub position: u64,
    /// The rows that are not what the log says, in words.
    pub differing: Vec<String>,
}

/// A role's lease, seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleToken {
    pub role: String,
    pub token: i64,
    pub holder: String,
}

/// The promises that are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// It is all there within the time allowed.
    Liveness,
    /// What was acknowledged is in the log.
    Lost,
    /// The stored outcome is the one that was told.
    Outcome,
    /// A command has its events once, and none that are not its own.
    Effects,
    /// A refused command has no event.
    Refusals,
    /// The same id always gets the same answer.
    Answers,
    /// Positions run from 1 without a hole.
    Positions,
    /// Versions run from 1 in every stream.
    Versions,
    /// Every event has the hash of its content.
    Hashes,
    /// What was acknowledged before another began stands before it.
    Order,
    /// The stream of events is the log.
    Mirror,
    /// Read models are what a replay makes.
    Models,
    /// A session never sees an older position, and finds what it wrote.
    Sessions,
    /// A subscriber gets every event once, in order.
    Subscribers,
    /// A lease's token grows with every holder.
    Leases,
}

/// A broken promise with the least that shows it.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub witness: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.witness)
    }
}

/// Collects violations.
#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, rule: Rule, witness: String) {
        self.0.push(Violation { rule, witness });
    }
}

/// Every broken promise.
pub fn check(history: &[Entry], world: &World) -> Vec<Violation> {
    let mut found = Found::default();
    log::check(world, &mut found);
    commands::check(history, world, &mut found);
    sessions::check(history, world, &mut found);
    mirror::check(world, &mut found);
    found.0
}

/// The first few of each rule, for a failing test.
pub fn told(violations: &[Violation]) -> String {
    let mut by_rule: BTreeMap<Rule, Vec<&Violation>> = BTreeMap::new();
    for violation in violations {
        by_rule.entry(violation.rule).or_default().push(violation);
    }
    let mut text = String::new();
    for (rule, violations) in by_rule {
        text.push_str(&format!("{rule:?}: {} times\n", violations.len()));
        for violation in violations.iter().take(3) {
            text.push_str(&format!("  {}\n", violation.witness));
        }
    }
    text
}
