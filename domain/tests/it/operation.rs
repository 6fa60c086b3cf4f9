//! Stories of an operation.

use domain::operation::*;
use domain::task::TaskNoted;
use domain::{Code, Json, Problem, StreamType};

use crate::support::{at, code, decide};

use OperationCommand as C;
use OperationEvent as E;

fn when(given: &[E], command: C) -> Result<Vec<E>, domain::Refusal> {
    decide::<Operation, C>(given, command, at(0))
}

fn accept() -> AcceptOperation {
    AcceptOperation {
        kind: "agent.drain".into(),
        resource: Resource { kind: "agent".into(), id: "7".into() },
        command: Some(CommandSpec {
            kind: StreamType::Agent,
            id: uuid::Uuid::from_u128(7),
            command: "drain".into(),
            command_id: uuid::Uuid::from_u128(8),
            body: Json::parse("{}").expect("JSON"),
            expected_version: Some(3),
        }),
        input: Json::null(),
    }
}

fn accepted() -> E {
    let new = accept();
    E::Accepted(OperationAccepted {
        kind: new.kind,
        resource: new.resource,
        command: new.command,
        input: new.input,
    })
}

fn problem() -> Problem {
    Problem::new(Code::NotPossible, "no node")
}

/// Every command but `accept`, with the event it leads to.
fn commands() -> [(C, E); 5] {
    let far = OperationProgress { done: 1, total: Some(2), message: "half".into() };
    [
        (C::Start(Reason::default()), E::Started(TaskNoted::default())),
        (C::Progress(far.clone()), E::Progressed(far)),
        (
            C::Succeed(SucceedOperation { result: Json::of(&1) }),
            E::Succeeded(OperationSucceeded { result: Json::of(&1) }),
        ),
        (
            C::Fail(FailOperation { problem: problem() }),
            E::Failed(OperationFailed { problem: problem() }),
        ),
        (C::Cancel(Reason::default()), E::Cancelled(TaskNoted::default())),
    ]
}

#[test]
fn an_operation_carries_the_command_it_is_to_run() {
    assert_eq!(when(&[], C::Accept(accept())), Ok(vec![accepted()]));
    assert_eq!(code(when(&[accepted()], C::Accept(accept()))), Code::AlreadyExists);
}

#[test]
fn each_command_leads_to_its_event() {
    for (command, event) in commands() {
        assert_eq!(when(&[accepted()], command), Ok(vec![event]));
    }
}

#[test]
fn a_running_operation_does_not_start_again() {
    let running = [accepted(), E::Started(TaskNoted::default())];
    for (command, event) in commands() {
        let name = command.name();
        let result = when(&running, command);
        if name == "start" {
            assert_eq!(code(result), Code::IllegalTransition);
        } else {
            assert_eq!(result, Ok(vec![event]));
        }
    }
}

#[test]
fn an_end_is_final() {
    for (_, end) in commands().into_iter().skip(2) {
        for (command, _) in commands() {
            let refusal = when(&[accepted(), end.clone()], command).expect_err("refused");
            assert_eq!(refusal.code, Code::IllegalTransition);
            assert!(refusal.allowed.is_empty());
        }
    }
}

#[test]
fn nothing_can_be_asked_of_an_operation_that_was_never_accepted() {
    for (command, _) in commands() {
        assert_eq!(code(when(&[], command)), Code::NotFound);
    }
}
