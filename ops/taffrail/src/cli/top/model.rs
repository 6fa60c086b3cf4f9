//! What `top` shows: one look at the server, taken apart once, and the rates between looks.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::super::human::{passed, text};
use super::super::table::printable;

/// How far back the rates look.
const WINDOW: Duration = Duration::from_secs(10);
/// The priorities in the order of their urgency.
const PRIORITIES: [&str; 5] = ["critical", "high", "normal", "low", "background"];

/// The answers that a look is made of.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// `GET /v1/queues`
    pub queues: Value,
    /// `GET /v1/agents`, as many pages as are shown.
    pub agents: Vec<Value>,
    /// `GET /v1/operations`
    pub operations: Value,
    /// `GET /v1/metrics`
    pub metrics: Value,
    /// The tasks in agents' hands, as far as one page goes.
    pub held: Value,
}

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// When it was taken.
    pub now: DateTime<Utc>,
    /// The position that the queues reflect.
    pub position: u64,
    /// By name.
    pub queues: Vec<Queue>,
    /// By name.
    pub agents: Vec<Agent>,
    /// Those that run, then the newest.
    pub operations: Vec<Operation>,
    /// Of all queues together.
    pub wait: Latency,
    /// The same, from start to completion.
    pub run: Latency,
    /// Tasks submitted and ended per second, of all queues together.
    pub rates: (f64, f64),
}

/// A queue.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    pub name: String,
    /// active, paused or draining.
    pub state: String,
    /// Tasks that nobody has.
    pub waiting: u64,
    /// Those by urgency.
    pub by_priority: [u64; 5],
    /// Of the waiting: for a time, for other tasks. Absent where the server cannot tell.
    pub timed: Option<u64>,
    pub dependent: Option<u64>,
    /// Tasks that agents have.
    pub held: u64,
    /// Failed and dead.
    pub dead: u64,
    /// How long the oldest one waits.
    pub oldest: Option<Duration>,
    pub wait: Latency,
    pub run: Latency,
    /// Submitted and ended, since the log's first event.
    pub counted: (u64, u64),
    /// The same per second, lately.
    pub rates: (f64, f64),
}

/// An agent.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    pub id: String,
    pub name: String,
    pub state: String,
    pub slots: u64,
    /// The tasks that it has, by their numbers, oldest first.
    pub tasks: Vec<String>,
    /// The first one's title.
    pub title: String,
    /// How busy it says it is, as a share.
    pub load: Option<f64>,
    /// Since it was last heard of.
    pub silent: Option<Duration>,
}

/// An operation.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    pub id: String,
    pub kind: String,
    pub state: String,
    pub resource: String,
    pub done: u64,
    pub total: Option<u64>,
    pub message: String,
    pub age: Option<Duration>,
}

/// A distribution, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many there were; nothing is known without any.
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
}

impl Latency {
    fn of(value: &Value) -> Self {
        let number = |name: &str| value[name].as_u64().unwrap_or_default();
        Self { count: number("count"), p50: number("p50"), p99: number("p99") }
    }
}

impl Look {
    /// Takes the answers apart.
    pub fn of(answers: &Answers, now: DateTime<Utc>) -> Self {
        let Answers { queues, agents, operations, metrics, held } = answers;
        let tasks: HashMap<&str, &Value> =
            items(held).filter_map(|task| Some((task["id"].as_str()?, task))).collect();
        let mut all: Vec<_> = items(queues).map(|one| queue(one, metrics, now)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let mut staff: Vec<_> =
            agents.iter().flat_map(items).map(|one| agent(one, &tasks, now)).collect();
        staff.sort_by(|a, b| a.name.cmp(&b.name));
        let mut work: Vec<_> = items(operations).map(|one| operation(one, now)).collect();
        work.sort_by_key(|one| client::is_final_operation(&one.state));
        let per_minute = &metrics["total"]["per_minute"];
        Self {
            now,
            position: queues["position"].as_u64().unwrap_or_default(),
            queues: all,
            agents: staff,
            operations: work,
            wait: Latency::of(&metrics["total"]["submit_to_start_ms"]),
            run: Latency::of(&metrics["total"]["start_to_done_ms"]),
            rates: per_second(per_minute, now),
        }
    }
}

/// The entries of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// A field as it may stand on a screen.
pub fn shown(value: &Value, field: &str) -> String {
    printable(&text(value, field), false)
}

/// The log's clock stands still while nothing happens: what was long ago is no rate.
const STALE: Duration = Duration::from_secs(300);

/// The mean of the last whole minutes, as long as nothing was seen to move.
fn per_second(per_minute: &Value, now: DateTime<Utc>) -> (f64, f64) {
    if passed(per_minute["until"].as_str(), now).is_none_or(|passed| passed >= STALE) {
        return (0.0, 0.0);
    }
    let rate = |name: &str| per_minute[name].as_f64().unwrap_or_default() / 60.0;
    (rate("submitted"), rate("completed"))
}

fn queue(value: &Value, metrics: &Value, now: DateTime<Utc>) -> Queue {
    let name = shown(value, "name");
    let count = |group: &str, name: &str| value[group][name].as_u64().unwrap_or_default();
    let states = |names: &[&str]| names.iter().map(|state| count("by_state", state)).sum();
    let ended = ["completed", "failed", "dead", "cancelled"];
    let own = &metrics["queues"][text(value, "name")];
    Queue {
        state: shown(value, "state"),
        waiting: value["depth"].as_u64().unwrap_or_default(),
        by_priority: PRIORITIES.map(|priority| count("by_priority", priority)),
        timed: value["standing"]["timed"].as_u64(),
        dependent: value["standing"]["dependent"].as_u64(),
        held: states(&["assigned", "in_progress", "blocked"]),
        dead: states(&["failed", "dead"]),
        oldest: passed(value["oldest_queued_at"].as_str(), now),
        wait: Latency::of(&own["submit_to_start_ms"]),
        run: Latency::of(&own["start_to_done_ms"]),
        counted: (
            count("counters", "submitted"),
            ended.iter().map(|end| count("counters", end)).sum(),
        ),
        rates: per_second(&value["per_minute"], now),
        name,
    }
}

fn agent(value: &Value, held: &HashMap<&str, &Value>, now: DateTime<Utc>) -> Agent {
    let ids: Vec<&str> =
        value["tasks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let number = |id: &&str| match held.get(*id) {
        Some(task) => shown(task, "number"),
        None => super::super::human::short_id(id),
    };
    Agent {
        id: text(value, "id"),
        name: shown(value, "name"),
        state: shown(value, "state"),
        slots: value["slots"].as_u64().unwrap_or_default(),
        tasks: ids.iter().map(number).collect(),
        title: ids.first().and_then(|id| held.get(id)).map_or(String::new(), |t| shown(t, "title")),
        load: value["load"].as_f64(),
        silent: since(value, "last_heartbeat", now),
    }
}

fn operation(value: &Value, now: DateTime<Utc>) -> Operation {
    let resource = &value["resource"];
    Operation {
        id: text(value, "id"),
        kind: shown(value, "kind"),
        state: shown(value, "state"),
        resource: format!("{} {}", shown(resource, "type"), shown(resource, "id")),
        done: value["progress"]["done"].as_u64().unwrap_or_default(),
        total: value["progress"]["total"].as_u64(),
        message: shown(&value["progress"], "message"),
        age: since(value, "created_at", now),
    }
}

fn since(value: &Value, field: &str, now: DateTime<Utc>) -> Option<Duration> {
    let then = DateTime::parse_from_rfc3339(value[field].as_str()?).ok()?;
    // The server's clock may be a little ahead of ours.
    Some(now.signed_duration_since(then).to_std().unwrap_or_default())
}

/// What was submitted and has ended, by queue.
type Counted = HashMap<String, (u64, u64)>;

/// What was counted at earlier looks.
#[derive(Debug, Default)]
pub struct Rates {
    looks: VecDeque<(Instant, Counted)>,
}

impl Rates {
    /// Tells a look its rates, from the counters of the oldest one within the window; a
    /// queue that was not there then began with nothing.
    pub fn tell(&mut self, look: &mut Look, at: Instant) {
        while self.looks.len() > 1 && self.looks[0].0 + WINDOW < at {
            self.looks.pop_front();
        }
        let counted: Counted =
            look.queues.iter().map(|queue| (queue.name.clone(), queue.counted)).collect();
        if let Some((then, before)) = self.looks.front()
            && let seconds = at.duration_since(*then).as_secs_f64()
            && seconds > 0.0
        {
            let mut total = (0.0, 0.0);
            for queue in &mut look.queues {
                let (submitted, ended) = before.get(&queue.name).copied().unwrap_or_default();
                // A server with another log may answer now: its counters begin lower.
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                queue.rates = (rate(queue.counted.0, submitted), rate(queue.counted.1, ended));
                total = (total.0 + queue.rates.0, total.1 + queue.rates.1);
            }
            look.rates = total;
        }
        self.looks.push_back((at, counted));
    }
}

/// A time in five characters at most: `870ms`, `12s`, `5m`, `3h`, `9d`.
pub fn brief(duration: Duration) -> String {
    let (ms, s) = (duration.as_millis(), duration.as_secs());
    match s {
        0 => format!("{ms}ms"),
        1..=9 => format!("{:.1}s", duration.as_secs_f64().min(9.9)),
        10..=99 => format!("{s}s"),
        100..=5_999 => format!("{}m", s / 60),
        6_000..=359_999 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// A count in five characters at most.
pub fn short(count: u64) -> String {
    match count {
        0..=99_999 => count.to_string(),
        100_000..=9_999_999 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}

/// A rate in five characters at most; nothing where nothing moves.
pub fn rate(per_second: f64) -> String {
    match per_second {
        none if none < 0.005 => "·".into(),
        few if few < 9.95 => format!("{few:.1}"),
        many if many < 99_999.5 => format!("{many:.0}"),
        more => format!("{:.0}k", more / 1_000.0),
    }
}

/// A latency's percentile; nothing where none was measured.
pub fn percentile(latency: Latency, pick: impl Fn(Latency) -> u64) -> String {
    if latency.count == 0 {
        return "·".into();
    }
    brief(Duration::from_millis(pick(latency)))
}
