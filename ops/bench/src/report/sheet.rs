//! The figures that a report is made of.

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::line::{Limit, Line};

/// Cells of a sitting, and limits to hold them against.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    /// Limit cells of our own.
    pub limits: Vec<Line>,
    /// Workload cells.
    pub cells: Vec<Line>,
    /// Limit cells of the reference program, by the same names.
    pub reference: Vec<Reference>,
}

/// A cell as the reference program prints it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Reference {
    /// Its name.
    pub cell: String,
    /// Its median.
    pub ops_per_s: f64,
    /// Its median latency.
    #[serde(default)]
    pub p50_ms: Option<f64>,
    /// 99 % are faster.
    #[serde(default)]
    pub p99_ms: Option<f64>,
}

/// Reads lines of JSON; others, such as a blank one, are passed over.
///
/// # Errors
/// When a line that begins as an object is none that can be read.
pub fn read_lines<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let lines = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with('{'));
    let parse = |(n, line)| serde_json::from_str(line).with_context(|| format!("line {}", n + 1));
    lines.map(parse).collect()
}

impl Sheet {
    /// Takes lines over: limits to the limits, others to the cells; a cell that comes again
    /// replaces the one before.
    pub fn take(&mut self, lines: Vec<Line>) {
        for line in lines {
            let all = if line.workload == "limit" { &mut self.limits } else { &mut self.cells };
            all.retain(|old| {
                (&old.workload, &old.params, &old.mode)
                    != (&line.workload, &line.params, &line.mode)
            });
            all.push(line);
        }
    }

    /// Puts cells that were measured alone beside the limits that were measured for them.
    pub fn join(&mut self) {
        let known = crate::workloads::all();
        let limit = |line: &Line| {
            let cell = known
                .iter()
                .find(|cell| cell.workload == line.workload && cell.params.json() == line.params)?;
            let found = self.limit(cell.limit?)?;
            Some(Limit { cell: cell.limit?.to_owned(), ops_per_s: found.ops_per_s })
        };
        let limits: Vec<Option<Limit>> = self.cells.iter().map(limit).collect();
        for (line, limit) in self.cells.iter_mut().zip(limits) {
            line.limit = limit.or(line.limit.take());
        }
    }

    /// The cell of a workload with these parameters, written as in its label.
    #[must_use]
    pub fn cell(&self, workload: &str, wanted: &[(&str, &str)]) -> Option<&Line> {
        self.cells.iter().find(|line| {
            line.workload == workload
                && wanted.iter().all(|(name, value)| {
                    let text = line.params.get(*name).map(|found| match found.as_str() {
                        Some(text) => text.to_owned(),
                        None => found.to_string(),
                    });
                    text.as_deref() == Some(*value)
                })
        })
    }

    /// A limit of this sitting.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<&Line> {
        self.limits.iter().find(|line| line.limit_name() == Some(name))
    }

    /// A limit of the reference program.
    #[must_use]
    pub fn reference(&self, name: &str) -> Option<&Reference> {
        self.reference.iter().find(|cell| cell.cell == name)
    }
}
