//! How processes begin and end under a node.

use std::time::{Duration, Instant};

use domain::AgentId;
use domain::agent::Phase;
use domain::node::Want;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use uuid::Uuid;

use super::fake::{alive, folder};
use super::{Managers, launch, launch_with};
use crate::support::until;

fn agent() -> AgentId {
    AgentId(Uuid::new_v4())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_what_it_should_and_tells_its_end_within_milliseconds() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let script = "echo hello; echo oops >&2; pwd > /workspace/where; exec sleep 60";
    managers.want(&node, agent, 1, Want::Run, &launch(script)).await;
    let (ready, _) = managers.sees(agent, 1, Phase::Ready).await;
    let pid = ready.pid.unwrap();
    assert_eq!(managers.phases(agent), [Phase::Starting, Phase::Ready]);
    until("its lines are published", async || {
        managers.lines(agent, "stdout") == ["hello"] && managers.lines(agent, "stderr") == ["oops"]
    })
    .await;

    until("the program itself runs", async || node.workspace(agent).join("where").exists()).await;
    let killed = Instant::now();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    let (exited, at) = managers.sees(agent, 1, Phase::Exited).await;
    let took = at.duration_since(killed);
    assert!(took < Duration::from_millis(500), "{took:?}");
    let exit = exited.exit.unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert!(exit.wall_ms.is_some() && exit.cpu_ms.is_some());
    assert_eq!(
        std::fs::read_to_string(node.workspace(agent).join("where")).unwrap(),
        "/workspace\n"
    );
    // Its generation is over: only the managers begin another one.
    managers.ring(&node).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(managers.phases(agent), [Phase::Starting, Phase::Ready, Phase::Exited]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_whether_another_try_would_help() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let (missing, folder_instead, secret, at_once) = (agent(), agent(), agent(), agent());
    let cases = [
        (missing, json!({ "command": ["no-such-program-here"] }), "no-such-program-here"),
        (folder_instead, json!({ "command": ["/usr"] }), "/usr"),
        (
            secret,
            json!({ "command": ["true"], "secrets": { "key": { "file": "nowhere" } } }),
            "secret key",
        ),
    ];
    for (agent, profile, _) in &cases {
        managers.want(&node, *agent, 1, Want::Run, &launch_with(profile.clone())).await;
    }
    managers.want(&node, at_once, 1, Want::Run, &launch("exit 7")).await;
    for (agent, _, word) in cases {
        let (failed, _) = managers.sees(agent, 1, Phase::StartFailed).await;
        assert!(failed.permanent, "{failed:?}");
        assert!(failed.detail.as_ref().unwrap().contains(word), "{failed:?}");
        assert_eq!(managers.phases(agent), [Phase::Starting, Phase::StartFailed]);
    }
    let (exited, _) = managers.sees(at_once, 1, Phase::Exited).await;
    assert_eq!(exited.exit.unwrap().code, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_asks_first_and_then_makes_it() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let (polite, deaf, gone) = (agent(), agent(), agent());
    let polite_script =
        "trap 'echo bye; exit 4' TERM; touch /workspace/up; while :; do sleep 0.05; done";
    let deaf_script = "trap '' TERM; touch /workspace/up; while :; do sleep 0.05; done";
    for (agent, script) in [(polite, polite_script), (deaf, deaf_script), (gone, "exec sleep 60")] {
        managers.want(&node, agent, 1, Want::Run, &launch(script)).await;
        managers.sees(agent, 1, Phase::Ready).await;
    }
    for agent in [polite, deaf] {
        until("the trap is set", async || node.workspace(agent).join("up").exists()).await;
    }
    managers.want(&node, polite, 1, Want::Stop, &launch(polite_script)).await;
    managers.want(&node, deaf, 1, Want::Stop, &launch(deaf_script)).await;
    managers.drop_agent(&node, gone).await;

    let (exited, _) = managers.sees(polite, 1, Phase::Exited).await;
    assert_eq!(exited.exit.unwrap().code, Some(4));
    let asked = [Phase::Starting, Phase::Ready, Phase::Terminating, Phase::Exited];
    assert_eq!(managers.phases(polite), asked);
    let (exited, _) = managers.sees(deaf, 1, Phase::Exited).await;
    assert_eq!(exited.exit.unwrap().signal, Some(9));
    let made = [Phase::Starting, Phase::Ready, Phase::Terminating, Phase::Killing, Phase::Exited];
    assert_eq!(managers.phases(deaf), made);
    managers.sees(gone, 1, Phase::Exited).await;
    assert_eq!(managers.phases(gone), asked, "what nobody names is stopped");
    until("its last words are published", async || managers.lines(polite, "stdout") == ["bye"])
        .await;

    // Killed: nobody asks it.
    managers.want(&node, gone, 2, Want::Run, &launch(deaf_script)).await;
    managers.sees(gone, 2, Phase::Ready).await;
    managers.want(&node, gone, 2, Want::Kill, &launch(deaf_script)).await;
    managers.sees(gone, 2, Phase::Exited).await;
    let second: Vec<Phase> =
        managers.seen(gone).iter().filter(|s| s.generation == 2).map(|s| s.phase).collect();
    assert_eq!(second, [Phase::Starting, Phase::Ready, Phase::Killing, Phase::Exited]);
    // Not wanted any more before it was started.
    let never = agent();
    managers.want(&node, never, 1, Want::Stop, &launch("exec sleep 60")).await;
    managers.sees(never, 1, Phase::Exited).await;
    assert_eq!(managers.phases(never), [Phase::Exited]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_begins_when_the_old_one_is_over_and_finds_its_files() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    // Two at once would meet at the lock.
    let script = "mkdir lock || exit 99; echo $TAFFRAIL_GENERATION >> generations; \
                  trap 'sleep 0.2; rmdir lock; exit 0' TERM; while :; do sleep 0.02; done";
    for generation in 1..=4 {
        managers.want(&node, agent, generation, Want::Run, &launch(script)).await;
        managers.sees(agent, generation, Phase::Ready).await;
        until("it has begun", async || {
            let text = std::fs::read_to_string(node.workspace(agent).join("generations"));
            text.is_ok_and(|text| text.lines().count() as u32 == generation)
        })
        .await;
    }
    managers.drop_agent(&node, agent).await;
    managers.sees(agent, 4, Phase::Exited).await;
    let seen = managers.seen(agent);
    assert!(seen.iter().all(|seen| seen.exit.as_ref().is_none_or(|exit| exit.code == Some(0))));
    assert!(seen.is_sorted_by_key(|seen| (seen.generation, seen.seq)), "{seen:#?}");
    let generations = std::fs::read_to_string(node.workspace(agent).join("generations")).unwrap();
    assert_eq!(generations, "1\n2\n3\n4\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_bounded_and_says_what_was_left_out() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let flood = launch_with(json!({
        "command": "i=0; while :; do i=$((i+1)); echo line $i of a flood that nobody reads; done",
        "resources": { "output_bytes": 4_194_304 },
        "stop": { "grace_ms": 100 },
    }));
    managers.want(&node, agent, 1, Want::Run, &flood).await;
    managers.sees(agent, 1, Phase::Ready).await;
    let begin = Instant::now();
    until("something is left out", async || {
        managers.lines(agent, "stdout").iter().any(|line| line.ends_with(" lines dropped]"))
    })
    .await;
    let published = managers.lines(agent, "stdout").len();
    let seconds = begin.elapsed().as_secs() as usize + 2;
    assert!(published <= seconds * 600, "{published} lines in {seconds} s");
    managers.drop_agent(&node, agent).await;
    let (exited, _) = managers.sees(agent, 1, Phase::Exited).await;
    assert!(exited.exit.unwrap().output_bytes.unwrap() <= 5 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_nobody_waits_for_end_with_their_agent() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agent = agent();
    let script = "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; (setsid sleep 61 &) ; \
                  echo started; exec sleep 60";
    managers.want(&node, agent, 1, Want::Run, &launch(script)).await;
    let (ready, _) = managers.sees(agent, 1, Phase::Ready).await;
    until("it has begun", async || managers.lines(agent, "stdout") == ["started"]).await;
    managers.drop_agent(&node, agent).await;
    managers.sees(agent, 1, Phase::Exited).await;
    assert!(!alive(ready.pid.unwrap()));
    // Everything of it is below its shim, which is gone.
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(&format!("TAFFRAIL_AGENT_ID={agent}"))
    });
    assert_eq!(left.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_at_once_are_all_started() {
    let managers = Managers::start().await;
    let node = managers.node(&folder(), &[]);
    let agents: Vec<AgentId> = (0..50).map(|_| agent()).collect();
    let profile = json!({ "command": ["sleep", "60"], "stop": { "grace_ms": 500 },
        "resources": { "memory_bytes": 33_554_432 } });
    {
        let mut heard = managers.heard.lock().unwrap();
        heard.wanted = agents
            .iter()
            .map(|agent| domain::node::Wanted {
                agent_id: *agent,
                name: format!("agent-{agent}"),
                generation: 1,
                want: Want::Run,
                launch: Some(launch_with(profile.clone())),
            })
            .collect();
    }
    let begin = Instant::now();
    managers.ring(&node).await;
    let mut last = begin;
    for agent in &agents {
        last = last.max(managers.sees(*agent, 1, Phase::Ready).await.1);
    }
    eprintln!("50 agents were ready after {} ms", last.duration_since(begin).as_millis());
    managers.heard.lock().unwrap().wanted.clear();
    managers.ring(&node).await;
    for agent in &agents {
        managers.sees(*agent, 1, Phase::Exited).await;
    }
}
