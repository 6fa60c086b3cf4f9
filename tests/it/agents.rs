//! Commands as agents: `taffrail agent run` against a whole product.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Product, SOON, product, unique};

/// A running `taffrail agent run`; killed when dropped.
pub struct RunningAgent {
    pub child: Child,
    notices: mpsc::Receiver<Value>,
    /// What it told before what was waited for.
    passed: std::cell::RefCell<Vec<Value>>,
}

impl RunningAgent {
    pub fn start(
        product: &Product,
        name: &str,
        capability: &str,
        more: &[&str],
        script: &str,
    ) -> Self {
        Self::start_with(product, name, capability, more, script, &[])
    }

    /// The same with some environment.
    pub fn start_with(
        product: &Product,
        name: &str,
        capability: &str,
        more: &[&str],
        script: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut arguments = vec!["agent", "run", "--name", name, "--capability", capability];
        arguments.extend(["-o", "jsonl"]);
        if !more.contains(&"--lease-ms") {
            arguments.extend(["--lease-ms", "1500"]);
        }
        arguments.extend(more);
        arguments.extend(["--", "sh", "-c", script]);
        let mut child = product
            .cli(&arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the agent starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, notices) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect("a JSON object per line"));
            }
        });
        let agent = Self { child, notices, passed: std::cell::RefCell::default() };
        agent.wait("agent", "ready");
        agent
    }

    /// The next notice with this word under this name.
    pub fn wait(&self, name: &str, word: &str) -> Value {
        let begin = Instant::now();
        loop {
            let left = SOON.saturating_sub(begin.elapsed());
            let notice = self.notices.recv_timeout(left);
            let notice = notice.unwrap_or_else(|_| panic!("no notice `{name}: {word}`"));
            if notice[name] == word {
                return notice;
            }
            self.passed.borrow_mut().push(notice);
        }
    }

    /// The same, also where it was told before something that was waited for.
    pub fn told(&self, name: &str, word: &str) -> Value {
        let passed = self.passed.borrow().iter().find(|notice| notice[name] == word).cloned();
        passed.unwrap_or_else(|| self.wait(name, word))
    }

    /// Passes over what it has told by now.
    pub fn forget(&self) {
        while self.notices.try_recv().is_ok() {}
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let begin = Instant::now();
        while begin.elapsed() < SOON {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the agent does not end");
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name that no other test uses.
pub fn fresh(word: &str) -> String {
    format!("{word}-{}-{}", std::process::id(), unique())
}

pub fn cli(product: &Product, arguments: &[&str]) -> Output {
    product.cli(arguments).stderr(Stdio::piped()).output().expect("the CLI runs")
}

pub fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error} in {text}\nstderr: {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Submits a task for the agents of a capability; its id.
pub fn submit(product: &Product, capability: &str, more: &[&str]) -> String {
    let mut arguments = vec!["task", "submit", "work", "--capability", capability, "-o", "json"];
    arguments.extend(more);
    let answer = json(&cli(product, &arguments));
    answer["id"].as_str().expect("an id").to_owned()
}

/// The task when it has come to its end, and the exit code that told it.
pub fn end_of(product: &Product, task: &str) -> (Value, Option<i32>) {
    let output = cli(product, &["task", "watch", task, "--timeout", "30", "-o", "json"]);
    (json(&output), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_the_task_on_stdin_and_its_last_line_is_the_result() {
    let product = product().await;
    let capability = fresh("echo");
    let script = r#"read task; echo working >&2; echo "not the result"
        printf '{"task":"%s","attempt":%s,"got":%s}\n' "$TAFFRAIL_TASK_ID" "$TAFFRAIL_ATTEMPT" "$task""#;
    let agent = RunningAgent::start(product, &fresh("echo"), &capability, &[], script);
    let task = submit(product, &capability, &["--payload", r#"{"n":[1,2.50]}"#]);
    let (done, code) = end_of(product, &task);
    assert_eq!((done["state"].as_str(), code), (Some("done"), Some(0)), "{done}");
    assert_eq!(done["result"]["task"], task);
    assert_eq!(done["result"]["attempt"], 1);
    let got = &done["result"]["got"];
    assert_eq!(
        (got["task_id"].as_str(), &got["payload"]["n"][0]),
        (Some(task.as_str()), &1.into())
    );
    assert!(got["lease"]["token"].is_u64(), "{got}");
    assert_eq!(agent.wait("task", "log")["line"], "working");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_error_fails_for_good_and_other_codes_until_the_attempts_are_used_up() {
    let product = product().await;
    let capability = fresh("fail");
    let script =
        r#"case $(cat) in *'"fatal"'*) echo unfit >&2; exit 65;; *) echo boom >&2; exit 7;; esac"#;
    let _agent =
        RunningAgent::start(product, &fresh("fail"), &capability, &["--slots", "2"], script);
    let fatal = submit(product, &capability, &["--payload", r#""fatal""#]);
    let flaky = submit(product, &capability, &["--max-attempts", "3", "--backoff-ms", "10"]);

    let (failed, code) = end_of(product, &fatal);
    assert_eq!((failed["state"].as_str(), code), (Some("failed"), Some(1)), "{failed}");
    assert_eq!((&failed["error"]["exit_code"], &failed["attempt"]), (&65.into(), &1.into()));

    let (dead, code) = end_of(product, &flaky);
    assert_eq!((dead["state"].as_str(), code), (Some("dead"), Some(1)), "{dead}");
    assert_eq!((&dead["error"]["stderr"], &dead["attempt"]), (&"boom".into(), &3.into()));
    let letters = json(&cli(product, &["dead", "list", "--limit", "200", "-o", "json"]));
    let ids: Vec<&Value> =
        letters["items"].as_array().expect("items").iter().map(|t| &t["id"]).collect();
    assert!(ids.contains(&&fatal.as_str().into()) && ids.contains(&&flaky.as_str().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_agent_is_killed_in_the_middle_is_finished_by_another() {
    let product = product().await;
    let capability = fresh("kill");
    let mark = product.data_dir.join(fresh("mark"));
    let script = format!("echo $$ > {}; sleep 60", mark.display());
    let mut first = RunningAgent::start(product, &fresh("first"), &capability, &[], &script);
    let task = submit(product, &capability, &[]);
    first.wait("task", "started");
    let begin = Instant::now();
    while std::fs::read_to_string(&mark).unwrap_or_default().trim().is_empty() {
        assert!(begin.elapsed() < SOON, "the command never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    first.child.kill().expect("it runs");
    first.child.wait().expect("a child of ours");

    let _second =
        RunningAgent::start(product, &fresh("second"), &capability, &[], "echo '\"saved\"'");
    let (done, _) = end_of(product, &task);
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["result"], "saved");
    // The command died with its agent, so that it cannot go on beside the second one.
    let pid = std::fs::read_to_string(&mark).expect("written");
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    assert!(status.is_err() || status.is_ok_and(|stat| stat.contains(") Z ")), "{pid} still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_agent_finishes_what_it_has_and_ends() {
    let product = product().await;
    let (capability, name) = (fresh("drain"), fresh("drain"));
    let script = "sleep 1; echo '\"finished\"'";
    let mut agent = RunningAgent::start(product, &name, &capability, &[], script);
    let running = submit(product, &capability, &[]);
    agent.wait("task", "started");
    let waiting = submit(product, &capability, &[]);
    let drained = cli(product, &["agent", "drain", &name, "--no-wait", "-o", "json"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(agent.exit_code(), Some(0));
    assert_eq!(end_of(product, &running).0["result"], "finished");
    let left = json(&cli(product, &["task", "get", &waiting, "-o", "json"]));
    assert_eq!(left["state"], "queued", "{left}");
    cli(product, &["task", "cancel", &waiting]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_terminated_hands_back_what_it_cannot_finish() {
    let product = product().await;
    let capability = fresh("term");
    let more = ["--drain-timeout", "0.2"];
    let mut agent = RunningAgent::start(product, &fresh("term"), &capability, &more, "sleep 60");
    let task = submit(product, &capability, &[]);
    agent.wait("task", "started");
    agent.signal(Signal::TERM);
    agent.wait("task", "released");
    assert_eq!(agent.exit_code(), Some(0));
    let left = json(&cli(product, &["task", "get", &task, "-o", "json"]));
    assert_eq!(left["state"], "queued", "{left}");
    cli(product, &["task", "cancel", &task]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_can_be_seen_in_lists_events_and_refusals() {
    let product = product().await;
    let queue = fresh("cli");
    let answer = json(&cli(
        product,
        &["task", "submit", "seen", "--queue", &queue, "--capability", &queue, "-o", "json"],
    ));
    let id = answer["id"].as_str().expect("an id");
    let position = answer["position"].as_u64().expect("a position");
    assert_eq!(json(&cli(product, &["task", "get", id, "-o", "json"]))["title"], "seen");
    let listed = cli(product, &["task", "list", "--queue", &queue, "-o", "jsonl"]);
    assert_eq!(json(&listed)["id"], id, "one line for one task");
    let table = cli(product, &["task", "list", "--queue", &queue]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("queued"));

    let after = (position - 1).to_string();
    let follow =
        ["events", "--follow", "--after", &after, "--stream", id, "--limit", "1", "-o", "jsonl"];
    let event = json(&cli(product, &follow));
    assert_eq!(event["type"], "dev.taffrail.task.submitted.v1");
    assert_eq!(event["subject"], id);

    let nobody = "00000000-0000-4000-8000-000000000000";
    let missing = cli(product, &["task", "get", nobody, "-o", "json"]);
    assert_eq!(missing.status.code(), Some(3));
    let problem: Value = serde_json::from_slice(&missing.stderr).expect("a problem document");
    assert_eq!(problem["status"], 404);
    assert_eq!(cli(product, &["task", "cancel", id]).status.code(), Some(0));
    assert_eq!(cli(product, &["task", "cancel", id]).status.code(), Some(1), "refused");
    let refused = cli(product, &["task", "submit", "x", "--priority", "urgent"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("priority"), "{refused:?}");
    let mut wrong = product.cli(&["task", "list"]);
    assert_eq!(wrong.env("TAFFRAIL_TOKEN", "wrong").output().expect("runs").status.code(), Some(5));
    let mut away = product.cli(&["task", "list"]);
    let away = away.env("TAFFRAIL_URL", "http://127.0.0.1:1").output().expect("runs");
    assert_eq!(away.status.code(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_says_on_stderr_can_be_followed() {
    let product = product().await;
    let name = fresh("talker");
    let script = "while :; do echo tick >&2; sleep 0.1; done";
    let agent = RunningAgent::start(product, &name, &name, &[], script);
    let task = submit(product, &name, &[]);
    agent.wait("task", "started");
    let mut logs = product
        .cli(&["agent", "logs", &name, "-f", "-o", "jsonl"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the CLI starts");
    let mut line = String::new();
    BufReader::new(logs.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    logs.kill().expect("it follows until it is ended");
    logs.wait().expect("a child of ours");
    let line: Value = serde_json::from_str(&line).expect("a JSON object per line");
    assert_eq!((&line["line"], &line["task_id"]), (&"tick".into(), &task.as_str().into()));
    cli(product, &["task", "cancel", &task]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_a_name_is_turned_away_and_the_first_goes_on() {
    let product = product().await;
    let (name, capability) = (fresh("twin"), fresh("twin"));
    let mut first = RunningAgent::start(product, &name, &capability, &[], "echo 1");
    let second = cli(
        product,
        &["agent", "run", "--name", &name, "--capability", &capability, "--", "sh", "-c", "echo 2"],
    );
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("is running already"), "{said}");
    let task = submit(product, &capability, &[]);
    let (done, _) = end_of(product, &task);
    assert_eq!((&done["state"], &done["result"]), (&"done".into(), &1.into()), "{done}");

    // After a kill there is nobody to answer, and the name is free at once.
    first.signal(Signal::KILL);
    first.exit_code();
    let _third = RunningAgent::start(product, &name, &capability, &[], "echo 3");
    let task = submit(product, &capability, &[]);
    assert_eq!(end_of(product, &task).0["result"], 3);
}
