//! Operations at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::agent::AgentCommand;
use domain::operation::{
    AcceptOperation, CommandSpec, OperationCommand, OperationProgress, Resource,
};
use domain::{Json, Problem, StreamType};
use uuid::Uuid;

use super::memory::{Memory, Wire, agent_id, eventually};
use crate::{Boxed, Errand, Work};

const OPERATION: Uuid = Uuid::from_u128(900);

fn accept(memory: &Memory, kind: &str, command: Option<CommandSpec>) {
    let resource = Resource { kind: "agent".into(), id: agent_id(1).to_string() };
    let new = AcceptOperation { kind: kind.into(), resource, command, input: Json::null() };
    memory.tell(OPERATION, OperationCommand::Accept(new), "user:ada");
}

fn spec(command: &str) -> CommandSpec {
    CommandSpec {
        kind: StreamType::Agent,
        id: agent_id(1).0,
        command: command.into(),
        command_id: Uuid::from_u128(901),
        body: Json::parse("{}").unwrap(),
        expected_version: None,
    }
}

#[tokio::test]
async fn the_carried_command_is_decided_under_its_sender_and_the_agent_is_told() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let agent = memory.agent(1, |_| {});
    accept(&memory, "agent.drain", Some(spec("drain")));
    let running = memory.run(&wire, vec![]);
    eventually("it ends", || memory.story(OPERATION).len() == 3).await;
    assert_eq!(memory.story(OPERATION), ["accepted", "started", "succeeded"]);
    assert_eq!(memory.story(agent.0), ["registered", "draining"]);
    let events = memory.events();
    let drained = events.iter().find(|event| &*event.event_type == "draining").unwrap();
    assert_eq!(&*drained.actor, "user:ada");
    assert_eq!(drained.causation_position, Some(2));
    eventually("the agent is told", || wire.words() == [(agent, "drain")]).await;
    running.stop().await;
}

#[tokio::test]
async fn one_that_died_between_its_command_and_its_end_is_finished_by_the_next() {
    let (memory, wire) = (Memory::new(), Wire::default());
    let agent = memory.agent(1, |_| {});
    accept(&memory, "agent.drain", Some(spec("drain")));
    let drain = AgentCommand::Drain(Default::default());
    let tenant = super::memory::tenant();
    let id = Uuid::from_u128(901);
    memory.decide(crate::CommandEnvelope::new(tenant, agent.0, drain, id, "user:ada"));
    let running = memory.run(&wire, vec![]);
    eventually("it ends", || memory.story(OPERATION).len() == 3).await;
    assert_eq!(memory.story(OPERATION)[2], "succeeded");
    assert_eq!(memory.story(agent.0).len(), 2, "the command is not decided twice");
    assert_eq!(wire.words(), [(agent, "drain")]);
    running.stop().await;
}

#[tokio::test]
async fn refusals_unknown_kinds_and_deploys_fail_with_a_reason() {
    for (kind, command, says) in [
        ("agent.deploy", Some(spec("deploy")), "has no profile"),
        ("tea.make", None, "no part of this installation"),
    ] {
        let memory = Memory::new();
        memory.agent(1, |_| {});
        accept(&memory, kind, command);
        let running = memory.run(&Wire::default(), vec![]);
        eventually("it ends", || memory.story(OPERATION).len() == 3).await;
        let last = memory.events().last().unwrap().clone();
        assert_eq!(&*last.event_type, "failed");
        let text = String::from_utf8(last.payload.to_vec()).unwrap();
        assert!(text.contains(says), "{text}");
        running.stop().await;
    }
}

#[derive(Default)]
struct Counting {
    runs: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    forever: bool,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Work for Counting {
    fn takes(&self, kind: &str) -> bool {
        kind == "count"
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        let progress = errand.progress;
        self.runs.fetch_add(1, Ordering::SeqCst);
        let (dropped, forever) = (Dropped(self.dropped.clone()), self.forever);
        Box::pin(async move {
            let _dropped = dropped;
            for done in 0..100 {
                let total = Some(100);
                let _ = progress.send(OperationProgress { done, total, message: "…".into() }).await;
            }
            if forever {
                std::future::pending::<()>().await;
            }
            Ok(Json::of("counted"))
        })
    }
}

#[tokio::test]
async fn a_work_tells_how_far_it_is_but_not_too_often() {
    let memory = Memory::new();
    accept(&memory, "count", None);
    let running = memory.run(&Wire::default(), vec![Arc::new(Counting::default())]);
    eventually("it ends", || memory.story(OPERATION).last().is_some_and(|e| e == "succeeded"))
        .await;
    let progressed = memory.story(OPERATION).iter().filter(|e| *e == "progressed").count();
    assert!((1..=4).contains(&progressed), "{progressed}");
    running.stop().await;
}

#[tokio::test]
async fn a_cancelled_work_stops_and_one_that_was_interrupted_runs_again() {
    let memory = Memory::new();
    accept(&memory, "count", None);
    let work = Counting { forever: true, ..Default::default() };
    let (runs, dropped) = (work.runs.clone(), work.dropped.clone());
    let work: Arc<dyn Work> = Arc::new(work);
    let running = memory.run(&Wire::default(), vec![work.clone()]);
    eventually("it runs", || runs.load(Ordering::SeqCst) == 1).await;
    running.stop().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let running = memory.run(&Wire::default(), vec![work]);
    eventually("it runs again", || runs.load(Ordering::SeqCst) == 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    memory.tell(OPERATION, OperationCommand::Cancel(Default::default()), "user:ada");
    eventually("it stops", || dropped.load(Ordering::SeqCst) == 2).await;
    assert_eq!(memory.story(OPERATION).last().unwrap(), "cancelled");
    running.stop().await;
}
