//! The table of what is refused.

use serde_json::{Value, json};
use uuid::Uuid;

/// A body that must be refused, the place that its first fault points to, and the fault.
pub struct Bad {
    pub what: &'static str,
    pub about: About,
    pub body: String,
    pub pointer: &'static str,
    pub code: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
pub enum About {
    Submit,
    /// A command of a task.
    Task(&'static str),
    Claim,
    Queue,
    Schedule,
}

fn bad(
    what: &'static str,
    about: About,
    body: impl ToString,
    pointer: &'static str,
    code: &'static str,
) -> Bad {
    Bad { what, about, body: body.to_string(), pointer, code }
}

/// A task with one more field, as text: also what no JSON value can be.
fn task(
    what: &'static str,
    field: &str,
    value: impl ToString,
    pointer: &'static str,
    code: &'static str,
) -> Bad {
    let body = format!(r#"{{"title":"t","{field}":{}}}"#, value.to_string());
    bad(what, About::Submit, body, pointer, code)
}

fn tasks() -> Vec<Bad> {
    let many = |word: &str, n: usize| json!(vec![word; n]);
    let retry = |field: &str, value: &str| format!(r#"{{"{field}":{value}}}"#);
    let labels = |key: String, value: &str| json!({ key: value });
    vec![
        task("attempts below 0", "retry", retry("max_attempts", "-1"), "/retry/max_attempts", ""),
        task(
            "no attempt",
            "retry",
            retry("max_attempts", "0"),
            "/retry/max_attempts",
            "out_of_range",
        ),
        task(
            "many attempts",
            "retry",
            retry("max_attempts", "101"),
            "/retry/max_attempts",
            "out_of_range",
        ),
        task(
            "huge attempts",
            "retry",
            retry("max_attempts", "4294967296"),
            "/retry/max_attempts",
            "",
        ),
        task("half an attempt", "retry", retry("max_attempts", "1.5"), "/retry/max_attempts", ""),
        task("backoff below 0", "retry", retry("backoff_ms", "-1"), "/retry/backoff_ms", ""),
        task(
            "backoff of years",
            "retry",
            retry("backoff_max_ms", "86400001"),
            "/retry/backoff_max_ms",
            "out_of_range",
        ),
        task("unknown field below", "retry", retry("attempts", "3"), "/retry/attempts", ""),
        task("NaN", "estimate_ms", "NaN", "", ""),
        task("estimate below 0", "estimate_ms", -1, "/estimate_ms", ""),
        task("endless estimate", "estimate_ms", u64::MAX, "/estimate_ms", "out_of_range"),
        task("due before time", "due_at", json!("1969-12-31T23:59:59Z"), "/due_at", "out_of_range"),
        task("due after time", "due_at", json!("+10000-01-01T00:00:00Z"), "/due_at", ""),
        task("due someday", "due_at", json!("tomorrow"), "/due_at", ""),
        task("due without a zone", "due_at", json!("2026-01-01T00:00:00"), "/due_at", ""),
        task("a 13th month", "run_at", json!("2026-13-01T00:00:00Z"), "/run_at", ""),
        task("a number as a time", "run_at", 1_767_225_600, "/run_at", ""),
        task("priority 5", "priority", 5, "/priority", ""),
        task("priority -1", "priority", -1, "/priority", ""),
        task("priority 2.5", "priority", 2.5, "/priority", ""),
        task("priority as a text", "priority", json!("7"), "/priority", ""),
        task("65 labels", "labels", many("l", 65), "/labels", "too_many"),
        task("empty label", "labels", many("", 1), "/labels/0", "length"),
        task("long label", "labels", json!(["l".repeat(129)]), "/labels/0", "length"),
        task("bell in a label", "labels", json!(["a\u{7}"]), "/labels/0", "control_character"),
        task("empty name of a label", "labels", labels(String::new(), "v"), "/labels/", "length"),
        task(
            "slash in a label's name",
            "labels",
            labels("a/~b".into(), &"v".repeat(257)),
            "/labels/a~1~0b",
            "length",
        ),
        task("number as a label", "labels", json!({ "a": 1 }), "/labels/a", ""),
        task("nested labels", "labels", json!([["a"]]), "/labels/0", ""),
        task("65 capabilities", "capabilities", many("c", 65), "/capabilities", "too_many"),
        task("a huge list", "capabilities", many("c", 20_000), "/capabilities", "too_many"),
        task(
            "257 dependencies",
            "depends_on",
            json!(vec![Uuid::new_v4(); 257]),
            "/depends_on",
            "too_many",
        ),
        task("dependency that is no id", "depends_on", json!(["7"]), "/depends_on/0", ""),
        task("parent that is no id", "parent_id", json!("my-parent"), "/parent_id", ""),
        task("long key", "concurrency_key", json!("k".repeat(129)), "/concurrency_key", "length"),
        task("unknown field", "title2", json!("t"), "/title2", ""),
        task("large payload", "payload", json!("p".repeat(300_000)), "/payload", "too_large"),
        task(
            "deep payload",
            "payload",
            format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)),
            "/payload",
            "too_deep",
        ),
    ]
}

fn answers() -> Vec<Bad> {
    let with = |what, command, body: Value, pointer, code| {
        bad(what, About::Task(command), body, pointer, code)
    };
    vec![
        with("token below 0", "complete", json!({ "lease_token": -1 }), "/lease_token", ""),
        with("half a token", "start", json!({ "lease_token": 1.5 }), "/lease_token", ""),
        with("token as a text", "start", json!({ "lease_token": "1" }), "/lease_token", ""),
        with("no token", "complete", json!({}), "/lease_token", ""),
        with(
            "lease below 0",
            "extend",
            json!({ "lease_token": 1, "lease_ms": -5 }),
            "/lease_ms",
            "",
        ),
        with(
            "lease of 1 ms",
            "extend",
            json!({ "lease_token": 1, "lease_ms": 1 }),
            "/lease_ms",
            "out_of_range",
        ),
        with(
            "lease of two days",
            "extend",
            json!({ "lease_token": 1, "lease_ms": 172_800_000 }),
            "/lease_ms",
            "out_of_range",
        ),
        with(
            "101 percent",
            "progress",
            json!({ "lease_token": 1, "percent": 101 }),
            "/percent",
            "out_of_range",
        ),
        with(
            "-1 percent",
            "progress",
            json!({ "lease_token": 1, "percent": -1 }),
            "/percent",
            "out_of_range",
        ),
        with(
            "retry below 0",
            "fail",
            json!({ "lease_token": 1, "retry_after_ms": -1 }),
            "/retry_after_ms",
            "",
        ),
        with(
            "retry in years",
            "fail",
            json!({ "lease_token": 1, "retry_after_ms": u64::MAX }),
            "/retry_after_ms",
            "out_of_range",
        ),
        with("agent that is no id", "assign", json!({ "agent_id": "bob" }), "/agent_id", ""),
        with("empty update", "update", json!({}), "", "empty"),
        with("update to no title", "update", json!({ "title": null }), "/title", ""),
        with(
            "requeue with a bad change",
            "requeue",
            json!({ "changes": { "title": "" } }),
            "/changes/title",
            "length",
        ),
        with("block without a reason", "block", json!({ "reason": "" }), "/reason", "length"),
    ]
}

fn claims() -> Vec<Bad> {
    let claim = |what, field: &str, value: Value, pointer, code| {
        let mut body = json!({ "agent_id": Uuid::nil() });
        body[field] = value;
        bad(what, About::Claim, body, pointer, code)
    };
    vec![
        claim("wait beyond the limit", "wait_ms", json!(30_001), "/wait_ms", "out_of_range"),
        claim("wait below 0", "wait_ms", json!(-1), "/wait_ms", ""),
        claim("nothing", "max", json!(0), "/max", "out_of_range"),
        claim("too much", "max", json!(257), "/max", "out_of_range"),
        claim("lease below 0", "lease_ms", json!(-1), "/lease_ms", ""),
        claim("lease too short", "lease_ms", json!(999), "/lease_ms", "out_of_range"),
        claim("lease too long", "lease_ms", json!(86_400_001), "/lease_ms", "out_of_range"),
        claim("agent that is no id", "agent_id", json!("bob"), "/agent_id", ""),
        claim("unknown field", "waits_ms", json!(1), "/waits_ms", ""),
    ]
}

fn queues() -> Vec<Bad> {
    let limit = |what, key: &str, pointer, code| {
        let body = json!({ "limits": [{ "key": key, "max_running": 1 }] });
        bad(what, About::Queue, body, pointer, code)
    };
    let rated = |what, rate: &str, pointer, code| {
        let body = format!(r#"{{"limits":[{{"key":"queue","rate":{rate}}}]}}"#);
        bad(what, About::Queue, body, pointer, code)
    };
    let policy = |what, body: Value, pointer, code| bad(what, About::Queue, body, pointer, code);
    let sum = vec!["task.n"; 1_000].join("+");
    vec![
        limit("half an expression", "task.", "/limits/0/key", "not_an_expression"),
        limit("no expression", "", "/limits/0/key", "not_an_expression"),
        limit("a loop", "task.labels.all(l, l == 'x')", "/limits/0/key", "not_an_expression"),
        limit("another variable", "agent.name", "/limits/0/key", "not_an_expression"),
        limit("many steps", &sum, "/limits/0/key", "not_an_expression"),
        limit("long expression", &"task.a+".repeat(2_000), "/limits/0/key", "not_an_expression"),
        limit(
            "deep expression",
            &format!("{}task{}", "(".repeat(500), ")".repeat(500)),
            "/limits/0/key",
            "not_an_expression",
        ),
        rated("rate 0", r#"{"per_s":0}"#, "/limits/0/rate/per_s", "out_of_range"),
        rated("rate below 0", r#"{"per_s":-1}"#, "/limits/0/rate/per_s", "out_of_range"),
        rated("rate NaN", r#"{"per_s":NaN}"#, "", ""),
        rated("rate beyond numbers", r#"{"per_s":1e999}"#, "", ""),
        rated("burst 0", r#"{"per_s":1,"burst":0}"#, "/limits/0/rate/burst", "out_of_range"),
        policy("limit of nothing", json!({ "limits": [{ "key": "queue" }] }), "/limits/0", "empty"),
        policy(
            "none may run",
            json!({ "limits": [{ "key": "queue", "max_running": 0 }] }),
            "/limits/0/max_running",
            "out_of_range",
        ),
        policy("weight 0", json!({ "weights": { "low": 0 } }), "/weights/low", "out_of_range"),
        policy("weight below 0", json!({ "weights": { "low": -1 } }), "/weights/low", ""),
        policy("aging at once", json!({ "aging_ms": 0 }), "/aging_ms", "out_of_range"),
        policy("unknown mode", json!({ "mode": "fair" }), "/mode", ""),
    ]
}

fn schedules() -> Vec<Bad> {
    let schedule = |what, when: Value, pointer, code| {
        let mut body = json!({ "name": "s", "task": { "title": "t" } });
        body.as_object_mut().unwrap().extend(when.as_object().unwrap().clone());
        bad(what, About::Schedule, body, pointer, code)
    };
    let on = |filter: &str| json!({ "on_event": { "type": "task.completed", "filter": filter } });
    vec![
        schedule("no pattern", json!({ "cron": "whenever" }), "/cron", ""),
        schedule("minute 61", json!({ "cron": "61 * * * *" }), "/cron", ""),
        schedule("30 February", json!({ "cron": "0 0 30 2 *" }), "/cron", ""),
        schedule("long pattern", json!({ "cron": "1,".repeat(5_000) }), "/cron", ""),
        schedule(
            "unknown zone",
            json!({ "cron": "0 3 * * *", "timezone": "Mars/Base" }),
            "/timezone",
            "",
        ),
        schedule(
            "zone with a path",
            json!({ "cron": "0 3 * * *", "timezone": "../etc" }),
            "/timezone",
            "",
        ),
        schedule("interval 0", json!({ "interval_ms": 0 }), "/interval_ms", "out_of_range"),
        schedule("interval below 0", json!({ "interval_ms": -1 }), "/interval_ms", ""),
        schedule(
            "endless interval",
            json!({ "interval_ms": u64::MAX }),
            "/interval_ms",
            "out_of_range",
        ),
        schedule("half a condition", on("event."), "/on_event/filter", ""),
        schedule("a loop", on("event.payload.all(x, true)"), "/on_event/filter", ""),
        schedule("long condition", on(&"event.a == 1 || ".repeat(2_000)), "/on_event/filter", ""),
        schedule("neither time nor event", json!({}), "", ""),
        schedule(
            "two at once",
            json!({ "interval_ms": 1_000, "cron": "* * * * *" }),
            "/interval_ms",
            "two_kinds",
        ),
        schedule(
            "a bad task",
            json!({ "interval_ms": 1_000, "task": { "title": "" } }),
            "/task/title",
            "length",
        ),
    ]
}

pub fn all() -> impl Iterator<Item = Bad> {
    [tasks(), answers(), claims(), queues(), schedules()].into_iter().flatten()
}
