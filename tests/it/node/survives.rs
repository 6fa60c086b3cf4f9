//! What a node survives: its own end, the loss of NATS, and that of the managers.

use std::time::{Duration, Instant};

use domain::agent::Phase;
use domain::node::Want;
use domain::{AgentId, Code, Problem};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use super::fake::{alive, folder};
use super::{Managers, launch};
use crate::support::until;

const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

fn agent() -> AgentId {
    AgentId(Uuid::new_v4())
}

fn numbers(managers: &Managers, agent: AgentId) -> Vec<u32> {
    managers.lines(agent, "stdout").iter().filter_map(|line| line.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_go_on_when_their_node_is_killed_and_the_next_one_takes_them_over() {
    let managers = Managers::start().await;
    let dir = folder();
    let mut node = managers.node(&dir, &[]);
    let (stays, ends) = (agent(), agent());
    managers.want(&node, stays, 1, Want::Run, &launch(COUNTING)).await;
    let (ready, _) = managers.sees(stays, 1, Phase::Ready).await;
    // More than may come twice.
    until("lines come", async || numbers(&managers, stays).len() > 150).await;
    managers
        .want(&node, ends, 1, Want::Run, &launch("echo first; sleep 1; echo last; exit 5"))
        .await;
    managers.sees(ends, 1, Phase::Ready).await;
    node.kill();
    let pid = ready.pid.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(alive(pid), "it goes on without its node");

    let id = node.id;
    let node = managers.node(&dir, &[]);
    assert_eq!((node.id, node.found), (id, 2));
    let (exited, _) = managers.sees(ends, 1, Phase::Exited).await;
    assert_eq!(exited.exit.unwrap().code, Some(5), "from what it left behind");
    until("its last words come", async || managers.lines(ends, "stdout").contains(&"last".into()))
        .await;
    let before = numbers(&managers, stays).len();
    until("more lines come", async || numbers(&managers, stays).len() > before + 80).await;
    assert!(alive(pid));
    assert_eq!(
        managers.phases(stays),
        [Phase::Starting, Phase::Ready],
        "nothing was started twice"
    );
    // No line is missing; those of the last second may come twice.
    let mut numbers = numbers(&managers, stays);
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.iter().zip(1..).all(|(number, n)| *number == n), "{numbers:?}");
    assert!(all - numbers.len() < 100, "{} lines came twice", all - numbers.len());

    // It is the same process to its end.
    managers.drop_agent(&node, stays).await;
    managers.sees(stays, 1, Phase::Exited).await;
    assert!(!alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_the_agents_running_unless_it_is_told_otherwise() {
    let managers = Managers::start().await;
    let dir = folder();
    let mut node = managers.node(&dir, &[]);
    let agent = agent();
    managers.want(&node, agent, 1, Want::Run, &launch("exec sleep 60")).await;
    let pid = managers.sees(agent, 1, Phase::Ready).await.0.pid.unwrap();
    assert!(node.terminate().success());
    assert!(alive(pid));
    let log = std::fs::read_to_string(&node.process.log).unwrap();
    assert!(log.contains("its agents go on"), "{log}");

    let mut node = managers.node(&dir, &["--stop-agents"]);
    assert_eq!(node.found, 1);
    assert!(node.terminate().success());
    assert!(!alive(pid));
    let phases = [Phase::Starting, Phase::Ready, Phase::Terminating, Phase::Exited];
    assert_eq!(managers.phases(agent), phases, "the last one was told before it went");

    // The control word does the same as a signal.
    let mut node = managers.node(&dir, &[]);
    managers.control(&node, "stop").await;
    until("the node ends", async || node.process.ended().is_some()).await;
    assert!(node.process.ended().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nats_is_away_nothing_is_lost_and_nothing_comes_twice() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let (dies, lives) = (agent(), agent());
    managers.want(&node, dies, 1, Want::Run, &launch("exec sleep 60")).await;
    managers.want(&node, lives, 1, Want::Run, &launch(COUNTING)).await;
    let pid = managers.sees(dies, 1, Phase::Ready).await.0.pid.unwrap();
    managers.sees(lives, 1, Phase::Ready).await;

    managers.nats.halt().await;
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(managers.phases(dies), [Phase::Starting, Phase::Ready]);
    managers.nats.start_again().await;
    let back = Instant::now();
    let (exited, at) = managers.sees(dies, 1, Phase::Exited).await;
    assert_eq!(exited.exit.unwrap().signal, Some(9));
    assert!(at.duration_since(back) < Duration::from_secs(5));
    assert_eq!(managers.phases(lives), [Phase::Starting, Phase::Ready]);
    until("what it wrote meanwhile comes", async || {
        let mut numbers = numbers(&managers, lives);
        numbers.dedup();
        numbers.len() > 150 && numbers.iter().zip(1..).all(|(number, n)| *number == n)
    })
    .await;
    managers.drop_agent(&node, lives).await;
    managers.sees(lives, 1, Phase::Exited).await;
    for agent in [dies, lives] {
        let seen = managers.seen(agent);
        assert!(seen.iter().zip(1..).all(|(seen, n)| seen.seq == n), "{seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_down_is_told_by_the_next_daemon() {
    let managers = Managers::start().await;
    let dir = folder();
    let mut node = managers.node(&dir, &[]);
    let agent = agent();
    managers.heard.lock().unwrap().busy = true;
    managers.want(&node, agent, 1, Want::Run, &launch("exit 6")).await;
    until("it has ended", async || {
        let record = dir.join("node/agents").join(agent.to_string()).join("record.json");
        std::fs::read_to_string(record).is_ok_and(|text| text.contains("\"phase\":\"exited\""))
    })
    .await;
    assert!(managers.phases(agent).is_empty());
    node.kill();
    managers.heard.lock().unwrap().busy = false;
    let _node = managers.node(&dir, &[]);
    managers.sees(agent, 1, Phase::Exited).await;
    assert_eq!(managers.phases(agent), [Phase::Starting, Phase::Ready, Phase::Exited]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_taken_says_why_and_ends() {
    let managers = Managers::start().await;
    let dir = folder();
    let mut node = managers.node(&dir, &[]);
    let agent = agent();
    managers.want(&node, agent, 1, Want::Run, &launch("exec sleep 60")).await;
    let pid = managers.sees(agent, 1, Phase::Ready).await.0.pid.unwrap();

    // A second daemon on the folder.
    let mut second = managers.node_process(&dir, &[]);
    until("the second one ends", async || second.ended().is_some()).await;
    assert!(!second.ended().unwrap().success());
    assert!(std::fs::read_to_string(&second.log).unwrap().contains("in use by another node"));

    node.kill();
    let refuse = |problem| managers.heard.lock().unwrap().refusal = Some(problem);
    refuse(Problem::new(Code::NameTaken, "another has it"));
    let mut named = managers.node_process(&dir, &["--name", "n1"]);
    until("the one whose name is taken ends", async || named.ended().is_some()).await;
    assert!(
        std::fs::read_to_string(&named.log).unwrap().contains("the name n1 belongs to another")
    );
    assert!(alive(pid), "a wrong name is no reason to end anything");

    let mut retired = Problem::new(Code::IllegalTransition, "");
    retired.state = Some("retired".into());
    refuse(retired);
    let mut retired = managers.node_process(&dir, &[]);
    until("the retired one ends", async || retired.ended().is_some()).await;
    assert!(!retired.ended().unwrap().success());
    assert!(std::fs::read_to_string(&retired.log).unwrap().contains("was retired"));
    assert!(!alive(pid), "nobody wants the agents of a retired node");
}
