//! One measurement: what is done, to what, and in which way.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::counters::Probe;
use crate::load::Samples;
use crate::product::{Product, Tuning};
use crate::target::Target;

/// What a cell is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The product as a process of its own, on fresh servers.
    Outside,
    /// The product inside this process, on fresh servers: for calls of the library.
    Inside(Tuning),
    /// PostgreSQL and NATS without the product; the whole sitting shares one pair.
    Bare,
}

/// How load is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// N clients, each asks again when it was answered: capacity.
    Closed,
    /// A fixed schedule that waits for nobody: latency, from the intended start.
    Open,
}

impl Mode {
    /// As the JSON line has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// What tells a cell from the others of its workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, Value)>);

impl Params {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            match value {
                Value::String(text) => write!(f, "{gap}{name}={text}")?,
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => write!(f, "{gap}{name}={value}")?,
            }
        }
        Ok(())
    }
}

/// How long a cell warms up and is measured, and where the window's edges are told.
#[derive(Clone)]
pub struct Budget {
    /// Not counted.
    pub warm: Duration,
    /// Counted.
    pub measure: Duration,
    /// Reads CPU time and the database's counters at the window's edges.
    pub probe: Arc<Probe>,
    /// Seed of whatever is drawn: the same in every round.
    pub seed: u64,
}

/// What a cell works with.
#[derive(Clone)]
pub struct Context {
    /// The server under test.
    pub target: Arc<Target>,
    /// For how long.
    pub budget: Budget,
    /// The product, for cells that start servers themselves.
    pub product: Arc<dyn Product>,
    /// A folder of this cell's own, gone after it.
    pub folder: PathBuf,
    /// Smaller fillings: a quick look instead of a measurement.
    pub quick: bool,
}

type Run = Arc<dyn Fn(Context) -> BoxFuture<'static, anyhow::Result<Samples>> + Send + Sync>;

/// One measurement.
#[derive(Clone)]
pub struct Cell {
    /// The verb it belongs to: `append`, `http`, `nats`, `tasks`, `latency`, `rebuild`,
    /// `fanout`, `query`, `restart`, `spawn`, `deploy`, `fleet`, `time` or `limits`.
    pub bench: &'static str,
    /// `W1a` … `W7`, `S1`, `L1` … `L3`, `T1`, or `limit`.
    pub workload: &'static str,
    /// What tells it from its neighbours.
    pub params: Params,
    /// How load is made.
    pub mode: Mode,
    /// Against what.
    pub host: Host,
    /// What is counted per second: `commands`, `tasks`, `events`, …
    pub unit: &'static str,
    /// The names of the commands whose results are counted in the log afterwards; empty for
    /// a cell that writes nothing through commands.
    pub counted: &'static [&'static str],
    /// The limit cell that it stands beside.
    pub limit: Option<&'static str>,
    /// Among those of a short look.
    pub main: bool,
    run: Run,
}

impl Cell {
    /// A closed-loop cell against a product of its own, until told otherwise.
    pub fn new<F, Fut>(bench: &'static str, workload: &'static str, params: Params, run: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Samples>> + Send + 'static,
    {
        Self {
            bench,
            workload,
            params,
            mode: Mode::Closed,
            host: Host::Outside,
            unit: "commands",
            counted: &[],
            limit: None,
            main: false,
            run: Arc::new(move |context| Box::pin(run(context))),
        }
    }

    /// Another way to make load.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Another server under test.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// What is counted per second.
    #[must_use]
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// The commands whose results are counted in the log.
    #[must_use]
    pub fn counted(mut self, commands: &'static [&'static str]) -> Self {
        self.counted = commands;
        self
    }

    /// The limit cell that it stands beside.
    #[must_use]
    pub fn limit(mut self, cell: &'static str) -> Self {
        self.limit = Some(cell);
        self
    }

    /// One of a short look.
    #[must_use]
    pub fn main(mut self) -> Self {
        self.main = true;
        self
    }

    /// Measures once.
    ///
    /// # Errors
    /// Whatever keeps it from being measured.
    pub async fn run(&self, context: Context) -> anyhow::Result<Samples> {
        (self.run)(context).await
    }

    /// A limit cell's name.
    #[must_use]
    pub fn limit_name(&self) -> Option<&str> {
        self.params.get("cell").and_then(Value::as_str).filter(|_| self.workload == "limit")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.workload, self.params)
    }
}
