//! Bodies that must not pass, and where exactly each is at fault.

use domain::StreamType::{self, Agent, Crew, Operation, Task};
use domain::{Code, Command, Problem};

/// `(kind, command, body, pointer, fault, a part of the message)`
type Row = (StreamType, &'static str, String, &'static str, &'static str, &'static str);

fn refused(kind: StreamType, name: &str, body: &[u8]) -> Problem {
    Command::parse(kind, name, body).expect_err("refused")
}

#[track_caller]
fn check(rows: Vec<Row>) {
    for (kind, name, body, pointer, fault, message) in rows {
        let shown: String = body.chars().take(80).collect();
        let problem = refused(kind, name, body.as_bytes());
        assert_eq!(problem.code(), Some(Code::InvalidBody), "{shown}");
        assert_eq!(problem.status, 400);
        let first = problem.errors.first().expect("a fault");
        assert_eq!((first.pointer.as_str(), first.code.as_str()), (pointer, fault), "{shown}");
        assert!(first.message.contains(message), "{shown}: {}", first.message);
        assert_eq!(problem.detail, first.message);
    }
}

fn submit(fields: &str) -> String {
    format!(r#"{{"title":"t",{fields}}}"#)
}

#[test]
fn what_is_no_json_object_within_the_limits_is_refused() {
    let deep = |n: usize| format!("{{\"payload\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let objects = "{\"a\":".repeat(10_000);
    let key = "k".repeat(1 << 20);
    check(vec![
        (Task, "submit", "[]".into(), "", "not_an_object", "object"),
        (Task, "submit", "null".into(), "", "not_an_object", "object"),
        (Task, "submit", "\"t\"".into(), "", "not_an_object", "object"),
        (Task, "submit", "{\"title\":\"t\"".into(), "", "not_json", "EOF"),
        (Task, "submit", "{\"title\":\"t\"}{}".into(), "", "not_json", "trailing"),
        (Task, "submit", "{'title':1}".into(), "", "not_json", "key must be a string"),
        (Task, "submit", "{\"title\":NaN}".into(), "", "not_json", "expected value"),
        (Task, "submit", "\u{feff}{\"title\":\"t\"}".into(), "", "not_json", "expected value"),
        (Task, "submit", submit(r#""payload":1e400"#), "", "not_json", "out of range"),
        (Task, "submit", submit(r#""payload":"\ud800""#), "", "not_json", "hex escape"),
        (Task, "submit", "{\"title\":\"a\nb\"}".into(), "", "not_json", "control character"),
        (Task, "submit", deep(10_000), PAYLOAD_64, "too_deep", "64"),
        (Task, "submit", deep(65), PAYLOAD_64, "too_deep", "64"),
        (Task, "submit", objects, OBJECTS_65, "too_deep", "64"),
        (Task, "submit", submit(r#""title":"u""#), "/title", "duplicate_key", "twice"),
        (
            Task,
            "submit",
            submit(r#""payload":{"a":[{"b":1,"b":2}]}"#),
            "/payload/a/0/b",
            "duplicate_key",
            "twice",
        ),
        (Task, "submit", submit(r#""payload":"a\u0000b""#), "/payload", "nul", "NUL"),
        (Task, "submit", submit(r#""payload":{"a\u0000":1}"#), "/payload/a\0", "nul", "NUL"),
        (Task, "submit", format!("{{\"{key}\":1}}"), KEY_64, "key_too_long", "too long"),
    ]);
    let problem = refused(Task, "submit", b"{\"title\":\"\xff\"}");
    assert_eq!(problem.errors[0].code, "not_utf8");
}

const PAYLOAD_64: &str = concat!(
    "/payload/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0",
    "/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0"
);
const OBJECTS_65: &str = concat!(
    "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a",
    "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"
);
const KEY_64: &str = "/kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";

#[test]
fn fields_of_the_wrong_shape_are_named_with_their_place() {
    check(vec![
        (Task, "submit", String::new(), "/title", "required", "`title`"),
        (Task, "submit", "{}".into(), "/title", "required", "`title`"),
        (Task, "submit", r#"{"title":7}"#.into(), "/title", "wrong_type", "string"),
        (Task, "submit", r#"{"title":null}"#.into(), "/title", "wrong_type", "null"),
        (Task, "submit", submit(r#""depends_on":["x"]"#), "/depends_on/0", "invalid_value", ""),
        (Task, "submit", submit(r#""parent_id":7"#), "/parent_id", "wrong_type", "UUID"),
        (Task, "submit", submit(r#""due_at":"tomorrow""#), "/due_at", "invalid_value", ""),
        (Task, "submit", submit(r#""triage":"yes""#), "/triage", "wrong_type", "boolean"),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempts":"3"}"#),
            "/retry/max_attempts",
            "wrong_type",
            "u32",
        ),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempts":-1}"#),
            "/retry/max_attempts",
            "invalid_value",
            "-1",
        ),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempts":4294967296}"#),
            "/retry/max_attempts",
            "invalid_value",
            "u32",
        ),
        (Task, "submit", submit(r#""retry":null"#), "/retry", "wrong_type", "null"),
        (
            Task,
            "submit",
            submit(r#""priority":"urgent""#),
            "/priority",
            "invalid_value",
            "critical",
        ),
        (Task, "submit", submit(r#""priority":5"#), "/priority", "invalid_value", "0 to 4"),
        (Task, "submit", submit(r#""priority":9"#), "/priority", "invalid_value", "0 to 4"),
        (Task, "submit", submit(r#""priority":-1"#), "/priority", "wrong_type", "0 to 4"),
        (Task, "submit", submit(r#""priority":1.5"#), "/priority", "wrong_type", "0 to 4"),
        (Task, "submit", submit(r#""labels":7"#), "/labels", "wrong_type", "list of words"),
        (Task, "submit", submit(r#""labels":["a",7]"#), "/labels/1", "wrong_type", "string"),
        (Task, "submit", submit(r#""labels":{"a":7}"#), "/labels/a", "wrong_type", "string"),
        (Task, "start", "{}".into(), "/lease_token", "required", "`lease_token`"),
        (Task, "start", r#"{"lease_token":"1"}"#.into(), "/lease_token", "wrong_type", "u64"),
        (
            Task,
            "start",
            r#"{"lease_token":18446744073709551616}"#.into(),
            "/lease_token",
            "wrong_type",
            "u64",
        ),
        (Task, "update", r#"{"title":null}"#.into(), "/title", "wrong_type", "null"),
        (
            Task,
            "update",
            r#"{"priority":null,"description":"d"}"#.into(),
            "/priority",
            "wrong_type",
            "null",
        ),
        (Agent, "update", r#"{"slots":null}"#.into(), "/slots", "wrong_type", "null"),
        (
            Agent,
            "report",
            r#"{"observed_state":"asleep"}"#.into(),
            "/observed_state",
            "unknown_value",
            "hibernating",
        ),
        (
            Operation,
            "accept",
            r#"{"kind":"k","resource":{"type":"t"}}"#.into(),
            "/resource/id",
            "required",
            "`id`",
        ),
        (
            Crew,
            "assign_role",
            r#"{"role":"r","agent_id":"7"}"#.into(),
            "/agent_id",
            "invalid_value",
            "",
        ),
    ]);
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_known_one() {
    check(vec![
        (
            Task,
            "submit",
            r#"{"titel":"t"}"#.into(),
            "/titel",
            "unknown_field",
            "did you mean `title`",
        ),
        (Task, "submit", submit(r#""Payload":1"#), "/Payload", "unknown_field", "`payload`"),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempt":3}"#),
            "/retry/max_attempt",
            "unknown_field",
            "did you mean `max_attempts`",
        ),
        (Task, "cancel", r#"{"why":"so"}"#.into(), "/why", "unknown_field", "known: reason"),
        (Task, "submit", submit(r#""a/b~c":1"#), "/a~1b~0c", "unknown_field", "a/b~c"),
        (Task, "submit", submit(r#""a`b":1"#), "/a`b", "unknown_field", "known: title"),
        (
            Task,
            "submit",
            submit(r#""x at line y":1"#),
            "/x at line y",
            "unknown_field",
            "known: title",
        ),
        (Task, "submit", submit(r#""":1"#), "/", "unknown_field", "known: title"),
        (
            Agent,
            "register",
            r#"{"name":"a","slot":1}"#.into(),
            "/slot",
            "unknown_field",
            "did you mean `slots`",
        ),
        (
            Operation,
            "accept",
            r#"{"kind":"k","resource":{"type":"t","id":"1","x":1}}"#.into(),
            "/resource/x",
            "unknown_field",
            "",
        ),
    ]);
}

#[test]
fn values_beyond_the_limits_are_refused() {
    let long = |n: usize| "x".repeat(n);
    let payload = |n: usize| submit(&format!("\"payload\":\"{}\"", long(n)));
    check(vec![
        (Task, "submit", r#"{"title":""}"#.into(), "/title", "length", "1 to 500"),
        (Task, "submit", format!("{{\"title\":\"{}\"}}", long(501)), "/title", "length", "501"),
        (Task, "submit", r#"{"title":"\u0007"}"#.into(), "/title", "control_character", ""),
        (Task, "submit", submit(r#""queue":"a.b""#), "/queue", "not_a_token", "A-Z"),
        (Task, "submit", submit(r#""queue":"*""#), "/queue", "not_a_token", "A-Z"),
        (Task, "submit", submit(r#""type":"""#), "/type", "not_a_token", "A-Z"),
        (Task, "submit", payload(256 * 1024), "/payload", "too_large", "262144"),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempts":0}"#),
            "/retry/max_attempts",
            "out_of_range",
            "1 and 100",
        ),
        (
            Task,
            "submit",
            submit(r#""retry":{"max_attempts":101}"#),
            "/retry/max_attempts",
            "out_of_range",
            "1 and 100",
        ),
        (
            Task,
            "submit",
            submit(r#""retry":{"backoff_ms":86400001}"#),
            "/retry/backoff_ms",
            "out_of_range",
            "",
        ),
        (
            Task,
            "submit",
            submit(r#""labels":{"a/b":"\u0001"}"#),
            "/labels/a~1b",
            "control_character",
            "",
        ),
        (
            Task,
            "submit",
            submit(&format!("\"labels\":[{}\"x\"]", "\"x\",".repeat(64))),
            "/labels",
            "too_many",
            "64",
        ),
        (Task, "submit", submit(r#""capabilities":[""]"#), "/capabilities/0", "length", ""),
        (
            Task,
            "submit",
            submit(r#""due_at":"+262142-01-01T00:00:00Z""#),
            "/due_at",
            "out_of_range",
            "9999",
        ),
        (
            Task,
            "submit",
            submit(r#""run_at":"-0001-01-01T00:00:00Z""#),
            "/run_at",
            "out_of_range",
            "1970",
        ),
        (
            Task,
            "update",
            r#"{"due_at":"+10000-01-01T00:00:00Z"}"#.into(),
            "/due_at",
            "out_of_range",
            "9999",
        ),
        (Task, "update", "{}".into(), "", "empty", "at least one"),
        (
            Task,
            "assign",
            format!(r#"{{"agent_id":"{}","lease_ms":999}}"#, domain::AgentId::nth(1)),
            "/lease_ms",
            "out_of_range",
            "1000",
        ),
        (
            Task,
            "extend",
            r#"{"lease_token":1,"lease_ms":86400001}"#.into(),
            "/lease_ms",
            "out_of_range",
            "86400000",
        ),
        (
            Task,
            "progress",
            r#"{"lease_token":1,"percent":100.1}"#.into(),
            "/percent",
            "out_of_range",
            "0 and 100",
        ),
        (
            Task,
            "progress",
            r#"{"lease_token":1,"percent":-1}"#.into(),
            "/percent",
            "out_of_range",
            "0 and 100",
        ),
        (Agent, "register", r#"{"name":"a","slots":0}"#.into(), "/slots", "out_of_range", "1000"),
        (
            Agent,
            "report",
            r#"{"observed_state":"draining"}"#.into(),
            "/observed_state",
            "unknown_value",
            "ready",
        ),
    ]);
}

#[test]
fn one_answer_names_all_fields_beyond_their_limits() {
    let body = br#"{"title":"","queue":"a b","retry":{"max_attempts":0},"capabilities":["x",""]}"#;
    let problem = refused(Task, "submit", body);
    let pointers: Vec<_> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
    assert_eq!(pointers, ["/title", "/queue", "/capabilities/1", "/retry/max_attempts"]);
}

#[test]
fn unknown_commands_are_refused_with_the_nearest_known_one() {
    for (kind, name, hint) in [
        (Task, "submitt", "did you mean `submit`"),
        (Task, "canceled", "did you mean `cancel`"),
        (Agent, "hibernat", "did you mean `hibernate`"),
        (Crew, "submit", "crew has no command `submit`"),
        (Operation, "", "operation has no command"),
        (Task, "Submit\n", "did you mean `submit`"),
    ] {
        let problem = refused(kind, name, b"{}");
        assert_eq!(problem.code(), Some(Code::UnknownCommand), "{name}");
        assert!(problem.detail.contains(hint), "{}", problem.detail);
        assert_eq!(problem.allowed, Command::names(kind));
    }
    let problem = refused(Task, &"x".repeat(1 << 20), b"{}");
    assert!(problem.detail.len() < 200);
}

#[test]
fn an_answer_stays_short_however_long_the_fault() {
    let long = "x".repeat(1 << 20);
    for body in [
        format!(r#"{{"title":"t","retry":"{long}"}}"#),
        format!(r#"{{"title":"t","priority":"{long}"}}"#),
        format!(r#"{{"title":"t","due_at":"{long}"}}"#),
    ] {
        let problem = refused(Task, "submit", body.as_bytes());
        let length = serde_json::to_vec(&problem).expect("written").len();
        assert!(length < 10_000, "{length}");
    }
}

/// A pointer per value would be copied half a million times here.
#[test]
fn long_keys_around_a_long_list_are_checked_in_linear_time() {
    let keys = 60;
    let open = format!("{{\"{}\":", "k".repeat(1_000)).repeat(keys);
    let body = format!("{open}[{}1]{}", "1,".repeat(500_000), "}".repeat(keys));
    let begin = std::time::Instant::now();
    assert_eq!(domain::json::check(body.as_bytes()), Ok(()));
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

#[test]
fn what_is_odd_but_allowed_passes_unharmed() {
    let payload =
        r#"{"n":18446744073709551616,"e":1E2,"f":0.1000,"s":"\u00e9\ud83d\ude00 \"","d":""}"#;
    for (kind, name, body, part) in [
        (Task, "submit", submit(&format!(r#""payload":{payload}"#)), payload),
        (Task, "submit", submit(&format!("\"payload\":\"{}\"", "x".repeat(262_142))), "xxx"),
        (Task, "submit", submit(r#""priority":0"#), r#""priority":"critical""#),
        (Task, "submit", submit(r#""priority":1"#), r#""priority":"high""#),
        (Task, "submit", submit(r#""priority":2"#), r#""priority":"normal""#),
        (Task, "submit", submit(r#""priority":3"#), r#""priority":"low""#),
        (Task, "submit", submit(r#""priority":4"#), r#""priority":"background""#),
        (Task, "submit", submit(r#""priority":"low""#), r#""priority":"low""#),
        (Task, "submit", submit(r#""labels":["b","a"]"#), r#""labels":["b","a"]"#),
        (Task, "submit", submit(r#""labels":{"b":"1","a":""}"#), r#""labels":{"a":"","b":"1"}"#),
        (Task, "submit", submit(r#""labels":{}"#), r#""labels":{}"#),
        (Task, "submit", "{\"title\":\"a\\nb\"}".into(), r#""a\nb""#),
        (Task, "fail", r#"{"lease_token":1,"error":"oom"}"#.into(), r#""retryable":true"#),
        (Task, "cancel", String::new(), "{}"),
        (Task, "cancel", " {\n} ".into(), "{}"),
    ] {
        let command = Command::parse(kind, name, body.as_bytes());
        let command = command.unwrap_or_else(|problem| panic!("{body}: {problem:?}"));
        let written = String::from_utf8(command.body()).expect("UTF-8");
        assert!(written.contains(part), "{written}");
    }
    let nested = format!("{{\"title\":\"t\",\"payload\":{}{}}}", "[".repeat(64), "]".repeat(64));
    assert!(Command::parse(Task, "submit", nested.as_bytes()).is_ok());
}
