//! A small fleet at work, from submission to every kind of end. Off by default:
//! `cargo test -p taffrail --features smoke --test it smoke`. TST-2.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::agents::{RunningAgent, cli, end_of, fresh, json, submit};
use crate::support::{Product, SOON, run_dir, start_product, unique};

/// Does what its payload says.
const SCRIPT: &str = r#"case $(cat) in
    *'"fail"'*) echo no >&2; exit 7;;
    *'"hang"'*) if [ "$TAFFRAIL_ATTEMPT" = 1 ]; then sleep 60; fi; echo '"late"';;
    *) echo '"fine"';;
esac"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_simulated_agents_bring_every_task_to_its_end() {
    let product = start_product(run_dir().join(format!("smoke-{}", unique())), &[]);
    let capability = fresh("smoke");
    let agent = |name: &str| {
        RunningAgent::start(&product, &fresh(name), &capability, &["--slots", "2"], SCRIPT)
    };
    let (first, second) = (agent("first"), agent("second"));

    let plain: Vec<String> = (0..20).map(|_| submit(&product, &capability, &[])).collect();
    let failing = ["--payload", r#""fail""#, "--max-attempts", "2", "--backoff-ms", "50"];
    let failing = submit(&product, &capability, &failing);
    for task in &plain {
        assert_eq!(end_of(&product, task).0["result"], "fine");
    }
    let dead = end_of(&product, &failing).0;
    assert_eq!((&dead["state"], &dead["attempt"]), (&"dead".into(), &2.into()), "{dead}");

    // Time-out: whoever has it stands still past its lease; the other one does it.
    let hanging = submit(&product, &capability, &["--payload", r#""hang""#]);
    let holder = holder_of(&product, &hanging);
    let of_holder = |name: &str| if name.starts_with("first") { &first } else { &second };
    let stopped = of_holder(&holder);
    stopped.signal(Signal::STOP);
    let done = end_of(&product, &hanging).0;
    assert_eq!((&done["result"], &done["attempt"]), (&"late".into(), &2.into()), "{done}");
    assert_ne!(name_of(&product, &done["agent_id"]), holder);
    stopped.signal(Signal::CONT);

    // Crash: one is killed with a task in hand.
    let crashing = submit(&product, &capability, &["--payload", r#""hang""#]);
    of_holder(&holder_of(&product, &crashing)).signal(Signal::KILL);
    let done = end_of(&product, &crashing).0;
    assert_eq!((&done["result"], &done["attempt"]), (&"late".into(), &2.into()), "{done}");

    let report = json(&cli(&product, &["replay", "verify-decisions", "-o", "json"]));
    assert_eq!((&report["different"], &report["unknown"]), (&Value::from(0), &Value::from(0)));
}

fn name_of(product: &Product, agent: &Value) -> String {
    let agents = json(&cli(product, &["agent", "list", "-o", "json"]));
    let named = agents["items"].as_array().unwrap().iter().find(|a| a["id"] == *agent);
    named.unwrap()["name"].as_str().unwrap().to_owned()
}

/// The name of the agent that works on a task.
fn holder_of(product: &Product, task: &str) -> String {
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        let task = json(&cli(product, &["task", "get", task, "-o", "json"]));
        if task["state"] == "in_progress" {
            return name_of(product, &task["agent_id"]);
        }
    }
    panic!("nobody works on {task}");
}
