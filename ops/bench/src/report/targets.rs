//! The targets and how this machine stands to them.

use super::sheet::Sheet;
use crate::goals::GOALS;
use crate::line::Line;
use crate::table::thousands;

/// A line of the table of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The workload and what of it.
    pub what: String,
    /// What is asked for.
    pub goal: String,
    /// The limit's figure; empty where the target is a figure by itself.
    pub limit: String,
    /// Our figure.
    pub ours: String,
    /// Ours by the limit of this sitting.
    pub ratio: String,
    /// Ours by the reference program's limit.
    pub reference: String,
    /// Whether it is met; none where a cell was not measured.
    pub met: Option<bool>,
}

/// How two figures are to stand to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", thousands(bound)),
            Self::AtMost(bound) => format!("≤ {}", thousands(bound)),
        }
    }
}

type Pick = (&'static str, &'static [(&'static str, &'static str)]);

const W1A_1: Pick = ("W1a", &[("clients", "1"), ("cache", "warm")]);
const W1A_64: Pick = ("W1a", &[("clients", "64"), ("cache", "warm")]);
const W1A_256: Pick = ("W1a", &[("clients", "256"), ("cache", "warm")]);
const W1A_COLD: Pick = ("W1a", &[("cache", "cold")]);
const HTTP_64: Pick = ("W1b", &[("via", "http"), ("clients", "64"), ("work", "submit+7 updates")]);
const SSE: Pick = ("W5", &[("over", "sse"), ("subscribers", "100")]);
const NATS: Pick = ("W5", &[("over", "nats"), ("subscribers", "100")]);
const W7: Pick = ("W7", &[("end", "kill -9")]);

const INSERT: &str = "Insert batch=1 conns=1";
const DESIGN_64: &str = "head-row CTE, gap-free, fenced: clients=64 partitions=1 in-flight=1";
const DESIGN_256: &str = "head-row CTE, gap-free, fenced: clients=256 partitions=1 in-flight=2";
const COPY: &str = "bytea COPY out ordered + typed decode";
const FAN_OUT: &str = "sync=default core fan-out to 100 subscribers: deliveries";
const MEM: &str = "axum GET mem conns=32 (client on the same cores)";
const TASK: &str = "axum GET task conns=32 (client on the same cores)";
const LIVES: &str = "4-step lives + queue table + relay bytea clients=256 writers=2";

/// Every target, in the order of the specification.
#[must_use]
pub fn rows(sheet: &Sheet) -> Vec<Row> {
    let rate = |what, pick, factor, limit| by_rate(sheet, what, pick, factor, limit);
    let mut rows = vec![
        rate("W1a append, 1 client", W1A_1, 0.65, INSERT),
        rate("W1a append, 64 clients", W1A_64, 0.6, DESIGN_64),
        p99(sheet, "W1a append, 64 clients: p99", W1A_64, 3.0, DESIGN_64),
        rate("W1a append, 256 clients", W1A_256, 0.6, DESIGN_256),
        rate(
            "W1a append, cold cache",
            W1A_COLD,
            0.5,
            "bytea rehydrate events=10 pipelined=8 one conn",
        ),
        http(sheet),
        plain(
            sheet,
            "W1b HTTP, 64 connections, beside the best peer",
            HTTP_64,
            Goal::AtLeast(22_700.0),
        ),
        best(sheet, "W1b NATS `req`", "req", 20_000.0),
        best(sheet, "W1b NATS `cmd`", "cmd", 15_000.0),
        lives(sheet),
    ];
    let w3 = |agent: &'static str| {
        sheet.cell(
            "W3",
            &[
                ("agent", agent),
                ("submit", "nats req"),
                ("rate", "100.0"),
                ("beside", "idle"),
                ("at", "handler"),
            ],
        )
    };
    for (agent, words) in [("is pushed to", "pushed"), ("claims", "claimed")] {
        let line = w3(agent);
        let name = |part: &str| format!("W3 submit to handler, 100/s, {words}: {part} in ms");
        rows.push(figure(name("p50"), Goal::AtMost(0.85), line.and_then(|l| l.p50_ms)));
        rows.push(figure(name("p99"), Goal::AtMost(2.5), line.and_then(|l| l.p99_ms)));
    }
    rows.push(rate(
        "W4a fold in memory (tasks)",
        ("W4a", &[("into", "memory"), ("model", "tasks")]),
        0.6,
        COPY,
    ));
    for line in sheet.cells.iter().filter(|line| {
        line.workload == "W4a" && line.params.get("into").is_some_and(|into| into == "postgres")
    }) {
        let model = line.params.get("model").and_then(|model| model.as_str()).unwrap_or("?");
        let what = format!("W4a rebuild of `{model}` in PostgreSQL, events/s");
        rows.push(figure(what, Goal::AtLeast(60_000.0), Some(line.ops_per_s)));
    }
    let lag = sheet.cell("W4b", &[("load", "50 % W1")]).and_then(|line| line.p99_ms);
    rows.push(figure("W4b projection lag at half load: p99 in ms".into(), Goal::AtMost(50.0), lag));
    rows.push(rate(
        "W4c streams of 100 events read back",
        ("W4c", &[("events", "100"), ("callers", "8")]),
        0.8,
        "bytea rehydrate events=100 pipelined=8 one conn",
    ));
    rows.push(rate("W5 100 SSE subscribers", SSE, 0.15, FAN_OUT));
    rows.push(rate("W5 100 NATS subscribers", NATS, 0.5, FAN_OUT));
    rows.push(rate(
        "W6 task by id, 32 connections",
        ("W6", &[("query", "task"), ("connections", "32")]),
        0.7,
        TASK,
    ));
    let restart = sheet.cell(W7.0, W7.1);
    let first = restart.and_then(|line| line.max_ms);
    rows.push(figure(
        "W7 restart with 1M events, 100k open tasks: first accepted command, ms".into(),
        Goal::AtMost(3_000.0),
        first,
    ));
    let extra = |line: Option<&Line>, name: &str| line?.extra.get(name).copied();
    let idle = extra(sheet.cell("W7", &[("memory", "idle")]), "resident_mb");
    rows.push(figure("Memory, idle, without the servers, MB".into(), Goal::AtMost(80.0), idle));
    // Only once everything is level are all tasks in memory that will be.
    let open = extra(restart, "resident_mb_caught_up");
    rows.push(figure("Memory with 100k open tasks, MB".into(), Goal::AtMost(400.0), open));
    for (door, words) in [("nats req", "NATS"), ("http", "HTTP")] {
        let line = sheet.cell("overload", &[("door", door)]);
        let name = |part: &str| format!("5 x overload over {words}: {part}");
        let of = |name: &str| extra(line, name);
        rows.push(figure(name("goodput of its peak"), Goal::AtLeast(0.9), of("goodput_of_peak")));
        // Where nobody was refused there is nothing to time.
        let refused = of("refused").filter(|count| *count > 0.0);
        let refusal = refused.and_then(|_| of("refused_p99_ms"));
        rows.push(figure(name("p99 of a refusal in ms"), Goal::AtMost(50.0), refusal));
        rows.push(figure(
            name("growth of memory in %"),
            Goal::AtMost(20.0),
            of("growth_percent_highest"),
        ));
    }
    let slow = sheet.cell("slow", &[]);
    for (words, goal, name) in [
        ("growth of a command's p99 in %", 5.0, "p99_growth_percent"),
        ("growth of memory in MiB", 64.0, "memory_growth_mib"),
        ("the last one dropped after s", 30.0, "last_dropped_s"),
    ] {
        let what = format!("Stuck consumers (100 SSE, 100 WebSocket, 1 durable): {words}");
        rows.push(figure(what, Goal::AtMost(goal), extra(slow, name)));
    }
    for goal in GOALS {
        let line = sheet.cell(goal.workload, &[goal.param]);
        let what = format!("{} {}", goal.workload, goal.what);
        rows.push(figure(what, Goal::AtMost(goal.at_most), extra(line, goal.figure)));
    }
    rows
}

/// A target that is a figure by itself.
fn figure(what: String, goal: Goal, ours: Option<f64>) -> Row {
    Row {
        what,
        goal: goal.words(),
        limit: String::new(),
        ours: ours.map_or_else(String::new, thousands),
        ratio: String::new(),
        reference: String::new(),
        met: ours.map(|ours| goal.met(ours)),
    }
}

fn plain(sheet: &Sheet, what: &str, pick: Pick, goal: Goal) -> Row {
    figure(format!("{what}, commands/s"), goal, sheet.cell(pick.0, pick.1).map(|l| l.ops_per_s))
}

/// The faster of a door's cells: how many are in flight is the client's choice.
fn best(sheet: &Sheet, what: &str, via: &str, least: f64) -> Row {
    let cells = ["64", "256"].map(|n| sheet.cell("W1b", &[("via", via), ("clients", n)]));
    let best = cells.into_iter().flatten().map(|line| line.ops_per_s).reduce(f64::max);
    figure(format!("{what}, commands/s"), Goal::AtLeast(least), best)
}

/// Ours by the limit's, and by the reference's.
fn compared(
    what: &str,
    goal: Goal,
    of: &str,
    ours: Option<f64>,
    [limit, reference]: [Option<f64>; 2],
) -> Row {
    let by = |bound: Option<f64>| {
        let (ours, bound) = (ours?, bound.filter(|bound| *bound > 0.0)?);
        Some(ours / bound)
    };
    let (ratio, to_reference) = (by(limit), by(reference));
    let words = |ratio: Option<f64>| ratio.map_or_else(String::new, |r| format!("{r:.2}"));
    Row {
        what: what.into(),
        goal: format!("{} × {of}", goal.words()),
        limit: limit.map_or_else(String::new, thousands),
        ours: ours.map_or_else(String::new, thousands),
        ratio: words(ratio),
        reference: words(to_reference),
        // The targets name the reference's cells; our own stand for them where they are absent.
        met: to_reference.or(ratio).map(|ratio| goal.met(ratio)),
    }
}

fn by_rate(sheet: &Sheet, what: &str, pick: Pick, factor: f64, limit: &str) -> Row {
    let ours = sheet.cell(pick.0, pick.1).map(|line| line.ops_per_s);
    let bounds = [
        sheet.limit(limit).map(|line| line.ops_per_s),
        sheet.reference(limit).map(|cell| cell.ops_per_s),
    ];
    compared(what, Goal::AtLeast(factor), &format!("`{limit}`"), ours, bounds)
}

fn p99(sheet: &Sheet, what: &str, pick: Pick, factor: f64, limit: &str) -> Row {
    let ours = sheet.cell(pick.0, pick.1).and_then(|line| line.p99_ms);
    let bounds = [
        sheet.limit(limit).and_then(|line| line.p99_ms),
        sheet.reference(limit).and_then(|cell| cell.p99_ms),
    ];
    compared(what, Goal::AtMost(factor), &format!("p99 of `{limit}`"), ours, bounds)
}

/// HTTP's bound is CPU time: that of a command and that of a request, one after the other.
fn http(sheet: &Sheet) -> Row {
    let ours = sheet.cell(HTTP_64.0, HTTP_64.1).map(|line| line.ops_per_s);
    let append = sheet.cell(W1A_64.0, W1A_64.1).map(|line| line.ops_per_s);
    let bound = |request: Option<f64>| Some(1.0 / (1.0 / append? + 1.0 / request?));
    let bounds = [
        bound(sheet.limit(MEM).map(|line| line.ops_per_s)),
        bound(sheet.reference(MEM).map(|cell| cell.ops_per_s)),
    ];
    let of = format!("1/(1/W1a at 64 clients + 1/`{MEM}`)");
    compared("W1b HTTP, 64 connections", Goal::AtLeast(0.5), &of, ours, bounds)
}

/// The fastest crew: how many workers there are is the operator's choice.
fn lives(sheet: &Sheet) -> Row {
    let cells = sheet.cells.iter().filter(|line| line.workload == "W2a");
    let ours = cells.map(|line| line.ops_per_s).reduce(f64::max);
    let bounds = [
        sheet.limit(LIVES).map(|line| line.ops_per_s),
        sheet.reference(LIVES).map(|cell| cell.ops_per_s),
    ];
    compared("W2a lives of tasks", Goal::AtLeast(0.3), &format!("`{LIVES}`"), ours, bounds)
}
