//! `docs/performance.md`: the figures of a sitting beside their limits.
//!
//! Everything in it is made from lines of JSON and can be made again, but for what people
//! wrote about the misses: that stands in a file of its own, which is taken in as it is.

mod sheet;
mod svg;
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

pub use sheet::{Reference, Sheet, read_lines};
pub use targets::{Row, rows};

use crate::line::Line;
use crate::table::thousands;

/// Curves in one plot; more could not be told apart.
const MOST_CURVES: usize = 8;

/// Writes the report and, in the folder of its name, the plots.
///
/// # Errors
/// When there is nothing to report, or a file cannot be written.
pub fn write(sheet: &Sheet, out: &Path) -> anyhow::Result<()> {
    if sheet.cells.is_empty() && sheet.limits.is_empty() {
        bail!("there is no line to report; name files with --cells and --limits");
    }
    let folder = out.with_extension("");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let notes = std::fs::read_to_string(folder.join("notes.md")).ok();
    let place = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (name, plot) in plots(sheet) {
        let path = folder.join(name);
        std::fs::write(&path, plot).with_context(|| path.display().to_string())?;
    }
    std::fs::write(out, text(sheet, &place, notes.as_deref()))
        .with_context(|| out.display().to_string())
}

/// The plots by file name.
#[must_use]
pub fn plots(sheet: &Sheet) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    for (mode, file, title) in [
        ("closed", "latency-closed.svg", "Latency while at capacity (closed loop)"),
        (
            "open",
            "latency-open.svg",
            "Latency at a fixed rate (open loop, from the intended start)",
        ),
    ] {
        let lines: Vec<&Line> = sheet
            .cells
            .iter()
            .filter(|line| line.mode == mode && line.p50_ms.is_some())
            .filter(|line| {
                !["overload", "slow", "W7", "L2", "L3", "T1"].contains(&line.workload.as_str())
            })
            .take(MOST_CURVES)
            .collect();
        if !lines.is_empty() {
            plots.push((file, svg::latency(title, &lines)));
        }
    }
    let limited: Vec<&Line> = sheet.cells.iter().filter(|line| line.limit.is_some()).collect();
    if !limited.is_empty() {
        plots.push(("throughput.svg", svg::throughput("Throughput beside its limit", &limited)));
    }
    plots
}

/// The report's text; `place` is the folder of the plots, relative to it.
#[must_use]
pub fn text(sheet: &Sheet, place: &str, notes: Option<&str>) -> String {
    let mut text = String::from(
        "# Performance\n\n\
         Made by `taffrail bench report` from the lines of one sitting; `taffrail bench` shows \
         the same for another machine. What a figure means and why these cells: [operations.md]\
         (operations.md#sizing-a-machine).\n\n",
    );
    text.push_str(&machine(sheet));
    text.push_str("## Targets\n\n");
    text.push_str(
        "A target is a ratio to a limit cell: what the same machine does in the same sitting \
         without the product. *Ratio* is to the limit cell on the product's own servers, \
         *reference* to the cell of the same name of the reference limits program (PostgreSQL \
         with 1 GB of shared buffers); where both are there, the reference decides.\n\n",
    );
    text.push_str("| workload | target | limit | ours | ratio | reference | |\n");
    text.push_str("|---|---|--:|--:|--:|--:|---|\n");
    for Row { what, goal, limit, ours, ratio, reference, met } in rows(sheet) {
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let _ = writeln!(
            text,
            "| {what} | {goal} | {limit} | {ours} | {ratio} | {reference} | {verdict} |"
        );
    }
    if let Some(notes) = notes {
        let _ = write!(text, "\n{}\n", notes.trim());
    }
    for (file, _) in plots(sheet) {
        let _ = write!(text, "\n![{}]({place}/{file})\n", file.trim_end_matches(".svg"));
    }
    if !sheet.limits.is_empty() {
        text.push_str("\n## Limit cells\n\n");
        text.push_str("| cell | median /s | min | max | p50 ms | p99 ms |\n");
        text.push_str("|---|--:|--:|--:|--:|--:|\n");
        for line in &sheet.limits {
            let name = line.limit_name().unwrap_or_default();
            let _ = writeln!(text, "| {name} | {} |", figures(line));
        }
    }
    if !sheet.cells.is_empty() {
        text.push_str("\n## Workload cells\n\n");
        text.push_str(
            "Rates are per second of the named unit; CPU is seconds of processor time per second \
             of the product (W1a: with the load's own), PostgreSQL and nats-server; percentiles \
             of a *closed* cell are those at capacity. Each cell that writes was counted \
             afterwards: every acknowledged command is in the log.\n\n",
        );
        text.push_str(
            "| workload | cell | mode | unit | median /s | min | max | p50 ms | p99 ms | \
             p99.9 ms | CPU | errors | conflicts | WAL/event | more |\n",
        );
        text.push_str("|---|---|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|---|\n");
        for line in &sheet.cells {
            let more: Vec<String> = line
                .extra
                .iter()
                .map(|(name, value)| format!("{name} {}", thousands(*value)))
                .collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.2} + {:.2} + {:.2} | {} | {} | {} | {} |",
                line.workload,
                line.label(),
                line.mode,
                line.unit,
                figures(line),
                maybe(line.p999_ms),
                line.cpu_s_server,
                line.cpu_s_pg,
                line.cpu_s_nats,
                line.errors,
                line.conflicts,
                line.wal_bytes_per_event.map_or_else(String::new, thousands),
                more.join(", "),
            );
        }
    }
    text
}

/// Median, spread, p50 and p99 as cells of a table.
fn figures(line: &Line) -> String {
    format!(
        "{} | {} | {} | {} | {}",
        thousands(line.ops_per_s),
        thousands(line.min),
        thousands(line.max),
        maybe(line.p50_ms),
        maybe(line.p99_ms)
    )
}

fn maybe(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure}"))
}

fn machine(sheet: &Sheet) -> String {
    let lines = || sheet.cells.iter().chain(&sheet.limits);
    let distinct = |figure: &dyn Fn(&Line) -> String| {
        let all: BTreeSet<String> = lines().map(figure).filter(|text| !text.is_empty()).collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    };
    let machine = distinct(&|line| {
        let hw = &line.hw;
        format!("{} cores ({}, {}), {} GiB of memory", hw.cores, hw.cpu, hw.arch, hw.memory_gib)
    });
    let seconds = distinct(&|line| format!("{} s × {}", line.seconds.round(), line.rounds));
    format!(
        "| | |\n|---|---|\n\
         | machine | {machine} |\n\
         | when | {} |\n\
         | versions | taffrail {} ({}), PostgreSQL {}, nats-server {} |\n\
         | settings | as shipped: fsync, synchronous_commit and full_page_writes on, wal_level \
         logical, 128 MB of shared buffers, max_wal_size 4 GB; JetStream on files, synced every \
         2 minutes. Results, hashes, claims, metrics, relay and projections on |\n\
         | load | from the same machine, so from the same cores; windows of {seconds} rounds, a \
         quarter before it to warm up; the median of the rounds with the slowest and the \
         fastest |\n\n",
        distinct(&|line| line.date.clone()),
        distinct(&|line| line.version.clone()),
        distinct(&|line| line.git.clone()),
        distinct(&|line| line.postgres.clone()),
        distinct(&|line| line.nats.clone()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(workload: &str, params: serde_json::Value, ops_per_s: f64) -> Line {
        let limit = if workload == "limit" {
            serde_json::Value::Null
        } else {
            serde_json::json!({ "cell": "Insert batch=1 conns=1", "ops_per_s": 4_000.0 })
        };
        serde_json::from_value(serde_json::json!({
            "bench": "append", "version": "0.1.0", "git": "abc", "date": "2026-11-20 20:00 UTC",
            "postgres": "18.1", "nats": "2.15.0", "workload": workload, "params": params,
            "mode": "closed", "unit": "commands", "ops_per_s": ops_per_s, "min": ops_per_s * 0.9,
            "max": ops_per_s * 1.1, "rounds": 3, "seconds": 5.0, "p50_ms": 0.2, "p90_ms": 0.3,
            "p99_ms": 0.9, "p999_ms": 2.5, "max_ms": 7.0,
            "percentiles": [[0.0, 0.1], [0.5, 0.2], [0.9, 0.3], [0.99, 0.9], [0.999, 2.5],
                            [0.9999, 6.0], [1.0, 7.0]],
            "errors": 0, "conflicts": 0, "cpu_s_server": 0.5, "cpu_s_pg": 0.6, "cpu_s_nats": 0.1,
            "wal_bytes_per_event": 1400.0, "fsyncs_per_s": 3000.0, "acknowledged": 10,
            "recorded": 10, "extra": {}, "limit": limit,
            "hw": { "cores": 2, "memory_gib": 24, "cpu": "AMD EPYC", "arch": "x86_64" }
        }))
        .unwrap()
    }

    fn sheet() -> Sheet {
        let mut sheet = Sheet::default();
        sheet.take(vec![
            line("limit", serde_json::json!({ "cell": "Insert batch=1 conns=1" }), 4_000.0),
            line("W1a", serde_json::json!({ "clients": 1, "cache": "warm" }), 3_000.0),
            line("W1a", serde_json::json!({ "clients": 64, "cache": "warm" }), 50_000.0),
        ]);
        sheet
    }

    #[test]
    fn a_report_of_a_fixed_sitting() {
        let text = text(&sheet(), "performance", Some("## Misses\n\nNone so far.\n"));
        let shown: Vec<&str> = text
            .lines()
            .filter(|line| !line.ends_with("| not measured |") && !line.is_empty())
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn plots_of_a_fixed_sitting() {
        let sheet = sheet();
        let plots = plots(&sheet);
        let names: Vec<&str> = plots.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["latency-closed.svg", "throughput.svg"]);
        insta::assert_snapshot!(plots[0].1);
        insta::assert_snapshot!(plots[1].1);
    }

    #[test]
    fn the_references_limit_decides_where_it_is_given() {
        let mut sheet = sheet();
        let of = |sheet: &Sheet| rows(sheet).into_iter().next().unwrap();
        assert_eq!((of(&sheet).ratio.as_str(), of(&sheet).met), ("0.75", Some(true)));
        let reference = "noise\n{\"cell\":\"Insert batch=1 conns=1\",\"ops_per_s\":6000}\n";
        sheet.reference = read_lines(reference).unwrap();
        let row = of(&sheet);
        assert_eq!((row.ratio.as_str(), row.reference.as_str()), ("0.75", "0.50"));
        assert_eq!(row.met, Some(false));
    }

    #[test]
    fn cells_that_were_measured_alone_find_their_limit() {
        let mut sheet = sheet();
        for line in &mut sheet.cells {
            line.limit = None;
        }
        sheet.join();
        assert_eq!(sheet.cells[0].ratio(), Some(0.75));
        assert_eq!(sheet.cells[1].limit, None, "its limit was not measured");
    }

    #[test]
    fn a_cell_that_is_measured_again_replaces_the_one_before() {
        let mut sheet = sheet();
        sheet.take(vec![line("W1a", serde_json::json!({ "clients": 1, "cache": "warm" }), 9.0)]);
        assert_eq!(sheet.cells.len(), 2);
        assert_eq!(sheet.cell("W1a", &[("clients", "1")]).unwrap().ops_per_s, 9.0);
    }
}
