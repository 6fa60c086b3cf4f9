//! Targets that are a figure by themselves: what an operator may count on when sizing a
//! machine for agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most that a figure of a cell may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The cell's workload.
    pub workload: &'static str,
    /// A parameter that tells the cell from the others of its workload.
    pub param: (&'static str, &'static str),
    /// The figure, in words.
    pub what: &'static str,
    /// The figure's name among those of its workload alone.
    pub figure: &'static str,
    /// It holds up to here.
    pub at_most: f64,
}

const fn goal(
    workload: &'static str,
    param: (&'static str, &'static str),
    what: &'static str,
    figure: &'static str,
    at_most: f64,
) -> Goal {
    Goal { workload, param, what, figure, at_most }
}

const SPAWN: (&str, &str) = ("start", "sandboxed");
const ROW: (&str, &str) = ("deploys", "in a row");
const AT_ONCE: (&str, &str) = ("deploys", "at once");
const BEATS: (&str, &str) = ("of", "heartbeats");
const LOOK: (&str, &str) = ("of", "watchdog's look");

/// All of them.
pub const GOALS: [Goal; 10] = [
    goal("L1", SPAWN, "start in a sandbox, p50 over a bare one, ms", "p50_over_bare_ms", 20.0),
    goal("L1", SPAWN, "50 starts at once, by the ideal", "of_ideal", 2.0),
    goal("L1", SPAWN, "50 starts at once, failed", "failed", 0.0),
    goal("L2", ROW, "deploy to ready, p95, ms", "p95_ms", 300.0),
    goal("L2", AT_ONCE, "50 deploys at once, failed", "failed", 0.0),
    goal("L3", BEATS, "10,000 agents: product, % of a core", "cpu_percent", 15.0),
    goal("L3", BEATS, "10,000 agents: product's memory, MB", "resident_mb", 200.0),
    // The watchdog looks twice a second.
    goal("L3", BEATS, "silence seen after its threshold, max, ms", "detected_max_ms", 500.0),
    goal("L3", LOOK, "a look at 10,000 agents, p99, ms", "look_p99_ms", 50.0),
    goal("L3", LOOK, "a look that finds all silent, ms", "all_silent_ms", 50.0),
];

/// A goal beside what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The figure, in words.
    pub what: String,
    /// It may be so much.
    pub at_most: f64,
    /// It is.
    pub figure: f64,
    /// Whether that holds.
    pub holds: bool,
}

/// The goals of a cell beside its figures.
#[must_use]
pub fn judge(
    workload: &str,
    params: &Map<String, Value>,
    extra: &BTreeMap<String, f64>,
) -> Vec<Judged> {
    let of = |goal: &&Goal| {
        goal.workload == workload && params.get(goal.param.0).is_some_and(|v| v == goal.param.1)
    };
    let judged = |goal: &Goal| {
        let figure = *extra.get(goal.figure)?;
        let holds = figure <= goal.at_most;
        Some(Judged { what: goal.what.into(), at_most: goal.at_most, figure, holds })
    };
    GOALS.iter().filter(of).filter_map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_holds_up_to_its_bound_and_is_judged_in_its_own_cell_alone() {
        let params = |of: &str| Map::from_iter([("of".to_owned(), Value::from(of))]);
        let extra = |cpu: f64| BTreeMap::from([("cpu_percent".to_owned(), cpu)]);
        let holds = |cpu: f64| judge("L3", &params("heartbeats"), &extra(cpu))[0].holds;
        assert!(holds(15.0) && !holds(15.1));
        assert!(judge("L3", &params("watchdog's look"), &extra(1.0)).is_empty());
        assert!(judge("L2", &params("heartbeats"), &extra(1.0)).is_empty());
    }
}
