//! `taffrail bench` against the real thing; no figure is judged, only that it was counted.

use std::process::Command;

use serde_json::Value;

use crate::support::{TAFFRAIL, run_dir, unique};

fn bench(arguments: &[&str]) -> (bool, String, String) {
    let folder = run_dir().join(format!("bench-{}", unique()));
    let out = Command::new(TAFFRAIL)
        .arg("bench")
        .args(arguments)
        .arg("--data-dir")
        .arg(&folder)
        .output()
        .unwrap();
    let left: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().collect();
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
