//! The Python example, as anybody would run it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::agents::{cli, end_of, fresh, json, submit};
use crate::support::{Product, SOON, product};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A Python with the example's one package.
fn python() -> String {
    let made = Command::new(root().join("ops/scripts/python-env"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(made.status.success(), "no Python: it needs python3 with pip");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

struct Example(Child);

impl Example {
    fn start(product: &Product, python: &str, name: &str, capability: &str) -> Self {
        let mut child = Command::new(python)
            .arg(root().join("broker/agent/examples/python/agent.py"))
            .args([name, capability])
            .env("TAFFRAIL_NATS_URL", &product.nats_url)
            .env("TAFFRAIL_NATS_TOKEN", &product.nats_token)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready "), "{line}");
        Self(child)
    }

    fn ends(&mut self) -> Option<i32> {
        let begin = Instant::now();
        while begin.elapsed() < SOON {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the example does not end");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_stays_short() {
    let text = std::fs::read_to_string(root().join("broker/agent/examples/python/agent.py"));
    let lines = text.unwrap().lines().count();
    assert!(lines < 80, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_works_on_tasks_and_leaves_when_it_is_told_to() {
    let product = product().await;
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let (name, capability) = (fresh("python"), fresh("python"));
    let mut agent = Example::start(product, &python, &name, &capability);
    let good = submit(product, &capability, &["--payload", r#"{"numbers":[1,2,39]}"#]);
    let bad = submit(product, &capability, &["--payload", r#"{"numbers":"none"}"#]);
    let (done, _) = end_of(product, &good);
    assert_eq!((&done["state"], &done["result"]["sum"]), (&"done".into(), &42.into()), "{done}");
    assert_eq!(done["progress"]["percent"], 100.0, "{done}");
    let (failed, _) = end_of(product, &bad);
    assert_eq!((&failed["state"], &failed["attempt"]), (&"failed".into(), &1.into()), "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("TypeError"), "{failed}");

    // Another process of its name is turned away by it.
    let twin = cli(product, &["agent", "run", "--name", &name, "--", "true"]);
    assert!(String::from_utf8_lossy(&twin.stderr).contains("is running already"), "{twin:?}");

    let drained = cli(product, &["agent", "drain", &name, "--no-wait", "-o", "json"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(agent.ends(), Some(0));
    let shown = json(&cli(product, &["agent", "get", &name, "-o", "json"]));
    assert_eq!(shown["state"], "offline", "{shown}");

    // The same name is the same agent, and SIGTERM ends it as well.
    let mut again = Example::start(product, &python, &name, &capability);
    let task = submit(product, &capability, &["--payload", r#"{"numbers":[7]}"#]);
    assert_eq!(end_of(product, &task).0["result"]["sum"], 7);
    kill_process(Pid::from_child(&again.0), Signal::TERM).unwrap();
    assert_eq!(again.ends(), Some(0));
    let same = json(&cli(product, &["agent", "get", &name, "-o", "json"]));
    assert_eq!(same["id"], shown["id"]);
}
