//! `taffrail bench` against the real thing; no figure is judged, only that it was counted.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{TAFFRAIL, run_dir, unique};

fn bench(arguments: &[&str]) -> (bool, String, String) {
    bench_in(&run_dir().join(format!("bench-{}", unique())), arguments)
}

fn bench_in(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let out = Command::new(TAFFRAIL)
        .arg("bench")
        .args(arguments)
        .arg("--data-dir")
        .arg(folder)
        .output()
        .unwrap();
    let left: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_sitting_counts_that_the_log_has_what_was_acknowledged() {
    let file = run_dir().join(format!("cells-{}.jsonl", unique()));
    let file = file.display().to_string();
    let mut arguments = vec!["run", "W1a", "W1b", "--clients", "64", "--no-limits"];
    arguments.extend(["--seconds", "0.3", "--rounds", "2", "--output", "json", "--out", &file]);
    let (done, out, error) = bench(&arguments);
    assert!(done, "{error}");
    let lines = lines(&out);
    let ways: Vec<&str> = lines.iter().filter_map(|line| line["params"]["via"].as_str()).collect();
    assert_eq!(ways, ["http", "http", "req", "cmd"], "{out}");
    assert_eq!(lines.len(), 5, "{out}");
    for line in &lines {
        assert!(line["acknowledged"].as_u64().unwrap() > 0, "{line}");
        assert_eq!(line["acknowledged"], line["recorded"], "{line}");
        assert_eq!((&line["errors"], &line["mode"]), (&0.into(), &"closed".into()), "{line}");
        for field in ["ops_per_s", "p50_ms", "p99_ms", "cpu_s_server", "cpu_s_pg", "max"] {
            assert!(line[field].as_f64().unwrap() > 0.0, "{field}: {line}");
        }
        assert!(line["postgres"].as_str().unwrap().starts_with(char::is_numeric), "{line}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), out);

    // The same lines make a report.
    let report = run_dir().join(format!("report-{}.md", unique()));
    let shown = report.display().to_string();
    let made = Command::new(TAFFRAIL)
        .args(["bench", "report", "--cells", &file, "--out", &shown])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(&report).unwrap();
    assert!(text.contains("| W1a append, 64 clients |"), "{text}");
    assert!(report.with_extension("").join("latency-closed.svg").is_file());
}

#[test]
fn a_cell_stands_beside_its_limit() {
    let mut arguments = vec!["append", "--clients", "1", "--output", "json"];
    arguments.extend(["--seconds", "0.3", "--rounds", "1"]);
    let (done, out, error) = bench(&arguments);
    assert!(done, "{error}");
    let lines = lines(&out);
    let [limit, cell] = lines.as_slice() else { panic!("{out}") };
    assert_eq!(limit["bench"], "limits");
    assert_eq!(cell["limit"]["cell"], limit["params"]["cell"]);
    assert_eq!(cell["limit"]["ops_per_s"], limit["ops_per_s"]);
}

#[test]
fn a_workload_that_does_not_exist_is_named_with_those_that_do() {
    let (done, _, error) = bench(&["run", "W99"]);
    assert!(!done);
    assert!(error.contains("`W99`") && error.contains("W1a, W1b"), "{error}");
}

/// The lines of a quick look at one verb.
fn quick(verb: &str) -> Vec<Value> {
    let (done, out, error) = bench(&[verb, "--quick", "--output", "json"]);
    assert!(done, "{error}");
    lines(&out)
}

/// A figure of a workload alone.
fn extra(line: &Value, name: &str) -> f64 {
    line["extra"][name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"))
}

#[test]
fn starts_in_a_sandbox_are_measured_beside_bare_ones() {
    let lines = quick("spawn");
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(extra(line, "sandboxed_p50_ms") > extra(line, "bare_p50_ms"), "{line}");
    assert_eq!((extra(line, "at_once"), extra(line, "failed")), (5.0, 0.0), "{line}");
    let goals = line["goals"].as_array().unwrap();
    assert_eq!(goals.len(), 3, "{line}");
    for goal in goals {
        let holds = goal["figure"].as_f64() <= goal["at_most"].as_f64();
        assert_eq!(goal["holds"], holds, "{goal}");
    }
}

#[test]
fn deploys_are_measured_until_the_agent_is_ready_and_leave_nothing_running() {
    // A node's sockets lie below it, and the path of a socket has at most 107 bytes.
    let folder = std::env::temp_dir().join(format!("tfb-{}-{}", std::process::id(), unique()));
    let (done, out, error) = bench_in(&folder, &["deploy", "--quick", "--output", "json"]);
    let _ = std::fs::remove_dir(&folder);
    assert!(done, "{error}");
    let lines = lines(&out);
    let [row, at_once] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(extra(row, "p95_ms") > 0.0 && row["p50_ms"].as_f64() > Some(0.0), "{row}");
    assert_eq!((extra(at_once, "at_once"), extra(at_once, "failed")), (3.0, 0.0), "{at_once}");
    assert!(extra(at_once, "at_once_ms") > 0.0, "{at_once}");
}

#[test]
fn a_fleet_is_measured_with_the_delay_of_what_falls_silent() {
    let lines = quick("fleet");
    let [beats, look] = lines.as_slice() else { panic!("{lines:?}") };
    for name in ["cpu_percent_with_servers", "resident_mb", "detected_p50_ms"] {
        assert!(extra(beats, name) > 0.0, "{name}: {beats}");
    }
    assert!(extra(beats, "shown_max_ms") >= extra(beats, "detected_p50_ms"), "{beats}");
    assert!(extra(look, "look_p99_ms") > 0.0 && extra(look, "all_silent_ms") > 0.0, "{look}");
}
