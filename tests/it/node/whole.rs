//! Nodes of a whole product: real managers say what runs.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fake::{NodeProcess, alive, end_agents, folder};
use crate::agents::{end_of, fresh, submit};
use crate::support::{
    Api, Process, Product, TAFFRAIL, product, run_dir, said, start_product, until,
};

/// A node of the shared product, and what its tests ask for.
pub struct Fleet {
    pub product: &'static Product,
    pub api: Api,
    pub node: NodeProcess,
    pub name: String,
}

impl Fleet {
    pub async fn new(more: &[&str]) -> Self {
        let product = product().await;
        let (name, dir) = (fresh("host"), folder());
        let node = start(product, &name, &dir, more);
        Self { api: Api::new(&product.http, &product.token), product, node, name }
    }

    /// The daemon again, on the same folder.
    fn again(&mut self, more: &[&str]) {
        let next = start(self.product, &self.name, &self.node.dir, more);
        // Dropped, it would end the agents.
        std::mem::forget(std::mem::replace(&mut self.node, next));
    }

    /// Describes an agent for this node; its id.
    pub async fn describe(&self, name: &str, mut profile: Value, capability: &str) -> String {
        profile["placement"] = json!({ "node": self.name });
        let body = json!({ "name": name, "profile": profile, "capabilities": [capability] });
        let (status, made) = self.api.post("/v1/agents", &body).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    pub async fn command(&self, agent: &str, command: &str) {
        let (status, answer) =
            self.api.post(&format!("/v1/agents/{agent}/{command}"), &json!({})).await;
        assert_eq!(status, 202, "{answer}");
    }

    pub async fn get(&self, agent: &str) -> Value {
        self.api.get(&format!("/v1/agents/{agent}")).await.1
    }

    /// Waits until the agent is in a state in some generation.
    pub async fn is(&self, agent: &str, state: &str, generation: u64) -> Value {
        let mut last = Value::Null;
        let what = format!("the agent is {state} in generation {generation}");
        until(&what, async || {
            last = self.get(agent).await;
            // Whoever is ready may be given a task that any agent can do.
            let fits = last["state"] == state || state == "ready" && last["state"] == "busy";
            fits && last["process"]["generation"] == generation
        })
        .await;
        last
    }

    /// An agent that was described and is ready.
    pub async fn deploy(&self, name: &str, profile: Value, capability: &str) -> (String, Value) {
        let agent = self.describe(name, profile, capability).await;
        self.command(&agent, "deploy").await;
        let ready = self.is(&agent, "ready", 1).await;
        (agent, ready)
    }

    pub async fn retire(&self, agent: &str) {
        self.command(agent, "retire").await;
        until("its process is gone", async || {
            self.get(agent).await["process"]["phase"] == "exited"
        })
        .await;
    }
}

fn start(product: &Product, name: &str, dir: &Path, more: &[&str]) -> NodeProcess {
    let folder = dir.display().to_string();
    let mut arguments = vec!["node", "--output", "json", "--data-dir", &folder, "--name", name];
    arguments.extend(more);
    let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
    let environment = [
        ("TAFFRAIL_NATS_URL", product.nats_url.as_str()),
        ("TAFFRAIL_NATS_TOKEN", &product.nats_token),
    ];
    let process = Process::start("node", &arguments, &environment);
    let ready = process.ready();
    let line = ready.iter().find(|line| line["ready"] == "node").unwrap();
    NodeProcess {
        dir: dir.to_owned(),
        id: said(&ready, "node", "id").parse().unwrap(),
        found: line["agents"].as_u64().unwrap(),
        process,
    }
}

pub fn pid(agent: &Value) -> u32 {
    agent["process"]["pid"].as_u64().unwrap() as u32
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

/// What a profile needs to run our own program inside.
pub fn own_program() -> String {
    Path::new(TAFFRAIL).parent().unwrap().display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_runs_again_within_five_seconds() {
    let fleet = Fleet::new(&[]).await;
    let sleeper = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 500 } });
    let begin = Instant::now();
    let (agent, ready) = fleet.deploy(&fresh("killed"), sleeper, "none").await;
    eprintln!("ready {} ms after it was described", begin.elapsed().as_millis());
    let first = pid(&ready);
    kill(first);
    let killed = Instant::now();
    let again = fleet.is(&agent, "ready", 2).await;
    let took = killed.elapsed();
    eprintln!("ready again {} ms after the kill", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(pid(&again) != first && alive(pid(&again)) && !alive(first));
    fleet.retire(&agent).await;
    assert!(!alive(pid(&again)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_takes_its_agents_over_in_the_same_generation() {
    let mut fleet = Fleet::new(&[]).await;
    let sleeper = json!({ "command": ["sleep", "600"], "stop": { "grace_ms": 500 } });
    let (agent, ready) = fleet.deploy(&fresh("adopted"), sleeper, "none").await;
    fleet.node.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.again(&[]);
    assert_eq!(fleet.node.found, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let still = fleet.is(&agent, "ready", 1).await;
    assert_eq!(pid(&still), pid(&ready));
    assert!(alive(pid(&still)));
    // One that died while nobody looked is started again.
    fleet.node.kill();
    kill(pid(&ready));
    fleet.again(&[]);
    fleet.is(&agent, "ready", 2).await;
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_missing_is_not_tried_again() {
    let fleet = Fleet::new(&[]).await;
    let profile = json!({ "command": ["no-such-program-here"] });
    let agent = fleet.describe(&fresh("missing"), profile, "none").await;
    fleet.command(&agent, "deploy").await;
    let failed = fleet.is(&agent, "failed", 1).await;
    assert_eq!(failed["process"]["phase"], "start_failed", "{failed}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.get(&agent).await["process"]["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_network_works_through_the_nodes_socket() {
    let mut fleet = Fleet::new(&[]).await;
    let capability = fresh("cut-off");
    // It can reach nothing but the socket, and says so in its result.
    let script = "cat >/dev/null; if (echo > /dev/tcp/127.0.0.1/22) 2>/dev/null; then n=1; else n=0; fi; \
                  echo \"{\\\"net\\\":$n,\\\"links\\\":$(ls /sys/class/net 2>/dev/null | grep -vc '^lo$')}\"";
    let profile = json!({
        "command": [TAFFRAIL, "agent", "run", "--no-journal", "--capability", capability, "--",
                    "bash", "-c", script],
        "sandbox": { "read_only": [own_program()] },
        "stop": { "grace_ms": 2_000 },
        "probes": { "readiness": { "nats": {}, "period_ms": 300 } },
    });
    let (agent, ready) = fleet.deploy(&fresh("cut-off"), profile, &capability).await;
    let task = submit(fleet.product, &capability, &[]);
    let (done, _) = end_of(fleet.product, &task);
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["result"], json!({ "net": 0, "links": 0 }));
    // The next daemon serves the same process on a socket of its own.
    fleet.node.kill();
    fleet.again(&[]);
    let task = submit(fleet.product, &capability, &[]);
    let (done, _) = end_of(fleet.product, &task);
    assert_eq!(done["state"], "done", "{done}");
    let still = fleet.get(&agent).await;
    assert_eq!((&still["process"]["generation"], pid(&still)), (&1.into(), pid(&ready)));
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_the_hosts_network_gets_its_credential_in_a_file() {
    let secrets = run_dir().join(fresh("secrets"));
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("key"), "hunter2-of-the-node").unwrap();
    let fleet = Fleet::new(&["--secrets-dir", &secrets.display().to_string()]).await;
    let capability = fresh("with-net");
    let script = "cat >/dev/null; printf '{\"key\":\"%s\",\"env\":%s}\n' \
                  \"$(cat $TAFFRAIL_SECRETS/key)\" \"$(env | grep -c 'hunter[2]')\"";
    let profile = json!({
        "command": [TAFFRAIL, "agent", "run", "--no-journal", "--via", "nats", "--capability",
                    capability, "--", "sh", "-c", script],
        "sandbox": { "network": "host", "read_only": [own_program()] },
        "secrets": { "key": { "file": "key" } },
        "stop": { "grace_ms": 2_000 },
    });
    let (agent, ready) = fleet.deploy(&fresh("with-net"), profile, &capability).await;
    let task = submit(fleet.product, &capability, &[]);
    let (done, _) = end_of(fleet.product, &task);
    assert_eq!(done["result"], json!({ "key": "hunter2-of-the-node", "env": 0 }), "{done}");
    let of = |file: &str| {
        let bytes = std::fs::read(format!("/proc/{}/{file}", pid(&ready))).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    for file in ["environ", "cmdline"] {
        let text = of(file);
        assert!(!text.contains("hunter2"), "{file}");
        assert!(!text.contains(&fleet.product.nats_token), "{file}");
    }
    assert!(of("environ").contains("TAFFRAIL_NATS_TOKEN_FILE="));
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_started_for_each_task_and_ends_as_with_agent_run() {
    let mut fleet = Fleet::new(&[]).await;
    let capability = fresh("per-task");
    let script = r#"read task; echo "working on $TAFFRAIL_ATTEMPT" >&2
        case $task in
        *'"fatal"'*) echo unfit >&2; exit 65;;
        *'"slow"'*) if test -f begun; then echo '"late"'; else touch begun; sleep 60; fi;;
        *) echo $$ > last; echo "not the result"; echo "{\"id\":\"$TAFFRAIL_TASK_ID\"}";;
        esac"#;
    let profile = json!({
        "mode": "per_task", "command": ["sh", "-c", script], "stop": { "grace_ms": 1_000 },
        "probes": { "readiness": { "exec": { "command": "test ! -f ill" }, "period_ms": 300 } },
    });
    let (agent, _) = fleet.deploy(&fresh("per-task"), profile, &capability).await;
    let plain = submit(fleet.product, &capability, &[]);
    let (done, _) = end_of(fleet.product, &plain);
    assert_eq!(done["result"], json!({ "id": plain }), "{done}");
    let fatal = submit(fleet.product, &capability, &["--payload", r#""fatal""#]);
    let (failed, _) = end_of(fleet.product, &fatal);
    assert_eq!(
        (failed["state"].as_str(), &failed["error"]["exit_code"]),
        (Some("failed"), &65.into())
    );
    assert_eq!(failed["error"]["message"], "exit code 65: unfit");

    // The daemon dies in the middle of a task: it comes again, and nothing of before goes on.
    let slow = submit(fleet.product, &capability, &["--payload", r#""slow""#]);
    let begun = fleet.node.workspace(domain::AgentId(agent.parse().unwrap())).join("begun");
    until("the task is under way", async || begun.exists()).await;
    fleet.node.kill();
    fleet.again(&[]);
    let (done, _) = end_of(fleet.product, &slow);
    assert_eq!(done["result"], "late", "{done}");
    assert_eq!(fleet.get(&agent).await["process"]["generation"], 1);
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(&format!("TAFFRAIL_TASK_ID={slow}"))
    });
    assert_eq!(left.count(), 0);
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernating_agent_finds_its_files_when_it_wakes() {
    let fleet = Fleet::new(&[]).await;
    let profile = json!({
        "command": "date >> lives; exec sleep 600", "stop": { "grace_ms": 500 },
    });
    let (agent, ready) = fleet.deploy(&fresh("sleepy"), profile, "none").await;
    let lives = fleet.node.workspace(domain::AgentId(agent.parse().unwrap())).join("lives");
    let count = || std::fs::read_to_string(&lives).unwrap_or_default().lines().count();
    until("it has begun", async || count() == 1).await;
    fleet.command(&agent, "hibernate").await;
    until("its process is gone", async || !alive(pid(&ready))).await;
    let asleep = fleet.is(&agent, "hibernating", 1).await;
    assert_eq!(asleep["process"]["generation"], 1);
    until("its node has told so", async || fleet.get(&agent).await["process"]["phase"] == "exited")
        .await;
    fleet.command(&agent, "wake").await;
    fleet.is(&agent, "ready", 2).await;
    until("it has begun again", async || count() == 2).await;
    fleet.retire(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_gives_a_whole_system_with_a_node() {
    let dir = run_dir().join(fresh("whole"));
    let mut product =
        tokio::task::spawn_blocking(move || start_product(dir, &["--node"])).await.unwrap();
    let api = Api::new(&product.http, &product.token);
    let body = json!({ "name": "worker", "capabilities": ["hello"],
        "profile": { "mode": "per_task", "command": "echo '\"hello\"'" } });
    let (status, made) = api.post("/v1/agents", &body).await;
    assert_eq!(status, 201, "{made}");
    let id: Uuid = made["id"].as_str().unwrap().parse().unwrap();
    api.post(&format!("/v1/agents/{id}/deploy"), &json!({})).await;
    let sleeper = json!({ "name": "sleeper", "profile": { "command": ["sleep", "600"] } });
    let (_, made) = api.post("/v1/agents", &sleeper).await;
    let sleeper = made["id"].as_str().unwrap().to_owned();
    api.post(&format!("/v1/agents/{sleeper}/deploy"), &json!({})).await;
    let mut ready = Value::Null;
    until("the sleeper is ready", async || {
        ready = api.get(&format!("/v1/agents/{sleeper}")).await.1;
        ready["state"] == "ready"
    })
    .await;
    let task = submit(&product, "hello", &[]);
    assert_eq!(end_of(&product, &task).0["result"], "hello");
    let nodes = api.request(Method::GET, "/v1/nodes").send().await.unwrap();
    let nodes: Value = nodes.json().await.unwrap();
    assert_eq!(nodes["items"][0]["state"], "online", "{nodes}");
    let ended = product.terminate().success();
    let left = alive(pid(&ready));
    end_agents(&product.data_dir);
    assert!(ended && !left, "everything ends with it");
}
