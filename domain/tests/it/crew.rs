//! Stories of a crew.

use domain::crew::*;
use domain::task::{Reason, TaskNoted};
use domain::{AgentId, Code, Json};

use crate::support::{at, code, decide};

use CrewCommand as C;
use CrewEvent as E;

fn when(given: &[E], command: C) -> Result<Vec<E>, domain::Refusal> {
    decide::<Crew, C>(given, command, at(0))
}

fn assemble() -> AssembleCrew {
    AssembleCrew { name: "night shift".into(), agents: Json::of(&[1, 2]) }
}

fn role() -> AssignRole {
    AssignRole { agent_id: AgentId::nth(1), role: "lead".into() }
}

#[test]
fn a_crew_is_assembled_gets_roles_and_ends() {
    let assembled = E::AssemblyRequested(assemble());
    assert_eq!(when(&[], C::Assemble(assemble())), Ok(vec![assembled.clone()]));
    let given = [assembled];
    assert_eq!(when(&given, C::AssignRole(role())), Ok(vec![E::RoleAssigned(role())]));
    let ended = when(&given, C::Disband(Reason::default()));
    assert_eq!(ended, Ok(vec![E::Disbanded(TaskNoted::default())]));
}

#[test]
fn an_unknown_taken_or_disbanded_crew_refuses() {
    let assembled = || E::AssemblyRequested(assemble());
    let disbanded = || vec![assembled(), E::Disbanded(TaskNoted::default())];
    let disband = || C::Disband(Reason::default());
    for (given, command, expected) in [
        (vec![], C::AssignRole(role()), Code::NotFound),
        (vec![], disband(), Code::NotFound),
        (vec![assembled()], C::Assemble(assemble()), Code::AlreadyExists),
        (disbanded(), C::Assemble(assemble()), Code::AlreadyExists),
        (disbanded(), C::AssignRole(role()), Code::IllegalTransition),
        (disbanded(), disband(), Code::IllegalTransition),
    ] {
        assert_eq!(code(when(&given, command)), expected);
    }
}
