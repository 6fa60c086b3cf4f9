//! Real events for the corpus: commands sent through the aggregates, with bodies that
//! say as little as possible, as much as possible, and odd things.

use chrono::TimeDelta;
use domain::{Aggregate, Command, Event, StreamType};

use crate::support::{at, facts};

/// Bodies that say only what they must, all there is, or what is hard to write.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    Bare,
    Full,
    Odd,
}

/// Lives that between them meet every event; `~` lets the lease run out before, `due` gives a
/// task a time to be done by.
const LIVES: &[(StreamType, &str)] = &[
    (
        StreamType::Task,
        "submit update assign start progress extend block unblock submit_for_review reject \
         assign release assign unassign assign reassign start fail assign submit_for_review \
         approve archive",
    ),
    (StreamType::Task, "submit assign ~expire_lease assign fail! requeue cancel archive"),
    (StreamType::Task, "submit assign complete archive"),
    (StreamType::Task, "submit due ~mark_overdue cancel"),
    (StreamType::Task, "submit ~escalate assign start block ~escalate cancel"),
    (
        StreamType::Task,
        "submit assign start fail assign start fail assign start fail requeue assign fail! discard",
    ),
    (
        StreamType::Agent,
        "register update mark_ready begin_round end_round report drain mark_ready hibernate \
         begin_round force_stop restart \
         register retire report",
    ),
    (
        StreamType::Agent,
        "managed deploy validate place observe/started observe/warming observe/ready assess drift \
         register drain hand_back observe/terminating observe/exited deploy place \
         observe/start_failed schedule_restart quarantine observe/lost",
    ),
    (StreamType::Operation, "accept start progress succeed"),
    (StreamType::Operation, "accept fail"),
    (StreamType::Operation, "accept cancel"),
    (StreamType::Crew, "assemble assign_role disband"),
    (StreamType::Schedule, "create update pause resume trigger ~skip ~fire report_failure delete"),
    (StreamType::Queue, "configure pause resume drain pause"),
    (StreamType::Node, "register drain resume assess register retire"),
    (StreamType::Profile, "put delete"),
];

/// Every event of every life in every style, in order.
pub fn samples() -> Vec<Event> {
    let mut all = Vec::new();
    for style in [Style::Bare, Style::Full, Style::Odd] {
        for (kind, life) in LIVES {
            all.extend(live(*kind, life, style));
        }
    }
    all.extend(DECIDED.iter().map(|payload| {
        Event::decode(StreamType::Task, "assigned", 1, payload.as_bytes()).expect("an event")
    }));
    all
}

/// What the scheduler alone may say: how it came to an assignment.
const DECIDED: &[&str] = &[
    r#"{"agent_id":"0192f0c0-0000-7000-8000-000000000001","attempt":1,"lease_token":1,
    "lease_expires_at":"2026-01-01T00:00:30Z","queue":"default","decision":{"session":7,"nth":1,
    "seen":12,"at":"2026-01-01T00:00:00.000001Z",
    "agent_id":"0192f0c0-0000-7000-8000-000000000001","choice":"queue",
    "candidates":[{"id":"0192f0c0-0000-7000-8000-0000000000aa","score":-33554432}],"of":1}}"#,
    r#"{"agent_id":"0192f0c0-0000-7000-8000-000000000001","attempt":1,"lease_token":1,
    "lease_expires_at":"2026-01-01T00:00:30Z","queue":"default","reason":"it fits",
    "decision":{"session":7,"nth":3,"seen":14,"at":"2026-01-01T00:00:01Z",
    "agent_id":"0192f0c0-0000-7000-8000-000000000001","choice":"listeners",
    "candidates":[{"id":"0192f0c0-0000-7000-8000-000000000001","score":50},
    {"id":"0192f0c0-0000-7000-8000-000000000002","score":-51}],"of":9,
    "rejected":{"capability":1,"label":2,"sticky":3},"learnt":[
    {"lost":{"nth":2,"task":"0192f0c0-0000-7000-8000-0000000000aa",
    "agent":"0192f0c0-0000-7000-8000-000000000002","seen":13,"at":"2026-01-01T00:00:00.5Z",
    "before":3,"after":14,"rest":"2026-01-01T00:00:01.5Z"}},
    {"found":{"task":"0192f0c0-0000-7000-8000-0000000000ab","state":"done","before":3,
    "after":13}}]}}"#,
];

fn live(kind: StreamType, life: &str, style: Style) -> Vec<Event> {
    let mut state = Aggregate::new(kind);
    let mut now = at(0) + TimeDelta::microseconds(123_457 * (style as i64 + 1));
    let mut all = Vec::new();
    for word in life.split_whitespace() {
        let name = word.trim_matches(['~', '!']);
        now += if word.starts_with('~') {
            TimeDelta::days(2)
        } else {
            TimeDelta::microseconds(1_234_567)
        };
        let (name, body) = match name {
            "managed" => {
                let new = required(kind, "register", 0, style);
                ("register", format!(r#"{{{new},"profile":"small","slots":2}}"#))
            }
            "due" => ("update", format!(r#"{{"due_at":"2026-01-01T00:00:1{}Z"}}"#, style as u8)),
            name => (name, body(&state, kind, name, style, word.ends_with('!'))),
        };
        let (name, body) = match name.split_once('/') {
            Some((name, phase)) => (name, observed(&state, phase, style)),
            None => (name, body),
        };
        let command = Command::parse(kind, name, body.as_bytes());
        let command = command.unwrap_or_else(|problem| panic!("{kind} {word}: {problem:?}"));
        let events = state.decide(&command, &facts(now));
        for event in events.unwrap_or_else(|refusal| panic!("{kind} {word}: {refusal:?}")) {
            state.apply(&event);
            all.push(event);
        }
    }
    all
}

fn body(state: &Aggregate, kind: StreamType, name: &str, style: Style, hopeless: bool) -> String {
    let token = match state {
        Aggregate::Task(task) => task.tokens,
        Aggregate::Agent(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Schedule(_)
        | Aggregate::Queue(_)
        | Aggregate::Node(_)
        | Aggregate::Profile(_) => 0,
    };
    let place = match state {
        Aggregate::Schedule(schedule) => match schedule.next_run() {
            Some(slot) => format!(r#""slot_at":"{}""#, slot.to_rfc3339()),
            None => format!(r#""position":{}"#, schedule.event_cursor + 7),
        },
        Aggregate::Task(_)
        | Aggregate::Agent(_)
        | Aggregate::Operation(_)
        | Aggregate::Crew(_)
        | Aggregate::Queue(_)
        | Aggregate::Node(_)
        | Aggregate::Profile(_) => String::new(),
    };
    let must = match (kind, name) {
        (StreamType::Schedule, "fire" | "skip") => place,
        _ => required(kind, name, token, style),
    };
    let more = match style {
        Style::Bare if (kind, name) == (StreamType::Schedule, "skip") => r#""reason":"overlap""#,
        Style::Bare => "",
        Style::Full => full(kind, name),
        Style::Odd => odd(kind, name),
    };
    let retryable = if hopeless { r#""retryable":false"# } else { "" };
    let fields = [must.as_str(), more, retryable];
    let fields: Vec<&str> = fields.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{{{}}}", fields.join(","))
}

/// What a node says of the process that the agent has, or had.
fn observed(state: &Aggregate, phase: &str, style: Style) -> String {
    let Aggregate::Agent(agent) = state else { panic!("nothing to observe") };
    let process = agent.process.as_ref().expect("a process");
    let (node, generation, seq) = (process.node_id, process.generation, process.seq + 1);
    let more = match style {
        Style::Bare => "",
        Style::Full => {
            r#","pid":4711,"detail":"step 1 of 2","exit":{"code":137,"signal":9,
            "out_of_memory":true,"cpu_ms":12,"max_rss_bytes":1048576,"wall_ms":99,
            "output_bytes":7,"dropped_bytes":1}"#
        }
        Style::Odd => r#","permanent":true,"detail":"ñ\n🦀","exit":{"out_of_time":true}"#,
    };
    format!(
        r#"{{"node_id":"{node}","generation":{generation},"seq":{seq},"phase":"{phase}"{more}}}"#
    )
}

fn required(kind: StreamType, name: &str, token: u64, style: Style) -> String {
    let n = style as u8 + 1;
    let word = ["a", "night shift", "ñandú “ΩΩ” \\\"/\\\\ \\n\\t 🦀"][style as usize];
    let agent = format!(r#""agent_id":"0192f0c0-0000-7000-8000-00000000000{n}""#);
    match (kind, name) {
        (StreamType::Task, "submit") => format!(r#""title":"{word}""#),
        (StreamType::Task, "update") => {
            [r#""title":"b""#, r#""priority":"high""#, r#""due_at":null"#][style as usize].into()
        }
        (StreamType::Task, "assign" | "reassign") => agent,
        (StreamType::Task, "block") => format!(r#""reason":"{word}""#),
        (StreamType::Task, "escalate") => format!(
            r#""since":"2026-01-01T00:00:0{token}Z","due_at":"2026-01-01T00:00:0{n}Z",
            "path":["0192f0c0-0000-7000-8000-00000000000{n}"]"#
        ),
        (
            StreamType::Task,
            "start" | "progress" | "complete" | "fail" | "extend" | "release" | "expire_lease",
        ) => format!(r#""lease_token":{token}"#),
        (StreamType::Agent, "register") => format!(r#""name":"{word}""#),
        (StreamType::Agent, "update") => format!(r#""slots":{n}"#),
        (StreamType::Agent, "report") => {
            let seen = ["degraded", "unhealthy", "blocked"][style as usize];
            format!(r#""observed_state":"{seen}""#)
        }
        (StreamType::Agent, "assess") => {
            let state = ["degraded", "unhealthy", "blocked"][style as usize];
            format!(r#""state":"{state}","reason":"{word}""#)
        }
        (StreamType::Agent, "validate") => format!(r#""reason":"{word}""#),
        (StreamType::Agent, "place") => format!(
            r#""node_id":"0192f0c0-0000-7000-8000-00000000000{n}","node":"{word}",
            "launch":{{"role":"worker","slots":{n},"profile":{{"command":["run","{word}"]}}}}"#
        ),
        (StreamType::Agent, "schedule_restart") => {
            format!(r#""delay_ms":{n},"attempt":{n},"reason":"{word}""#)
        }
        (StreamType::Agent, "quarantine") => {
            format!(r#""restarts":{n},"window_ms":60000,"reason":"{word}""#)
        }
        (StreamType::Agent, "hand_back") => format!(r#""tasks":{n},"waited_ms":30000"#),
        (StreamType::Agent, "drift") => {
            let state = ["open", "escalated", "healed"][style as usize];
            let owner = ["node", "managers", "operator"][style as usize];
            format!(r#""state":"{state}","desired":"ready","age_ms":{n},"owner":"{owner}""#)
        }
        (StreamType::Node, "register") => format!(
            r#""name":"{word}","capacity":{{"cpu_millis":2000,"memory_bytes":1073741824,"slots":{n}}}"#
        ),
        (StreamType::Node, "assess") => format!(r#""state":"offline","reason":"{word}""#),
        (StreamType::Profile, "put") => {
            let most = r#"{"extends":"base","description":"d","tier":"premium","runtime":"docker",
            "image":"i:1","mode":"per_task","command":["a","b"],"env":{"A":"b"},
            "secrets":{"key":{"file":"a/b"},"token":{"nats":"t"}},"workdir":"/workspace/x",
            "resources":{"cpu_millis":500,"memory_bytes":67108864,"disk_bytes":1048576,"pids":32,
            "open_files":64,"output_bytes":4096,"wall_ms":60000},
            "probes":{"liveness":{"http":{"port":80}},"readiness":{"tcp":{"port":81},"period_ms":500},
            "startup":{"exec":{"command":"true"},"failure_threshold":30}},
            "warm_up":{"steps":[{"kind":"model_load","command":["load"],"timeout_ms":5000},
            {"kind":"connection_check","tcp":{"port":82}}],"timeout_ms":30000},
            "sandbox":{"level":"process","network":"host","read_only":["/opt"]},
            "restart":{"policy":"on_failure","max":3},
            "watch":{"unhealthy_after_ms":5000,"restart_after_ms":6000,"stall_ms":7000},
            "stop":{"drain_ms":0,"grace_ms":100},"start_timeout_ms":9000,"hibernate_after_ms":0,
            "placement":{"strategy":"spread","labels":["gpu","zone=eu"],"node":"n"}}"#;
            let odd =
                r#"{"command":"echo 'ñ\u2028'","probes":{"liveness":{"nats":{},"jitter":1}}}"#;
            let profile = ["{}", most, odd][style as usize];
            format!(r#""name":"p-{n}","profile":{profile}"#)
        }
        (StreamType::Profile, _) => format!(r#""name":"p-{n}""#),
        (StreamType::Operation, "accept") => {
            format!(r#""kind":"agent.drain","resource":{{"type":"agent","id":"{word}"}}"#)
        }
        (StreamType::Operation, "progress") => format!(r#""done":{n}"#),
        (StreamType::Operation, "fail") => {
            let mut problem = domain::Problem::new(domain::Code::NotPossible, "");
            if style != Style::Bare {
                problem.detail = format!("no room on {n} nodes");
                problem.retry_after_ms = Some(250);
                problem.errors.push(domain::FieldError::new("/a~1b", "odd", "ñ"));
            }
            format!(r#""problem":{}"#, domain::Json::of(&problem).as_str())
        }
        (StreamType::Schedule, "create") => {
            let when = [
                r#""interval_ms":60000"#,
                r#""cron":"30 2 * * 1-5","timezone":"Europe/Berlin""#,
                r#""on_event":{"type":"task.completed"}"#,
            ][style as usize];
            format!(r#""name":"{word}",{when},"task":{{"title":"{word}"}}"#)
        }
        (StreamType::Schedule, "update") => [
            r#""name":"b""#,
            r#""timezone":"America/New_York""#,
            r#""on_event":{"type":"task.failed","filter":"event.payload.class == 'ñ\\n'"}"#,
        ][style as usize]
            .into(),
        (StreamType::Schedule, "report_failure") => {
            let mut problem = domain::Problem::new(domain::Code::InvalidBody, "");
            problem.detail = ["", "too large", "ñ\n🦀"][style as usize].into();
            format!(r#""run":{},"problem":{}"#, n.min(2), domain::Json::of(&problem).as_str())
        }
        (StreamType::Crew, "assemble") => format!(r#""name":"{word}","agents":[{n}]"#),
        (StreamType::Crew, "assign_role") => format!(r#"{agent},"role":"role-{n}""#),
        (StreamType::Queue, _) => format!(r#""queue":"q-{n}""#),
        _ => String::new(),
    }
}

fn full(kind: StreamType, name: &str) -> &'static str {
    match (kind, name) {
        (StreamType::Schedule, "create") => {
            r#""misfire":"run_all","misfire_limit":7,"grace_ms":5000,"overlap":"queue""#
        }
        (StreamType::Schedule, "update") => {
            r#""task":{"title":"x","payload":{"run":"{{run}}","slot":"{{slot_at}}"},
            "labels":{"a":"b"},"retry":{"max_attempts":1}},"overlap":"skip""#
        }
        (StreamType::Schedule, "skip") => r#""reason":"misfire""#,
        (StreamType::Schedule, "fire" | "report_failure") => "",
        (StreamType::Task, "submit") => {
            r#""description":"at length","type":"render","queue":"gpu","priority":"critical",
            "payload":{"frames":[1,2,3],"final":true},"capabilities":["cuda","rust"],
            "labels":{"zone":"eu","team":"film"},"assignees":["ada"],
            "parent_id":"0192f0c0-0000-7000-8000-0000000000aa",
            "depends_on":["0192f0c0-0000-7000-8000-0000000000ab"],
            "dependency":{"need":"any","on":"end"},
            "due_at":"2026-06-01T12:00:00Z","run_at":"2026-01-01T00:00:00.5Z",
            "concurrency_key":"film-7","estimate_ms":90000,"stall_ms":60000,
            "attachments":[{"name":"script","url":"s3://b/script","media_type":"text/plain"}],
            "acceptance_criteria":["it plays"],"deliverables":["a film"],
            "affinity":{"required":[{"label":"zone","in":["eu"]}],"excluded":[{"label":"spot"}],
            "preferred":[{"label":"gpu","points":-5}],"apart_from":["previous"],"max_cost":9,
            "sticky":{"to":"parent","label":"node","wait_ms":500}},
            "retry":{"max_attempts":3,"backoff_ms":500,"backoff_max_ms":9000,"retryable":["net"]}"#
        }
        (StreamType::Task, "update") => {
            r#""description":"anew","payload":[1],"capabilities":["cuda"],"labels":["a","b"],
            "assignees":["bob"],"due_at":"2026-07-01T00:00:00Z","run_at":null"#
        }
        (StreamType::Task, "assign" | "reassign") => r#""lease_ms":60000,"reason":"it fits""#,
        (StreamType::Task, "progress") => {
            r#""percent":42.5,"message":"half way","data":{"frame":21}"#
        }
        (StreamType::Task, "complete" | "submit_for_review") => r#""result":{"url":"s3://b/k"}"#,
        (StreamType::Task, "fail") => r#""error":{"exit":137},"class":"net","retry_after_ms":1500"#,
        (StreamType::Task, "extend") => r#""lease_ms":90000"#,
        (StreamType::Task, "block") => r#""lifted_by":["test"]"#,
        (StreamType::Task, "cancel") => r#""reason":"so it was decided","cascade":false"#,
        (StreamType::Task, "escalate") => r#""head_state":"review""#,
        (StreamType::Task, "start" | "expire_lease") => "",
        (StreamType::Task, "requeue") => r#""reason":"mended","changes":{"priority":"high"}"#,
        (StreamType::Agent, "register") => {
            r#""role":"coder","capabilities":["rust"],"labels":["gpu"],"slots":4,
            "memory_context":"likes tests","profile":{"command":["run"]},"version":"1.2.3",
            "endpoint":"http://localhost:9","ttl_ms":5000,"cost":7,
            "watch":{"unhealthy_after_ms":5000,"stall_ms":60000},
            "rounds":{"cron":"0 9 * * 1-5","timezone":"Europe/Berlin","on":["task.failed"]}"#
        }
        (StreamType::Agent, "update") => {
            r#""role":"lead","capabilities":["review"],"labels":{"a":"b"},"memory_context":"m",
            "watch":{"restart_after_ms":5000},"profile":"large","rounds":{"every_ms":60000}"#
        }
        (
            StreamType::Agent,
            "validate" | "assess" | "schedule_restart" | "quarantine" | "hand_back",
        )
        | (StreamType::Profile, _)
        | (StreamType::Node, "assess") => "",
        (StreamType::Agent, "place") => {
            r#""candidates":[{"node_id":"0192f0c0-0000-7000-8000-000000000001","name":"a","left":250},
            {"node_id":"0192f0c0-0000-7000-8000-000000000002","name":"b","rejected":"memory"}]"#
        }
        (StreamType::Agent, "drift") => r#""observed":"exited""#,
        (StreamType::Agent, "begin_round") => {
            r#""cause":"schedule","reason":"it is time","tasks":["0192f0c0-0000-7000-8000-0000000000aa"]"#
        }
        (StreamType::Agent, "end_round") => r#""summary":"two done""#,
        (StreamType::Agent, "drain") => r#""reason":"so it was decided","timeout_ms":5000"#,
        (StreamType::Node, "register") => {
            r#""labels":{"zone":"eu"},"level":"process","runtimes":["process","docker"],
            "version":"1.2.3""#
        }
        (StreamType::Operation, "accept") => {
            r#""input":{"dry":true},"command":{"type":"agent",
            "id":"0192f0c0-0000-7000-8000-000000000001","command":"drain",
            "command_id":"0192f0c0-0000-7000-8000-0000000000cc","body":{"reason":"night"},
            "expected_version":3}"#
        }
        (StreamType::Operation, "progress") => r#""total":10,"message":"two of ten""#,
        (StreamType::Operation, "succeed") => r#""result":{"drained":4}"#,
        (StreamType::Operation, "fail") | (StreamType::Crew, "assemble" | "assign_role") => "",
        (StreamType::Queue, "configure") => {
            r#""policy":{"mode":"strict","weights":{"critical":5,"low":1},"aging_ms":60000,
            "weight":3,"scoring":{"load":0,"sticky":4},"limits":[{"key":"queue","max_running":10,"guaranteed":2},
            {"key":"task.labels.customer","rate":{"per_s":2.5,"burst":10}}]}"#
        }
        _ => r#""reason":"so it was decided""#,
    }
}

fn odd(kind: StreamType, name: &str) -> &'static str {
    match (kind, name) {
        (StreamType::Schedule, "create") => r#""misfire":"skip","grace_ms":86400000"#,
        (StreamType::Schedule, "update") => {
            r#""task":{"title":"x","payload":["{{event.payload.a}}",18446744073709551617]}"#
        }
        (StreamType::Schedule, "skip") => r#""reason":"too_many""#,
        (StreamType::Schedule, "fire" | "report_failure") => "",
        (StreamType::Task, "submit") => {
            r#""payload":{"big":18446744073709551617,"tiny":1e-300,"kept":1.0E+2,
            "esc":"\u00e9\/\ud83e\udd80","":null},"labels":{"a/b~c":""},"priority":4,
            "due_at":"9999-12-31T23:59:59.999999+00:00","retry":{"backoff_ms":0}"#
        }
        (StreamType::Task, "update") => r#""description":null,"payload":null,"labels":{}"#,
        (StreamType::Task, "assign" | "reassign") => r#""lease_ms":86400000,"reason":"""#,
        (StreamType::Task, "progress") => r#""percent":33.333333333333336,"data":-0.0"#,
        (StreamType::Task, "complete" | "submit_for_review") => r#""result":[[[]],{},"\u2028"]"#,
        (StreamType::Task, "fail") => r#""error":"line 1\nline 2\ttab","class":"""#,
        (StreamType::Task, "extend") => r#""lease_ms":1000"#,
        (StreamType::Task, "start" | "block" | "expire_lease" | "escalate") => "",
        (StreamType::Agent, "register") => r#""profile":"small","labels":{},"memory_context":"""#,
        (StreamType::Agent, "update") => r#""capabilities":[],"memory_context":"\u2028\n""#,
        (
            StreamType::Agent,
            "validate" | "assess" | "schedule_restart" | "quarantine" | "hand_back",
        )
        | (StreamType::Profile, _)
        | (StreamType::Node, "assess") => "",
        (StreamType::Agent, "place" | "drift") => "",
        (StreamType::Agent, "begin_round") => r#""cause":"event""#,
        (StreamType::Agent, "end_round") => r#""summary":"ñ\n🦀""#,
        (StreamType::Node, "register") => r#""labels":["a"],"runtimes":[]"#,
        (StreamType::Operation, "accept") => r#""input":[18446744073709551617]"#,
        (StreamType::Operation, "progress") => r#""total":18446744073709551615,"message":"ñ\n🦀""#,
        (StreamType::Operation, "succeed") => r#""result":1.50"#,
        (StreamType::Operation, "fail") | (StreamType::Crew, "assemble" | "assign_role") => "",
        (StreamType::Queue, "configure") => {
            r#""policy":{"limits":[{"key":"task.title + \"ñ\u2028\"","rate":{"per_s":0.0001}}]}"#
        }
        _ => r#""reason":"“so” \\ it\nwas 🦀""#,
    }
}
