//! One line per cell: the median over its rounds, with the spread.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cell::Cell;
use crate::counters::Used;
use crate::goals::{self, Judged};
use crate::hw::Hw;
use crate::load::Samples;

/// The quantiles that plots are drawn through.
pub const QUANTILES: [f64; 12] =
    [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

/// The limit that a figure stands beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Its cell.
    pub cell: String,
    /// Its figure.
    pub ops_per_s: f64,
}

/// A cell's result, as it is printed and read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The verb: `append`, `http`, … or `limits`.
    pub bench: String,
    /// Taffrail's version.
    pub version: String,
    /// The commit that the program was built from; empty where none is known.
    pub git: String,
    /// When the sitting began, UTC.
    pub date: String,
    /// PostgreSQL's version.
    #[serde(default)]
    pub postgres: String,
    /// nats-server's version.
    #[serde(default)]
    pub nats: String,
    /// `W1a` … `W7`, or `limit`.
    pub workload: String,
    /// What tells it from its neighbours.
    pub params: Map<String, Value>,
    /// `closed` or `open`.
    pub mode: String,
    /// What is counted.
    pub unit: String,
    /// Median over the rounds.
    pub ops_per_s: f64,
    /// The slowest round.
    pub min: f64,
    /// The fastest round.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
    /// Seconds of one round's window.
    pub seconds: f64,
    /// Median latency; null where nothing of the kind was measured.
    pub p50_ms: Option<f64>,
    /// 90 % are faster.
    pub p90_ms: Option<f64>,
    /// 99 % are faster.
    pub p99_ms: Option<f64>,
    /// 99.9 % are faster.
    pub p999_ms: Option<f64>,
    /// The slowest of all.
    pub max_ms: Option<f64>,
    /// Pairs of quantile and milliseconds.
    pub percentiles: Vec<(f64, f64)>,
    /// Operations that failed or were not taken, over all rounds.
    pub errors: u64,
    /// Operations that lost a race, over all rounds.
    pub conflicts: u64,
    /// CPU seconds of the product per second of the window (W1a: with the load's own).
    pub cpu_s_server: f64,
    /// CPU seconds of PostgreSQL per second of the window.
    pub cpu_s_pg: f64,
    /// CPU seconds of nats-server per second of the window.
    pub cpu_s_nats: f64,
    /// Write-ahead log per event.
    pub wal_bytes_per_event: Option<f64>,
    /// Flushes of the write-ahead log.
    pub fsyncs_per_s: Option<f64>,
    /// Commands that were acknowledged, over all rounds; null where none was sent.
    pub acknowledged: Option<u64>,
    /// Results of such commands in the log.
    pub recorded: Option<u64>,
    /// Figures of this workload alone.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
    /// What its figures are to be, where that is a figure by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<Judged>,
    /// The limit cell measured beside it.
    pub limit: Option<Limit>,
    /// The machine.
    pub hw: Hw,
}

/// What one round of a cell came to.
#[derive(Debug, Clone)]
pub struct Round {
    /// What the load saw.
    pub samples: Samples,
    /// What was used.
    pub used: Used,
    /// Results in the log, where commands were sent.
    pub recorded: Option<u64>,
}

/// What all lines of a sitting share.
#[derive(Debug, Clone, Default)]
pub struct Sitting {
    /// When it began, UTC.
    pub date: String,
    /// PostgreSQL's version.
    pub postgres: String,
    /// nats-server's version.
    pub nats: String,
    /// The machine.
    pub hw: Hw,
}

impl Line {
    /// Joins a cell's rounds.
    #[must_use]
    pub fn of(cell: &Cell, rounds: &[Round], sitting: &Sitting) -> Self {
        let over =
            |figure: &dyn Fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(figure).collect() };
        let mid = |figure: &dyn Fn(&Round) -> f64| round(median(over(figure)));
        let maybe = |figure: &dyn Fn(&Round) -> Option<f64>| {
            let known: Vec<f64> = rounds.iter().filter_map(figure).collect();
            (!known.is_empty()).then(|| round(median(known)))
        };
        let rate = |r: &Round| r.samples.ops as f64 / r.samples.seconds.max(1e-9);
        let at = |quantile: f64| {
            maybe(&|r| {
                let histogram = &r.samples.histogram;
                (!histogram.is_empty()).then(|| value_at(histogram, quantile))
            })
        };
        let per_second = |r: &Round, cpu: f64| cpu / r.used.seconds.max(1e-9);
        let sum = |figure: &dyn Fn(&Round) -> u64| rounds.iter().map(figure).sum::<u64>();
        let rates = over(&rate);
        let names: std::collections::BTreeSet<&String> =
            rounds.iter().flat_map(|r| r.samples.extra.keys()).collect();
        let extra = names.into_iter().filter_map(|name| {
            Some((name.clone(), maybe(&|r| r.samples.extra.get(name).copied())?))
        });
        let (params, extra) = (cell.params.json(), extra.collect());
        Self {
            bench: cell.bench.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            git: env!("TAFFRAIL_COMMIT").into(),
            date: sitting.date.clone(),
            postgres: sitting.postgres.clone(),
            nats: sitting.nats.clone(),
            workload: cell.workload.into(),
            goals: goals::judge(cell.workload, &params, &extra),
            params,
            mode: cell.mode.as_str().into(),
            unit: cell.unit.into(),
            ops_per_s: mid(&rate),
            min: round(rates.iter().copied().fold(f64::INFINITY, f64::min)),
            max: round(rates.iter().copied().fold(0.0, f64::max)),
            rounds: rounds.len(),
            seconds: mid(&|r| r.samples.seconds),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
            percentiles: QUANTILES.iter().filter_map(|q| Some((*q, at(*q)?))).collect(),
            errors: sum(&|r| r.samples.errors),
            conflicts: sum(&|r| r.samples.conflicts),
            cpu_s_server: mid(&|r| per_second(r, r.used.server)),
            cpu_s_pg: mid(&|r| per_second(r, r.used.postgres)),
            cpu_s_nats: mid(&|r| per_second(r, r.used.nats)),
            wal_bytes_per_event: maybe(&|r| r.used.wal_bytes_per_event),
            fsyncs_per_s: maybe(&|r| r.used.fsyncs_per_s),
            acknowledged: (!cell.counted.is_empty()).then(|| sum(&|r| r.samples.acknowledged)),
            recorded: (!cell.counted.is_empty()).then(|| sum(&|r| r.recorded.unwrap_or_default())),
            extra,
            limit: None,
            hw: sitting.hw.clone(),
        }
    }

    /// What tells it from its neighbours, in words.
    #[must_use]
    pub fn label(&self) -> String {
        let word = |(name, value): (&String, &Value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        };
        self.params.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// A limit cell's name.
    #[must_use]
    pub fn limit_name(&self) -> Option<&str> {
        (self.workload == "limit").then(|| self.params.get("cell")?.as_str()).flatten()
    }

    /// The figure divided by its limit's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        (limit.ops_per_s > 0.0).then(|| self.ops_per_s / limit.ops_per_s)
    }
}

/// Puts each line beside its limit.
pub fn join_limits(lines: &mut [Line], cells: &[Cell]) {
    let limits: BTreeMap<String, f64> = lines
        .iter()
        .filter_map(|line| Some((line.limit_name()?.to_owned(), line.ops_per_s)))
        .collect();
    for (line, cell) in lines.iter_mut().zip(cells) {
        line.limit = cell
            .limit
            .and_then(|name| Some(Limit { cell: name.to_owned(), ops_per_s: *limits.get(name)? }));
    }
}

fn value_at(histogram: &hdrhistogram::Histogram<u64>, quantile: f64) -> f64 {
    let us = if quantile <= 0.0 { histogram.min() } else { histogram.value_at_quantile(quantile) };
    us as f64 / 1_000.0
}

/// The middle one; the mean of the two middle ones of an even number.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match (figures.len(), figures.get(middle)) {
        (0, _) | (_, None) => 0.0,
        (n, Some(upper)) if n % 2 == 1 => *upper,
        (_, Some(upper)) => (figures[middle - 1] + upper) / 2.0,
    }
}

/// Four significant digits: more would be noise, and lines are compared by eye.
#[must_use]
pub fn round(figure: f64) -> f64 {
    if figure == 0.0 || !figure.is_finite() {
        return figure;
    }
    let digits = 3 - figure.abs().log10().floor() as i32;
    if digits <= 0 {
        return figure.round();
    }
    let scale = 10f64.powi(digits);
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cell::Params;

    fn round_of(ops: u64, latencies_ms: &[u64]) -> Round {
        let mut samples =
            Samples { ops, seconds: 2.0, acknowledged: ops + 5, ..Samples::default() };
        for ms in latencies_ms {
            samples.record(Duration::from_millis(*ms));
        }
        let used = Used { seconds: 2.0, server: 1.0, postgres: 0.5, ..Used::default() };
        Round { samples: samples.with("batch", ops as f64), used, recorded: Some(ops + 5) }
    }

    #[test]
    fn rounds_are_joined_by_their_median_with_the_spread() {
        let cell = Cell::new("append", "W1a", Params::default().with("clients", 64), |_| async {
            Ok(Samples::default())
        })
        .counted(&["submit"]);
        let rounds =
            [round_of(200, &[1, 2, 3]), round_of(600, &[10, 20, 30]), round_of(400, &[4, 5, 6])];
        let line = Line::of(&cell, &rounds, &Sitting::default());
        assert_eq!((line.ops_per_s, line.min, line.max), (200.0, 100.0, 300.0));
        assert_eq!(line.p50_ms, Some(5.003), "the histogram's own precision");
        assert_eq!(line.max_ms, Some(6.003));
        assert_eq!(line.acknowledged, Some(1_215));
        assert_eq!(line.recorded, Some(1_215));
        assert_eq!((line.cpu_s_server, line.cpu_s_pg), (0.5, 0.25));
        assert_eq!(line.extra["batch"], 400.0);
        assert_eq!(line.percentiles.len(), QUANTILES.len());
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn an_even_number_of_rounds_has_a_middle_too() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(
            (round(123_456.7), round(1.234_56), round(0.001_234_56)),
            (123_457.0, 1.235, 0.001_235)
        );
    }

    #[test]
    fn a_line_stands_beside_the_limit_of_its_sitting() {
        let limit =
            Cell::new("limits", "limit", Params::default().with("cell", "fsync"), |_| async {
                Ok(Samples::default())
            });
        let cell =
            Cell::new("append", "W1a", Params::default(), |_| async { Ok(Samples::default()) })
                .limit("fsync");
        let cells = [limit, cell];
        let mut lines: Vec<Line> = cells
            .iter()
            .zip([4_000, 1_000])
            .map(|(cell, ops)| Line::of(cell, &[round_of(ops, &[])], &Sitting::default()))
            .collect();
        join_limits(&mut lines, &cells);
        assert_eq!(lines[1].ratio(), Some(0.25));
        assert_eq!(lines[0].limit, None);
    }
}
