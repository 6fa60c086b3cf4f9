//! Managers of a test's own, and a node that obeys them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, Message};
use domain::agent::{ObserveAgent, Phase};
use domain::node::{Launch, SyncReply, SyncRequest, Want, Wanted};
use domain::{AgentId, Code, Outcome, Problem, Status};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Process, SOON, TestNats, nats, run_dir, said, unique};

/// What a test's managers want and hear.
#[derive(Default)]
pub struct Heard {
    pub wanted: Vec<Wanted>,
    pub seen: Vec<(AgentId, ObserveAgent, Instant)>,
    pub commands: HashSet<Uuid>,
    pub repeats: usize,
    pub lines: Vec<(AgentId, Value)>,
    pub syncs: usize,
    /// What a registration is refused with.
    pub refusal: Option<Problem>,
    /// What is said to observations, when it is not their outcome.
    pub busy: bool,
}

/// Managers on a NATS of their own.
pub struct Managers {
    pub nats: TestNats,
    pub client: Client,
    pub heard: Arc<Mutex<Heard>>,
}

/// A running `taffrail node`.
pub struct NodeProcess {
    pub process: Process,
    pub dir: PathBuf,
    pub id: Uuid,
    /// Agents that it found from before.
    pub found: u64,
}

/// A program as it stands in a profile, run by the shell; it may use the node's network.
pub fn launch(script: &str) -> Box<Launch> {
    launch_with(json!({ "command": script, "stop": { "grace_ms": 500 } }))
}

pub fn launch_with(profile: Value) -> Box<Launch> {
    let launch = json!({ "profile": profile, "role": "worker", "capabilities": [], "slots": 1 });
    Box::new(serde_json::from_value(launch).unwrap())
}

impl Managers {
    pub async fn start() -> Self {
        let nats = nats().await;
        let client = nats.client().await;
        let heard = Arc::new(Mutex::new(Heard::default()));
        for subject in [
            "taffrail.default.req.node.*.register",
            "taffrail.default.node.*.sync",
            "taffrail.default.req.agent.*.observe",
            "taffrail.default.agent.*.log",
        ] {
            let mut messages = client.subscribe(subject).await.unwrap();
            let (heard, client) = (Arc::clone(&heard), client.clone());
            tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    let answer = answer(&heard, &message);
                    if let (Some(answer), Some(reply)) = (answer, message.reply) {
                        client.publish(reply, answer.into()).await.unwrap();
                    }
                }
            });
        }
        client.flush().await.unwrap();
        Self { nats, client, heard }
    }

    /// Sets what is wanted of one agent, and has the node ask.
    pub async fn want(
        &self,
        node: &NodeProcess,
        agent: AgentId,
        generation: u32,
        want: Want,
        launch: &Launch,
    ) {
        {
            let mut heard = self.heard.lock().unwrap();
            heard.wanted.retain(|wanted| wanted.agent_id != agent);
            let (name, launch) = (format!("agent-{agent}"), Some(Box::new(launch.clone())));
            heard.wanted.push(Wanted { agent_id: agent, name, generation, want, launch });
        }
        self.ring(node).await;
    }

    /// Nothing is wanted of it any more.
    pub async fn drop_agent(&self, node: &NodeProcess, agent: AgentId) {
        self.heard.lock().unwrap().wanted.retain(|wanted| wanted.agent_id != agent);
        self.ring(node).await;
    }

    pub async fn ring(&self, node: &NodeProcess) {
        self.control(node, "sync").await;
    }

    pub async fn control(&self, node: &NodeProcess, word: &str) {
        let subject = format!("taffrail.default.node.{}.control", node.id);
        self.client.publish(subject, json!({ "command": word }).to_string().into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// What was seen of an agent, oldest first.
    pub fn seen(&self, agent: AgentId) -> Vec<ObserveAgent> {
        let heard = self.heard.lock().unwrap();
        heard.seen.iter().filter(|(id, ..)| *id == agent).map(|(_, seen, _)| seen.clone()).collect()
    }

    pub fn phases(&self, agent: AgentId) -> Vec<Phase> {
        self.seen(agent).iter().map(|seen| seen.phase).collect()
    }

    /// Waits for an observation, and yields it with the time at which it came.
    pub async fn sees(
        &self,
        agent: AgentId,
        generation: u32,
        phase: Phase,
    ) -> (ObserveAgent, Instant) {
        let begin = Instant::now();
        loop {
            {
                let heard = self.heard.lock().unwrap();
                let found = heard.seen.iter().rev().find(|(id, seen, _)| {
                    *id == agent && seen.generation == generation && seen.phase == phase
                });
                if let Some((_, seen, at)) = found {
                    return (seen.clone(), *at);
                }
            }
            assert!(
                begin.elapsed() < SOON,
                "generation {generation} was never {phase:?}: {:#?}",
                self.seen(agent)
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The lines of an agent's stream so far.
    pub fn lines(&self, agent: AgentId, stream: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let lines =
            heard.lines.iter().filter(|(id, line)| *id == agent && line["stream"] == stream);
        lines.map(|(_, line)| line["line"].as_str().unwrap().to_owned()).collect()
    }

    pub fn node(&self, dir: &Path, more: &[&str]) -> NodeProcess {
        let process = self.node_process(dir, more);
        let ready = process.ready();
        let line = ready.iter().find(|line| line["ready"] == "node").unwrap();
        NodeProcess {
            dir: dir.to_owned(),
            id: said(&ready, "node", "id").parse().unwrap(),
            found: line["agents"].as_u64().unwrap(),
            process,
        }
    }

    pub fn node_process(&self, dir: &Path, more: &[&str]) -> Process {
        let folder = dir.display().to_string();
        let mut arguments = vec!["node", "--output", "json", "--data-dir", &folder];
        arguments.extend(["--sync-every", "300"]);
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
        let environment = [
            ("TAFFRAIL_NATS_URL", self.nats.url.as_str()),
            ("TAFFRAIL_NATS_TOKEN", &self.nats.token),
        ];
        Process::start("node", &arguments, &environment)
    }
}

fn answer(heard: &Mutex<Heard>, message: &Message) -> Option<Vec<u8>> {
    let mut heard = heard.lock().unwrap();
    let parts: Vec<&str> = message.subject.split('.').collect();
    let header = |name: &str| {
        message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(name))
            .map(|v| v.as_str().to_owned())
    };
    let command_id =
        header("Taffrail-Command-Id").and_then(|id| id.parse().ok()).unwrap_or_default();
    let outcome = |status, stream_id, problem| Outcome {
        status,
        command_id,
        stream_id,
        version: 1,
        position: 1,
        events: vec![],
        problem,
        original: None,
        retry_after_ms: None,
    };
    match *parts.last()? {
        "register" => {
            let id: Uuid = parts[4].parse().unwrap();
            assert_eq!(header("Taffrail-Actor").unwrap(), format!("node:{id}"));
            let body: domain::node::RegisterNode =
                serde_json::from_slice(&message.payload).unwrap();
            domain::macros::Body::check(&body).unwrap();
            let status = if heard.refusal.is_some() { Status::Refused } else { Status::Accepted };
            Some(serde_json::to_vec(&outcome(status, id, heard.refusal.clone())).unwrap())
        }
        "sync" => {
            let request: SyncRequest = serde_json::from_slice(&message.payload).unwrap();
            heard.syncs += 1;
            let known: BTreeMap<_, _> = request
                .agents
                .iter()
                .map(|running| (running.agent_id, running.generation))
                .collect();
            let mut reply = SyncReply { ok: true, agents: heard.wanted.clone(), problem: None };
            for wanted in &mut reply.agents {
                if known.get(&wanted.agent_id) == Some(&wanted.generation) {
                    wanted.launch = None;
                }
            }
            Some(serde_json::to_vec(&reply).unwrap())
        }
        "observe" => {
            let agent = AgentId(parts[4].parse().unwrap());
            let seen: ObserveAgent = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(header("Taffrail-Actor").unwrap(), format!("node:{}", seen.node_id));
            if heard.busy {
                let problem = Problem::new(Code::Busy, "");
                return Some(
                    serde_json::to_vec(&outcome(Status::Busy, agent.0, Some(problem))).unwrap(),
                );
            }
            if heard.commands.insert(command_id) {
                heard.seen.push((agent, seen, Instant::now()));
            } else {
                heard.repeats += 1;
            }
            Some(serde_json::to_vec(&outcome(Status::Accepted, agent.0, None)).unwrap())
        }
        "log" => {
            let agent = AgentId(parts[3].parse().unwrap());
            heard.lines.push((agent, serde_json::from_slice(&message.payload).unwrap()));
            None
        }
        other => panic!("{other}"),
    }
}

/// A folder that no other node has.
pub fn folder() -> PathBuf {
    run_dir().join(format!("node-{}", unique()))
}

impl NodeProcess {
    /// kill -9 of the daemon.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM to the daemon.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate()
    }

    pub fn workspace(&self, agent: AgentId) -> PathBuf {
        self.dir.join("node/agents").join(agent.to_string()).join("workspace")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        end_agents(&self.dir);
    }
}

/// Agents outlive their daemon, but not their test.
pub fn end_agents(data_dir: &Path) {
    let agents = data_dir.join("node/agents");
    for agent in std::fs::read_dir(agents).into_iter().flatten().flatten() {
        for run in std::fs::read_dir(agent.path()).into_iter().flatten().flatten() {
            if let Ok(Some(handle)) = sandbox::Sandbox::adopt(&run.path()) {
                let _ = handle.kill();
            }
        }
    }
}

/// Whether a process of this number runs.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
