//! Deadlines and watchdog alone: given events, then commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::agent::{AgentCommand, AgentState};
use domain::profile::Watch;
use domain::task::{AssignTask, ExtendTask, FailTask, RequeueTask, StartTask, TaskCommand};
use domain::{Command, Status};
use parking_lot::Mutex;

use super::memory::{Memory, agent_id, start_of_time};
use crate::process::watchdog::Signs;
use crate::process::{Deadlines, Manager, Moment, Watchdog};
use crate::{CommandEnvelope, Observation};

fn moment(memory: &Memory) -> Moment {
    Moment { time: memory.clock.now(), instant: Instant::now() }
}

fn fold(memory: &Memory, manager: &mut dyn Manager) {
    for event in memory.events() {
        manager.apply(&event);
    }
}

fn assigned(memory: &Memory) {
    let (task, agent) = (memory.task(1, |_| {}), memory.agent(7, |_| {}));
    let to = AssignTask { lease_ms: Some(10_000), ..AssignTask::to(agent) };
    memory.tell(task.0, TaskCommand::Assign(to), "operator");
}

#[test]
fn a_lease_is_ended_when_it_has_run_out_and_not_before() {
    let memory = Memory::new();
    assigned(&memory);
    let mut leases = Deadlines::default();
    fold(&memory, &mut leases);
    assert!(leases.react(moment(&memory)).is_empty());
    assert!(leases.due(moment(&memory)).unwrap() <= Duration::from_secs(10));
    memory.pass(Duration::from_secs(11));
    let commands = leases.react(moment(&memory));
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0].command.name(), "expire_lease");
    assert!(leases.react(moment(&memory)).is_empty(), "asked once while under way");
    assert_eq!(memory.decide(commands[0].clone()).status, Status::Accepted);
}

#[test]
fn a_watcher_that_died_after_asking_asks_the_same_again() {
    let memory = Memory::new();
    assigned(&memory);
    memory.pass(Duration::from_secs(11));
    let ask = || {
        let mut leases = Deadlines::default();
        fold(&memory, &mut leases);
        leases.react(moment(&memory))
    };
    let (first, second) = (ask(), ask());
    assert_eq!(memory.decide(first[0].clone()).status, Status::Accepted);
    assert_eq!(memory.decide(second[0].clone()).status, Status::Duplicate);
    assert!(ask().is_empty(), "its event ended the lease");
}

#[test]
fn a_lease_that_runs_on_by_the_other_clock_is_asked_for_again() {
    let memory = Memory::new();
    assigned(&memory);
    let mut leases = Deadlines::default();
    fold(&memory, &mut leases);
    // The watcher's clock is ahead of the one that decides.
    let early = Moment { time: memory.clock.now() + Duration::from_secs(11), ..moment(&memory) };
    let first = leases.react(early);
    let outcome = memory.decide(first[0].clone());
    assert_eq!(outcome.status, Status::Refused);
    leases.settle(&first[0], &outcome, early);
    memory.pass(Duration::from_secs(12));
    let second = leases.react(moment(&memory));
    assert_ne!(second[0].command_id, first[0].command_id);
    assert_eq!(memory.decide(second[0].clone()).status, Status::Accepted);
}

#[test]
fn an_extended_lease_is_left_alone() {
    let memory = Memory::new();
    assigned(&memory);
    memory.pass(Duration::from_secs(8));
    let (task, agent) = (domain::TaskId::nth(1), agent_id(7));
    let longer = ExtendTask { lease_token: 1, lease_ms: Some(10_000) };
    memory.answer(TaskCommand::Start(StartTask { lease_token: 1 }), task, agent);
    memory.answer(TaskCommand::Extend(longer), task, agent);
    memory.pass(Duration::from_secs(8));
    let mut leases = Deadlines::default();
    fold(&memory, &mut leases);
    assert!(leases.react(moment(&memory)).is_empty());
    memory.pass(Duration::from_secs(3));
    assert_eq!(leases.react(moment(&memory)).len(), 1);
}

#[test]
fn that_a_task_is_overdue_is_recorded_when_its_time_has_passed() {
    let memory = Memory::new();
    let due = memory.clock.now() + Duration::from_secs(5);
    let task = memory.task(1, |new| new.due_at = Some(due));
    let mut deadlines = Deadlines::default();
    fold(&memory, &mut deadlines);
    assert!(deadlines.react(moment(&memory)).is_empty());
    memory.pass(Duration::from_secs(6));
    let commands = deadlines.react(moment(&memory));
    assert_eq!(commands.len(), 1);
    assert_eq!((commands[0].command.name(), commands[0].stream_id), ("mark_overdue", task.0));
    assert_eq!(memory.decide(commands[0].clone()).status, Status::Accepted);
    let mut deadlines = Deadlines::default();
    fold(&memory, &mut deadlines);
    assert!(deadlines.react(moment(&memory)).is_empty(), "once is enough");
}

#[test]
fn a_dead_letter_is_archived_after_its_time_unless_it_was_revived() {
    let memory = Memory::new();
    let agent = memory.agent(7, |_| {});
    let (kept, revived) = (memory.task(1, |_| {}), memory.task(2, |_| {}));
    for task in [kept, revived] {
        let to = TaskCommand::Assign(AssignTask::to(agent));
        memory.tell(task.0, to, "operator");
        let error = domain::Json::null();
        let fail =
            FailTask { lease_token: 1, error, retryable: false, class: None, retry_after_ms: None };
        memory.answer(TaskCommand::Fail(fail), task, agent);
    }
    let day = Duration::from_secs(86_400);
    let mut deadlines = Deadlines::new(Some(day));
    fold(&memory, &mut deadlines);
    memory.tell(revived.0, TaskCommand::Requeue(RequeueTask::default()), "operator");
    assert!(deadlines.react(moment(&memory)).is_empty());
    memory.pass(day + Duration::from_secs(1));
    // It has not heard of the revival: the version that it expects protects the task.
    let commands = deadlines.react(moment(&memory));
    let decided: Vec<_> = commands
        .iter()
        .map(|command| (command.stream_id, memory.decide(command.clone()).status))
        .collect();
    assert_eq!(decided, [(kept.0, Status::Accepted), (revived.0, Status::Refused)]);
}

type Seen = Arc<Mutex<Option<Observation>>>;

fn watchdog(memory: &Memory) -> (Watchdog, Seen) {
    let seen = Seen::default();
    let signs = seen.clone();
    let look = move |_: &_, _| Signs { seen: signs.lock().clone(), watch: None };
    let mut watchdog = Watchdog::new(Box::new(look), Watch::default());
    fold(memory, &mut watchdog);
    (watchdog, seen)
}

fn beat(at: Instant, state: Option<&str>) -> Option<Observation> {
    let observed_state = state.map(Into::into);
    Some(Observation { observed_state, ..Observation::seen(at, start_of_time()) })
}

fn look(watchdog: &mut Watchdog, memory: &Memory, instant: Instant) -> Vec<CommandEnvelope> {
    watchdog.react(Moment { time: memory.clock.now(), instant })
}

fn believed(commands: &[CommandEnvelope]) -> Vec<AgentState> {
    let states = commands.iter().map(|envelope| {
        let Command::Agent(AgentCommand::Assess(believed)) = &envelope.command else {
            panic!("{} is no conclusion", envelope.command.name())
        };
        believed.state
    });
    states.collect()
}

#[test]
fn the_first_heartbeat_makes_an_agent_ready_and_silence_takes_it_offline() {
    let memory = Memory::new();
    memory.agent(1, |new| new.ttl_ms = Some(3_000));
    let (mut watchdog, seen) = watchdog(&memory);
    let start = Instant::now();
    assert!(look(&mut watchdog, &memory, start).is_empty());
    *seen.lock() = beat(start, None);
    let ready = look(&mut watchdog, &memory, start + Duration::from_secs(1));
    assert_eq!(ready[0].command.name(), "mark_ready");
    memory.decide(ready[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(2)).is_empty());
    let gone = look(&mut watchdog, &memory, start + Duration::from_secs(9));
    assert_eq!(believed(&gone), [AgentState::Offline]);
    memory.decide(gone[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(10)).is_empty());
    *seen.lock() = beat(start + Duration::from_secs(11), None);
    let back = look(&mut watchdog, &memory, start + Duration::from_secs(12));
    assert_eq!(back[0].command.name(), "mark_ready");
    assert_ne!(back[0].command_id, ready[0].command_id);
}

#[test]
fn a_watchdog_that_just_started_gives_everybody_a_full_time_to_live() {
    let memory = Memory::new();
    let agent = memory.agent(1, |new| new.ttl_ms = Some(3_000));
    let ready = AgentCommand::MarkReady(Default::default());
    memory.tell(agent.0, ready, "manager:watchdog");
    let (mut watchdog, _) = watchdog(&memory);
    let start = Instant::now();
    assert!(look(&mut watchdog, &memory, start).is_empty());
    assert!(look(&mut watchdog, &memory, start + Duration::from_millis(2_900)).is_empty());
    let gone = look(&mut watchdog, &memory, start + Duration::from_secs(4));
    assert_eq!(believed(&gone), [AgentState::Offline]);
}

#[test]
fn silence_of_an_agent_that_never_said_anything_means_nothing() {
    let memory = Memory::new();
    memory.agent(1, |new| new.ttl_ms = Some(1_000));
    let (mut watchdog, _) = watchdog(&memory);
    let start = Instant::now();
    look(&mut watchdog, &memory, start);
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(60)).is_empty());
}

#[test]
fn an_agent_that_registered_itself_is_expected_to_speak() {
    let memory = Memory::new();
    let agent = agent_id(1);
    let new = domain::agent::RegisterAgent::named("self");
    memory.tell(agent.0, AgentCommand::Register(new), &format!("agent:{agent}"));
    let (mut watchdog, _) = watchdog(&memory);
    let start = Instant::now();
    look(&mut watchdog, &memory, start);
    let ill = look(&mut watchdog, &memory, start + Duration::from_secs(31));
    assert_eq!(believed(&ill), [AgentState::Unhealthy]);
    memory.decide(ill[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(89)).is_empty());
    let gone = look(&mut watchdog, &memory, start + Duration::from_secs(91));
    assert_eq!(believed(&gone), [AgentState::Offline]);
}

#[test]
fn a_heartbeat_does_not_bring_a_drained_agent_back() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.tell(agent.0, AgentCommand::Drain(Default::default()), "operator");
    let (mut watchdog, seen) = watchdog(&memory);
    let start = Instant::now();
    look(&mut watchdog, &memory, start);
    let gone = look(&mut watchdog, &memory, start + Duration::from_secs(31));
    assert!(gone.is_empty(), "nothing was ever seen of it");
    *seen.lock() = beat(start, None);
    let gone = look(&mut watchdog, &memory, start + Duration::from_secs(91));
    assert_eq!(believed(&gone), [AgentState::Offline]);
    memory.decide(gone[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    *seen.lock() = beat(start + Duration::from_secs(92), None);
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(93)).is_empty());
}

#[test]
fn what_an_agent_says_of_itself_is_reported_once() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.tell(agent.0, AgentCommand::MarkReady(Default::default()), "operator");
    let (mut watchdog, seen) = watchdog(&memory);
    let start = Instant::now();
    *seen.lock() = beat(start, Some("degraded"));
    let said = look(&mut watchdog, &memory, start);
    assert_eq!(believed(&said), [AgentState::Degraded]);
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(1)).is_empty());
    memory.decide(said[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    assert!(look(&mut watchdog, &memory, start + Duration::from_secs(2)).is_empty());
    *seen.lock() = beat(start + Duration::from_secs(3), Some("ready"));
    let well = look(&mut watchdog, &memory, start + Duration::from_secs(3));
    assert_eq!(well[0].command.name(), "mark_ready");
}

#[test]
fn work_that_stands_still_degrades_an_agent_whose_heart_beats() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.tell(agent.0, AgentCommand::MarkReady(Default::default()), "operator");
    let task = memory.task(1, |new| new.stall_ms = Some(2_000));
    memory.tell(task.0, TaskCommand::Assign(AssignTask::to(agent)), "operator");
    memory.answer(TaskCommand::Start(StartTask { lease_token: 1 }), task, agent);
    let (mut watchdog, seen) = watchdog(&memory);
    let start = Instant::now();
    let at = |s: u64| start + Duration::from_secs(s);
    let beats = |s: u64, counter| {
        let beat = beat(at(s), Some("busy"));
        *seen.lock() = beat.map(|beat| Observation { progress_seq: Some(counter), ..beat });
    };
    beats(0, 1);
    assert!(look(&mut watchdog, &memory, at(0)).is_empty());
    beats(1, 2);
    assert!(look(&mut watchdog, &memory, at(1)).is_empty(), "it got on");
    beats(3, 2);
    assert!(look(&mut watchdog, &memory, at(3)).is_empty(), "two seconds are allowed");
    beats(4, 2);
    let still = look(&mut watchdog, &memory, at(4));
    assert_eq!(believed(&still), [AgentState::Degraded]);
    let Command::Agent(AgentCommand::Assess(why)) = &still[0].command else { panic!() };
    assert!(why.reason.contains(&task.to_string()), "{}", why.reason);
    memory.decide(still[0].clone());
    watchdog.apply(memory.events().last().unwrap());
    beats(5, 2);
    assert!(look(&mut watchdog, &memory, at(5)).is_empty(), "its heartbeat mends nothing");
    beats(6, 3);
    let well = look(&mut watchdog, &memory, at(6));
    assert_eq!(well[0].command.name(), "mark_ready");
}

#[test]
fn a_heartbeat_after_the_end_is_recorded_once_and_changes_nothing() {
    let memory = Memory::new();
    let agent = memory.agent(1, |_| {});
    memory.tell(agent.0, AgentCommand::ForceStop(Default::default()), "operator");
    let (mut watchdog, seen) = watchdog(&memory);
    let start = Instant::now();
    look(&mut watchdog, &memory, start);
    *seen.lock() = beat(start + Duration::from_secs(5), Some("ready"));
    let late = look(&mut watchdog, &memory, start + Duration::from_secs(5));
    assert_eq!(late[0].command.name(), "report");
    memory.decide(late[0].clone());
    let event = memory.events().last().cloned().unwrap();
    assert_eq!(&*event.event_type, "ignored");
    watchdog.apply(&event);
    *seen.lock() = beat(start + Duration::from_secs(9), Some("ready"));
    let again = look(&mut watchdog, &memory, start + Duration::from_secs(9));
    let decided = again.iter().map(|command| memory.decide(command.clone()).status);
    assert!(decided.into_iter().all(|status| status == Status::Duplicate));
}
