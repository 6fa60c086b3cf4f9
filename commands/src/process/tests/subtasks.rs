//! Subtasks go with a parent that nobody is to do any more; whatever dies in between.

use std::time::{Duration, Instant};

use domain::task::{
    AssignTask, CancelTask, CompleteTask, FailTask, Reason, RequeueTask, TaskCommand,
};
use domain::{Json, Status, TaskId};

use super::memory::{Memory, Wire, agent_id, eventually};
use crate::CommandEnvelope;
use crate::process::{Manager, Moment, Subtasks};

fn moment(memory: &Memory) -> Moment {
    Moment { time: memory.clock.now() + Duration::from_secs(1), instant: Instant::now() }
}

/// 1 has the parts 2 and 3, and 2 has 4.
fn family(memory: &Memory) {
    memory.task(1, |_| {});
    for (task, parent) in [(2, 1), (3, 1), (4, 2)] {
        memory.task(task, |new| new.parent_id = Some(TaskId::nth(parent)));
    }
}

fn cancel(memory: &Memory, task: u128, cascade: bool) {
    let command = CancelTask { reason: Some("the money is gone".into()), cascade };
    let outcome = memory.tell(TaskId::nth(task).0, TaskCommand::Cancel(command), "operator");
    assert_eq!(outcome.status, Status::Accepted);
}

fn hold(memory: &Memory, task: u128) {
    let to = AssignTask::to(agent_id(1));
    memory.tell(TaskId::nth(task).0, TaskCommand::Assign(to), "operator");
}

fn end(memory: &Memory, task: u128, well: bool) {
    hold(memory, task);
    let (lease_token, nothing) = (1, Json::null());
    let command = if well {
        TaskCommand::Complete(CompleteTask { lease_token, result: nothing })
    } else {
        let (class, retry_after_ms) = (None, None);
        let error = nothing;
        TaskCommand::Fail(FailTask { lease_token, error, retryable: false, class, retry_after_ms })
    };
    assert_eq!(memory.tell(TaskId::nth(task).0, command, "operator").status, Status::Accepted);
}

/// What a manager that folds the log from its start asks for.
fn asked(memory: &Memory) -> Vec<CommandEnvelope> {
    let mut subtasks = Subtasks::default();
    for event in memory.events() {
        subtasks.apply(&event);
    }
    subtasks.react(moment(memory))
}

fn streams(commands: &[CommandEnvelope]) -> Vec<TaskId> {
    commands.iter().map(|command| TaskId(command.stream_id)).collect()
}

#[test]
fn open_parts_are_cancelled_level_by_level_with_the_parent_as_the_reason() {
    let memory = Memory::new();
    family(&memory);
    assert!(asked(&memory).is_empty());
    cancel(&memory, 1, true);
    let cause = memory.events().len() as u64;
    let commands = asked(&memory);
    assert_eq!(streams(&commands), [TaskId::nth(2), TaskId::nth(3)]);
    let domain::Command::Task(TaskCommand::Cancel(said)) = &commands[0].command else { panic!() };
    let reason = said.reason.clone().unwrap();
    assert!(reason.contains(&TaskId::nth(1).to_string()) && reason.contains("money"), "{reason}");
    assert_eq!(commands[0].causation_position, Some(cause));
    for command in commands {
        assert_eq!(memory.decide(command).status, Status::Accepted);
    }
    assert_eq!(streams(&asked(&memory)), [TaskId::nth(4)]);
}

#[test]
fn a_manager_that_died_after_asking_asks_the_same_again() {
    let memory = Memory::new();
    family(&memory);
    cancel(&memory, 1, true);
    let (first, second) = (asked(&memory), asked(&memory));
    assert_eq!(memory.decide(first[0].clone()).status, Status::Accepted);
    assert_eq!(memory.decide(second[0].clone()).status, Status::Duplicate);
}

#[test]
fn parts_that_have_ended_and_parents_that_end_otherwise_are_left_alone() {
    let memory = Memory::new();
    family(&memory);
    end(&memory, 3, true);
    cancel(&memory, 1, true);
    assert_eq!(streams(&asked(&memory)), [TaskId::nth(2)], "3 is done");

    let memory = Memory::new();
    family(&memory);
    cancel(&memory, 1, false);
    assert!(asked(&memory).is_empty(), "it was said to go alone");

    let memory = Memory::new();
    family(&memory);
    end(&memory, 1, true);
    memory.tell(TaskId::nth(1).0, TaskCommand::Archive(Reason::default()), "operator");
    assert!(asked(&memory).is_empty(), "its parent is done");

    let memory = Memory::new();
    family(&memory);
    end(&memory, 1, false);
    memory.tell(TaskId::nth(1).0, TaskCommand::Archive(Reason::default()), "operator");
    assert!(asked(&memory).is_empty(), "its parent has failed");
}

#[test]
fn a_parent_taken_off_the_lists_before_its_end_takes_its_parts_along() {
    let memory = Memory::new();
    family(&memory);
    memory.tell(TaskId::nth(1).0, TaskCommand::Archive(Reason::default()), "operator");
    assert_eq!(streams(&asked(&memory)), [TaskId::nth(2), TaskId::nth(3)]);
}

#[test]
fn a_part_that_was_revived_is_open_again() {
    let memory = Memory::new();
    family(&memory);
    end(&memory, 3, false);
    memory.tell(TaskId::nth(3).0, TaskCommand::Requeue(RequeueTask::default()), "operator");
    cancel(&memory, 1, true);
    assert_eq!(streams(&asked(&memory)), [TaskId::nth(2), TaskId::nth(3)]);
}

#[tokio::test]
async fn the_managers_cancel_a_whole_tree_also_when_the_log_is_busy() {
    let memory = Memory::new();
    family(&memory);
    hold(&memory, 4);
    cancel(&memory, 1, true);
    memory.busy.store(3, std::sync::atomic::Ordering::SeqCst);
    let running = memory.run(&Wire::default(), vec![]);
    eventually("all four are cancelled", || memory.count("cancelled") == 4).await;
    running.stop().await;
}
