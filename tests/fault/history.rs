//! What the clients saw, on one monotonic clock.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

/// Microseconds since the run began.
pub type Micros = u64;

/// What became of a command, as its sender was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It happened.
    Accepted(Done),
    /// The rules said no; the code of the stored problem.
    Refused(String),
    /// Nothing is known: no answer, a broken connection, a system that was busy.
    Unknown(String),
}

/// Where an accepted command came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub stream_id: Uuid,
    pub version: u64,
    pub position: u64,
}

/// One sending of a command; repeats share its id.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub client: usize,
    pub command_id: Uuid,
    /// The door and the command, for people.
    pub what: String,
    pub invoked: Micros,
    pub completed: Micros,
    pub answer: Answer,
}

/// A task that was handed to an agent.
#[derive(Debug, Clone)]
pub struct Leased {
    pub task: Uuid,
    pub agent: Uuid,
    pub token: u64,
}

/// A look at a task that demanded a position.
#[derive(Debug, Clone)]
pub struct Read {
    pub client: usize,
    pub task: Uuid,
    /// The newest position that this session had seen.
    pub demanded: u64,
    /// What the answer said it reflects.
    pub position: u64,
    pub found: bool,
}

/// An event as a subscriber got it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub position: u64,
    pub hash: String,
}

/// An entry of the history.
#[derive(Debug, Clone)]
pub enum Entry {
    Asked(Attempt),
    Leased(Leased),
    Read(Read),
    Heard(Heard),
}

/// Collects the entries of all clients.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl History {
    /// An empty one, whose clock starts now.
    pub fn begin() -> Self {
        Self(Arc::new(Inner { began: Instant::now(), entries: Mutex::default() }))
    }

    /// The clock.
    pub fn now(&self) -> Micros {
        self.0.began.elapsed().as_micros() as Micros
    }

    pub fn note(&self, entry: Entry) {
        self.0.entries.lock().push(entry);
    }

    /// How much so far.
    pub fn len(&self) -> usize {
        self.0.entries.lock().len()
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.entries.lock().clone()
    }
}
