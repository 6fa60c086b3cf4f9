//! Agents' lives, one after the other, in the simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::agent::{AgentCommand, AgentEvent, AgentState, Phase, RegisterAgent};
use domain::node::{NodeCommand, Running, SyncRequest};
use domain::{AgentId, Event, Json, Status};
use uuid::Uuid;

use super::sim::{World, node_id};
use crate::process::Manager;
use crate::process::tests::memory::tenant;

fn placed(world: &World, agent: AgentId) -> usize {
    let events = world.log.events.iter().filter(|event| event.stream_id == agent.0);
    events.filter(|event| matches!(event.event(), Ok(Event::Agent(AgentEvent::Placed(_))))).count()
}

fn settle(world: &mut World, seconds: u32) {
    for _ in 0..seconds * 2 {
        world.managers();
        let nodes: Vec<Uuid> = world.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|node| world.turn(node));
        world.managers();
        world.pass(500);
    }
}

#[test]
fn an_agent_that_dies_is_running_again_within_five_seconds() {
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 2);
    assert_eq!(world.state(agent).state, Some(AgentState::Ready));
    world.observe(node_id(1), agent, Phase::Exited);
    settle(&mut world, 3);
    assert_eq!((world.state(agent).state, placed(&world, agent)), (Some(AgentState::Ready), 2));
}

#[test]
fn a_program_that_ends_at_once_is_put_into_quarantine_and_its_operation_fails() {
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.flapping.insert(agent);
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 60);
    let state = world.state(agent);
    assert_eq!((state.state, state.operation), (Some(AgentState::Failed), None));
    assert_eq!(placed(&world, agent), 5, "once, and four restarts");
    let last = world.log.events.iter().rev().find(|event| &*event.event_type == "quarantined");
    assert!(last.is_some());
}

#[test]
fn silence_takes_ninety_seconds_to_a_restart_and_managers_that_restart_grant_it_anew() {
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 5);
    let proc = |world: &mut World| world.nodes.get_mut(&node_id(1)).unwrap().procs.remove(&agent);
    let mut hanging = proc(&mut world).expect("a process");
    hanging.hangs = true;
    world.nodes.get_mut(&node_id(1)).unwrap().procs.insert(agent, hanging);
    settle(&mut world, 25);
    world.restart_managers();
    settle(&mut world, 28);
    assert_eq!(world.state(agent).state, Some(AgentState::Ready), "a full grace period");
    settle(&mut world, 5);
    assert_eq!(world.state(agent).state, Some(AgentState::Unhealthy));
    settle(&mut world, 75);
    assert_eq!((world.state(agent).state, placed(&world, agent)), (Some(AgentState::Ready), 2));
}

#[test]
fn what_a_silent_node_ran_moves_and_does_not_run_twice_when_it_returns() {
    let mut world = World::new(1, 2, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 3);
    let first = world.state(agent).process.expect("a process").node_id;
    world.nodes.get_mut(&first).unwrap().up = false;
    settle(&mut world, 110);
    let moved = world.state(agent);
    assert_ne!(moved.process.as_ref().expect("a process").node_id, first);
    assert_eq!(moved.state, Some(AgentState::Ready));
    world.nodes.get_mut(&first).unwrap().up = true;
    settle(&mut world, 5);
    assert!(world.nodes[&first].procs.is_empty());
    assert_eq!(world.state(agent).state, Some(AgentState::Ready));
}

#[test]
fn a_wish_that_no_node_can_fulfil_ends_with_the_reason() {
    let mut world = World::new(1, 0, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 5);
    assert_eq!(world.state(agent).state, Some(AgentState::Validated));
    settle(&mut world, 60);
    assert_eq!(world.state(agent).state, Some(AgentState::Failed));
    let life = world.lifecycle.lock();
    assert!(life.fleet.agents[&agent].reason.contains("taffrail node"));
    let ended: Vec<_> = life.ended.values().collect();
    assert!(matches!(ended.as_slice(), [Err(_)]));
}

#[test]
fn a_drain_that_takes_too_long_hands_the_tasks_back() {
    use domain::task::{AssignTask, SubmitTask, TaskCommand};
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 2);
    let task = Uuid::from_u128(0x7A5C);
    world.tell(task, TaskCommand::Submit(SubmitTask::titled("t")), "operator");
    let assign = r#"{"agent_id":"AGENT","lease_ms":600000}"#.replace("AGENT", &agent.to_string());
    let assign: AssignTask = Json::parse(&assign).unwrap().read().unwrap();
    world.tell(task, TaskCommand::Assign(assign), "operator");
    let drain = Json::parse(r#"{"timeout_ms":3000}"#).unwrap().read().unwrap();
    world.tell(agent.0, AgentCommand::Drain(drain), "operator");
    settle(&mut world, 2);
    assert_eq!(world.nodes[&node_id(1)].procs.len(), 1, "it may finish what it has");
    settle(&mut world, 5);
    assert!(world.nodes[&node_id(1)].procs.is_empty());
    let names: Vec<&str> = world.log.events.iter().map(|event| &*event.event_type).collect();
    for name in ["handed_back", "unassigned", "observed", "assessed"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(world.state(agent).state, Some(AgentState::Offline));
    // A late turn of the clock: nothing more happens to it.
    let before = world.log.events.len();
    settle(&mut world, 30);
    assert_eq!(world.log.events.len(), before);
}

#[test]
fn an_agent_that_says_it_failed_ends_its_operation_and_is_stopped() {
    use domain::agent::ReportAgent;
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    world.managers();
    let said =
        ReportAgent { observed_state: AgentState::Failed, reason: Some("no licence".into()) };
    world.tell(agent.0, AgentCommand::Report(said), "agent");
    settle(&mut world, 3);
    let state = world.state(agent);
    assert_eq!((state.state, state.operation), (Some(AgentState::Failed), None));
    assert!(world.nodes[&node_id(1)].procs.is_empty(), "nobody wants it to run");
    let ended: Vec<_> = world.lifecycle.lock().ended.values().cloned().collect();
    assert!(matches!(ended.as_slice(), [Err(problem)] if problem.detail == "no licence"));
    let deploy = AgentCommand::Deploy(Default::default());
    assert_eq!(world.tell(agent.0, deploy, "operator"), Status::Accepted);
}

#[test]
fn an_agent_that_took_leave_is_not_back_because_its_process_still_runs() {
    use domain::agent::ReportAgent;
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 3);
    let said = ReportAgent { observed_state: AgentState::Offline, reason: None };
    world.beats.lock().clear();
    world.tell(agent.0, AgentCommand::Report(said), "agent");
    world.managers();
    assert_eq!(world.state(agent).state, Some(AgentState::Offline));
    world.observe(node_id(1), agent, Phase::Exited);
    settle(&mut world, 3);
    assert_eq!((world.state(agent).state, placed(&world, agent)), (Some(AgentState::Ready), 2));
}

#[test]
fn a_node_vouches_for_its_agents_until_it_is_silent_itself() {
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 3);
    let life = world.lifecycle.lock();
    let heard = life.heard[&node_id(1)].at;
    let vouched =
        |after| life.vouched(agent, heard + Duration::from_secs(after)).expect("it runs").0;
    assert_eq!(vouched(20), heard + Duration::from_secs(20));
    assert_eq!(vouched(31), heard);
}

#[test]
fn a_restart_that_was_planned_is_off_when_the_agent_comes_round() {
    use domain::agent::AssessAgent;
    let mut world = World::new(1, 1, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    settle(&mut world, 3);
    let plan = |world: &World| world.lifecycle.lock().fleet.agents[&agent].restart_due;
    let sick = AssessAgent { state: AgentState::Unhealthy, reason: "silent".into() };
    world.tell(agent.0, AgentCommand::Assess(sick), "manager:watchdog");
    let later = Json::parse(r#"{"delay_ms":60000,"attempt":1,"reason":"silent"}"#).unwrap();
    let later = AgentCommand::ScheduleRestart(later.read().unwrap());
    world.tell(agent.0, later, "manager:lifecycle");
    world.beats.lock().clear();
    world.managers();
    assert!(plan(&world).is_some());
    settle(&mut world, 2);
    assert_eq!(world.state(agent).state, Some(AgentState::Ready));
    assert_eq!(plan(&world), None);
}

#[test]
fn what_is_to_end_on_a_node_that_is_gone_is_written_off() {
    type Wish = fn() -> AgentCommand;
    let wishes: [(Wish, AgentState); 3] = [
        (|| AgentCommand::Drain(Default::default()), AgentState::Offline),
        (|| AgentCommand::Hibernate(Default::default()), AgentState::Hibernating),
        (|| AgentCommand::ForceStop(Default::default()), AgentState::ForceStopped),
    ];
    for retired in [false, true] {
        for (wish, then) in wishes {
            let mut world = World::new(1, 1, 1);
            let agent = world.agents[0];
            world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
            settle(&mut world, 3);
            world.nodes.get_mut(&node_id(1)).unwrap().up = false;
            if retired {
                world.tell(node_id(1), NodeCommand::Retire(Default::default()), "operator");
            }
            world.tell(agent.0, wish(), "operator");
            settle(&mut world, if retired { 1 } else { 100 });
            let state = world.state(agent);
            assert_eq!((state.state, state.operation), (Some(then), None), "retired: {retired}");
            // What it finds it ends, should it come back.
            world.nodes.get_mut(&node_id(1)).unwrap().up = true;
            settle(&mut world, 3);
            assert_eq!(world.nodes[&node_id(1)].procs.is_empty(), !retired);
            assert_eq!(world.state(agent).state, Some(then));
        }
    }
}

#[test]
fn only_room_that_is_free_again_has_those_without_a_place_looked_at() {
    let mut world = World::new(1, 1, 7);
    let agents = world.agents.clone();
    for agent in &agents {
        world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    }
    settle(&mut world, 3);
    let waiting: Vec<_> = agents.iter().filter(|agent| world.state(**agent).pending).collect();
    assert_eq!(waiting.len(), 1, "six slots");
    let stranger = RegisterAgent::named("stranger");
    world.tell(Uuid::from_u128(99), AgentCommand::Register(stranger), "operator");
    world.lifecycle.lock().apply(&world.log.events[world.folded]);
    assert!(!world.lifecycle.lock().reopened, "it takes nobody's place");
    let other = agents.iter().find(|agent| *agent != waiting[0]).expect("six of them");
    world.tell(other.0, AgentCommand::Drain(Default::default()), "operator");
    settle(&mut world, 3);
    assert_eq!(world.state(*waiting[0]).state, Some(AgentState::Ready));
}

#[test]
fn an_answer_to_a_node_fits_into_a_message_and_the_rest_follows() {
    use domain::agent::UpdateAgent;
    let mut world = World::new(1, 1, 6);
    let agents = world.agents.clone();
    let value = "x".repeat(8_000);
    for agent in &agents {
        let env: BTreeMap<String, &str> = (0..7).map(|n| (format!("V{n}"), &*value)).collect();
        let profile = Json::of(&serde_json::json!({ "command": ["run"], "env": env }));
        let update = UpdateAgent { profile: Some(profile), ..UpdateAgent::default() };
        world.tell(agent.0, AgentCommand::Update(update), "operator");
        world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    }
    world.managers();
    let mut running = Vec::new();
    let mut rounds = Vec::new();
    while running.len() < agents.len() && rounds.len() < 9 {
        let request = SyncRequest { boot: Uuid::from_u128(1), agents: running.clone() };
        world.lifecycle.lock().take_calls();
        let now = world.instant();
        let reply = world.lifecycle.lock().sync(&tenant(), node_id(1), request, now);
        assert_eq!(reply.agents.len(), agents.len(), "what is not named is stopped");
        assert!(serde_json::to_vec(&reply).unwrap().len() < 300 * 1024);
        let new = reply.agents.iter().filter(|one| one.launch.is_some());
        let new = new.map(|one| (one.agent_id, one.generation));
        running.extend(new.map(|(agent_id, generation)| Running {
            agent_id,
            generation,
            phase: Phase::Starting,
        }));
        let called = !world.lifecycle.lock().take_calls().is_empty();
        rounds.push((running.len(), called));
    }
    assert_eq!(rounds, [(4, true), (6, false)]);
}

#[test]
fn a_round_awaits_what_is_under_way_for_an_agent_and_passes_over_who_left() {
    use super::work::{Next, Selection};
    use domain::{Code, OperationId, Problem};
    let mut world = World::new(1, 0, 1);
    let agent = world.agents[0];
    world.tell(agent.0, AgentCommand::Deploy(Default::default()), "operator");
    world.managers();
    let operation = world.state(agent).operation.expect("under way");
    let busy = Problem::new(Code::InProgress, "under way");
    let busy = Problem { conflicting_id: Some(operation.0), ..busy };
    let other = Problem::new(Code::IllegalTransition, "not now");
    let all = Selection::default();
    let next = |world: &World, problem: &Problem| {
        world.lifecycle.lock().after_refusal(&all, agent, problem)
    };
    assert_eq!(next(&world, &busy), Next::Await(OperationId(operation.0)));
    assert_eq!(next(&world, &other), Next::GiveUp);
    world.tell(agent.0, AgentCommand::Retire(Default::default()), "operator");
    world.managers();
    assert_eq!(next(&world, &other), Next::PassOver);
}
