//! Dependencies let a task go exactly when they should, in whatever order things happen;
//! and what stands still for too long is said once, with the task at which it lies.

use std::time::Duration;

use domain::task::{
    AssignTask, BlockTask, CompleteTask, Dependency, FailTask, Need, On, Task, TaskCommand,
    TaskEvent, TaskState, UpdateTask,
};
use domain::{Event, Json, Outcome, Status, TaskId};
use proptest::prelude::*;

use super::core::Scheduler;
use super::needs::Standing;
use crate::process::tests::memory::{Memory, agent_id, start_of_time, tenant};

const HOUR: Duration = Duration::from_secs(3_600);

/// A scheduler beside a log, asked for what the log says.
struct World {
    memory: Memory,
    scheduler: Scheduler,
    folded: usize,
}

impl World {
    fn new() -> Self {
        let mut scheduler = Scheduler::under(0, Some(HOUR));
        scheduler.advance(start_of_time());
        Self { memory: Memory::new(), scheduler, folded: 0 }
    }

    fn restart(&mut self) {
        self.scheduler = Scheduler::under(0, Some(HOUR));
        self.folded = 0;
    }

    fn fold(&mut self) {
        for event in self.memory.events().iter().skip(self.folded) {
            self.scheduler.apply(event);
            self.folded += 1;
        }
        self.scheduler.advance(self.memory.clock.now());
    }

    fn look_up(&mut self) {
        for (tenant, task) in self.scheduler.board.take_lookups(1_000) {
            let found = self.history(task).last().copied();
            self.scheduler.board.looked_up(&tenant, task, found);
        }
    }

    fn settled(&mut self) {
        self.fold();
        self.look_up();
    }

    /// How a task has stood, one event after the other, from the log alone.
    fn history(&self, task: TaskId) -> Vec<Standing> {
        let mut state = Task::default();
        let events = self.memory.events();
        let of_task = events.iter().filter(|event| event.stream_id == task.0);
        let stood = of_task.filter_map(|event| {
            let Ok(Event::Task(happened)) = event.event() else { return None };
            state.apply(happened);
            let at = event.recorded_at.timestamp_micros();
            let (state, archived) = (state.state?, state.archived);
            Some(Standing { state, archived, cause: event.position, at })
        });
        stood.collect()
    }

    fn waits(&self, task: TaskId) -> bool {
        self.scheduler.board.task(task).is_some_and(|entry| entry.needs.is_some())
    }

    fn say(&self, task: u128, command: TaskCommand) -> Outcome {
        self.memory.tell(TaskId::nth(task).0, command, "operator")
    }

    fn hold(&self, task: u128) -> u64 {
        self.say(task, TaskCommand::Assign(AssignTask::to(agent_id(1))));
        let events = self.memory.events();
        let tokens = events.iter().filter(|event| event.stream_id == TaskId::nth(task).0);
        let token = tokens.filter_map(|event| match event.event() {
            Ok(Event::Task(TaskEvent::Assigned(to))) => Some(to.lease_token),
            _ => None,
        });
        token.max().unwrap_or_default()
    }

    fn end(&self, task: u128, how: How) {
        let why = domain::task::Reason::default;
        match how {
            How::Done => {
                let (lease_token, result) = (self.hold(task), Json::null());
                self.say(task, TaskCommand::Complete(CompleteTask { lease_token, result }));
            }
            How::Failed => {
                let fail = FailTask {
                    lease_token: self.hold(task),
                    error: Json::null(),
                    retryable: false,
                    class: None,
                    retry_after_ms: None,
                };
                self.say(task, TaskCommand::Fail(fail));
            }
            How::Cancelled => drop(self.say(task, TaskCommand::Cancel(Default::default()))),
            How::Archived => drop(self.say(task, TaskCommand::Archive(why()))),
            How::Requeued => drop(self.say(task, TaskCommand::Requeue(Default::default()))),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    Failed,
    Cancelled,
    Archived,
    Requeued,
}

#[derive(Debug, Clone)]
enum Step {
    /// One of the first four comes into being.
    Submit(u128),
    End(u128, How),
    /// Somebody comes who waits for some of them.
    Wait(Vec<u128>, Dependency),
    /// Somebody who waits does so for others.
    Change(usize, Vec<u128>, Dependency),
    Fold,
    LookUp,
    Restart,
}

fn modes() -> impl Strategy<Value = Dependency> {
    let need = prop_oneof![Just(Need::All), Just(Need::Any)];
    let on = prop_oneof![Just(On::Success), Just(On::End)];
    (need, on).prop_map(|(need, on)| Dependency { need, on })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let how = prop_oneof![
        3 => Just(How::Done),
        3 => Just(How::Failed),
        1 => Just(How::Cancelled),
        1 => Just(How::Archived),
        3 => Just(How::Requeued),
    ];
    let some = || prop::collection::vec(1..=4u128, 1..4);
    let step = prop_oneof![
        4 => (1..=4u128).prop_map(Step::Submit),
        6 => (1..=4u128, how).prop_map(|(task, how)| Step::End(task, how)),
        4 => (some(), modes()).prop_map(|(on, mode)| Step::Wait(on, mode)),
        1 => (0..4usize, some(), modes()).prop_map(|(nth, on, mode)| Step::Change(nth, on, mode)),
        3 => Just(Step::Fold),
        3 => Just(Step::LookUp),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

/// Whether a task that has waited since a position is to be let go, by the log alone.
fn is_let_go(world: &World, on: &[u128], mode: Dependency, since: u64) -> bool {
    let met = |task: &u128| {
        let history = world.history(TaskId::nth(*task));
        let then = history.iter().rev().find(|stood| stood.cause <= since);
        let later = history.iter().filter(|stood| stood.cause > since);
        then.into_iter().chain(later).any(|stood| mode.is_met_by(stood.state, stood.archived))
    };
    match mode.need {
        Need::All => on.iter().all(met),
        Need::Any => on.iter().any(met),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dependencies_let_a_task_go_exactly_when_they_should(steps in steps()) {
        let mut world = World::new();
        let mut waiting: Vec<(u128, Vec<u128>, Dependency, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Submit(task) => {
                    let new = domain::task::SubmitTask::titled("t");
                    world.say(task, TaskCommand::Submit(new));
                }
                Step::End(task, how) => world.end(task, how),
                Step::Wait(on, mode) => {
                    let task = 10 + waiting.len() as u128;
                    world.memory.task(task, |new| {
                        new.depends_on = on.iter().copied().map(TaskId::nth).collect();
                        new.dependency = mode;
                    });
                    waiting.push((task, on, mode, world.memory.events().len() as u64));
                }
                Step::Change(nth, on, mode) => {
                    let Some(waits) = waiting.get_mut(nth) else { continue };
                    let changes = UpdateTask {
                        depends_on: Some(on.iter().copied().map(TaskId::nth).collect()),
                        dependency: Some(mode),
                        ..UpdateTask::default()
                    };
                    let outcome = world.say(waits.0, TaskCommand::Update(changes));
                    prop_assert_eq!(outcome.status, Status::Accepted);
                    *waits = (waits.0, on, mode, outcome.position);
                }
                Step::Fold => world.fold(),
                Step::LookUp => world.look_up(),
                Step::Restart => world.restart(),
            }
        }
        world.settled();
        for (task, on, mode, since) in &waiting {
            let let_go = is_let_go(&world, on, *mode, *since);
            prop_assert_eq!(!world.waits(TaskId::nth(*task)), let_go, "{} {:?} {:?}", task, on, mode);
        }
        world.restart();
        world.settled();
        for (task, on, mode, since) in &waiting {
            let let_go = is_let_go(&world, on, *mode, *since);
            prop_assert_eq!(!world.waits(TaskId::nth(*task)), let_go, "after a restart: {}", task);
        }
    }
}

fn waiting_for(world: &World, task: u128, on: &[u128], mode: Dependency) -> TaskId {
    world.memory.task(task, |new| {
        new.depends_on = on.iter().copied().map(TaskId::nth).collect();
        new.dependency = mode;
    })
}

/// The reasons of a task: code, what it names, the event that made it so.
fn reasons(world: &World, task: TaskId) -> Vec<(&'static str, Vec<TaskId>, Option<u64>)> {
    let reasons = world.scheduler.why(&tenant(), task).unwrap_or_default();
    let reason = |waits: super::why::Waits| {
        (waits.code, waits.ids.into_iter().map(TaskId).collect(), waits.cause)
    };
    reasons.into_iter().map(reason).collect()
}

#[test]
fn a_failed_dependency_is_named_and_lets_go_once_it_is_revived_and_done() {
    let mut world = World::new();
    world.memory.task(1, |_| {});
    let task = waiting_for(&world, 2, &[1], Dependency::default());
    world.end(1, How::Failed);
    world.settled();
    let failed = world.memory.events().len() as u64;
    let found = reasons(&world, task);
    assert_eq!(found, [("dependency_lost", vec![TaskId::nth(1)], Some(failed))]);
    let why = world.scheduler.why(&tenant(), task).unwrap_or_default();
    assert!(why[0].release.contains("requeue"), "{}", why[0].release);

    world.end(1, How::Requeued);
    world.settled();
    assert_eq!(reasons(&world, task)[0].0, "dependency");
    world.end(1, How::Done);
    world.settled();
    assert!(!world.waits(task));
}

#[test]
fn one_that_ended_before_it_was_waited_for_is_named_after_a_look_into_the_log() {
    let mut world = World::new();
    world.memory.task(1, |_| {});
    world.end(1, How::Cancelled);
    let cancelled = world.memory.events().len() as u64;
    let task = waiting_for(&world, 2, &[1], Dependency::default());
    world.settled();
    let lost = ("dependency_lost", vec![TaskId::nth(1)], Some(cancelled));
    assert_eq!(reasons(&world, task), [lost]);
    let on_end = Dependency { on: On::End, ..Dependency::default() };
    let other = waiting_for(&world, 3, &[1], on_end);
    world.settled();
    assert!(!world.waits(other), "it has ended");
}

#[test]
fn why_names_the_task_at_which_a_chain_stands_still() {
    let mut world = World::new();
    world.memory.task(1, |new| new.triage = true);
    waiting_for(&world, 2, &[1], Dependency::default());
    let task = waiting_for(&world, 3, &[2], Dependency::default());
    world.settled();
    let path = vec![TaskId::nth(3), TaskId::nth(2), TaskId::nth(1)];
    assert_eq!(reasons(&world, task)[1], ("chain_stuck", path, Some(1)));
    world.end(1, How::Requeued);
    world.settled();
    assert_eq!(reasons(&world, task).len(), 1, "it moves");
}

/// What is escalated now: the task, since when, the path.
fn escalated(world: &mut World) -> Vec<(TaskId, Vec<TaskId>, Option<TaskState>)> {
    world.settled();
    let now = world.memory.clock.now();
    let commands = world.scheduler.board.escalations(now);
    let mut told = Vec::new();
    for command in commands {
        let domain::Command::Task(TaskCommand::Escalate(found)) = &command.command else {
            panic!("{:?}", command.command)
        };
        told.push((TaskId(command.stream_id), found.path.clone(), found.head_state));
        let outcome = world.memory.decide(command.clone());
        assert_eq!(outcome.status, Status::Accepted, "{outcome:?}");
        world.fold();
        world.scheduler.board.settle(&command, &outcome, now);
    }
    told
}

fn block(world: &World, task: u128) {
    let lease_token = world.hold(task);
    world.say(task, TaskCommand::Start(domain::task::StartTask { lease_token }));
    let block = BlockTask { reason: "r".into(), lifted_by: vec![], lease_token: None };
    assert_eq!(world.say(task, TaskCommand::Block(block)).status, Status::Accepted);
}

#[test]
fn a_blocked_chain_is_escalated_once_per_period_and_again_for_the_next() {
    let mut world = World::new();
    world.memory.task(1, |_| {});
    waiting_for(&world, 2, &[1], Dependency::default());
    waiting_for(&world, 3, &[2], Dependency::default());
    block(&world, 1);
    assert_eq!(escalated(&mut world), []);
    world.memory.pass(HOUR - Duration::from_secs(5));
    assert_eq!(escalated(&mut world), [], "not a moment early");
    world.memory.pass(Duration::from_secs(6));
    let id = TaskId::nth;
    let blocked = Some(TaskState::Blocked);
    let mut told = escalated(&mut world);
    told.sort_by_key(|(task, ..)| *task);
    let expected = [
        (id(1), vec![id(1)], blocked),
        (id(2), vec![id(2), id(1)], blocked),
        (id(3), vec![id(3), id(2), id(1)], blocked),
    ];
    assert_eq!(told, expected);
    world.memory.pass(HOUR * 3);
    assert_eq!(escalated(&mut world), [], "once is enough");
    world.restart();
    world.memory.pass(HOUR * 3);
    assert_eq!(escalated(&mut world), [], "also for the next scheduler");

    world.say(1, TaskCommand::Unblock(Default::default()));
    world.memory.pass(HOUR * 3);
    assert_eq!(escalated(&mut world), [], "it moves");
    let block = BlockTask { reason: "r".into(), lifted_by: vec![], lease_token: None };
    world.say(1, TaskCommand::Block(block));
    assert_eq!(escalated(&mut world), []);
    world.memory.pass(HOUR + Duration::from_secs(1));
    assert_eq!(escalated(&mut world).len(), 3, "another time");
}

#[test]
fn hope_in_any_of_several_keeps_a_task_from_being_escalated() {
    let mut world = World::new();
    world.memory.task(1, |_| {});
    world.memory.task(2, |_| {});
    let any = Dependency { need: Need::Any, ..Dependency::default() };
    let task = waiting_for(&world, 3, &[1, 2], any);
    world.end(1, How::Failed);
    world.memory.pass(HOUR * 2);
    assert_eq!(escalated(&mut world), [], "the other one moves");
    world.end(2, How::Cancelled);
    assert_eq!(escalated(&mut world), []);
    world.memory.pass(HOUR + Duration::from_secs(1));
    let cancelled = Some(TaskState::Cancelled);
    assert_eq!(escalated(&mut world), [(task, vec![task, TaskId::nth(2)], cancelled)]);
}

#[test]
fn one_that_waits_for_what_was_never_submitted_is_escalated_too() {
    let mut world = World::new();
    let task = waiting_for(&world, 2, &[1], Dependency::default());
    world.settled();
    world.memory.pass(HOUR + Duration::from_secs(1));
    assert_eq!(escalated(&mut world), [(task, vec![task, TaskId::nth(1)], None)]);
    world.memory.task(1, |_| {});
    world.memory.pass(HOUR * 3);
    assert_eq!(escalated(&mut world), [], "it is there");
}

#[test]
fn nothing_is_watched_where_nothing_is_to_be_escalated() {
    let mut world = World::new();
    world.scheduler = Scheduler::under(0, None);
    waiting_for(&world, 2, &[1], Dependency::default());
    world.settled();
    world.memory.pass(HOUR * 9);
    assert_eq!(escalated(&mut world), []);
    assert_eq!(world.scheduler.next_due(), None);
}
