//! Stories of an agent.

use domain::agent::*;
use domain::task::TaskNoted;
use domain::{Code, Json};

use crate::support::{at, code, decide};

use AgentCommand as C;
use AgentEvent as E;
use AgentState as S;

fn when(given: &[E], command: C) -> Result<Vec<E>, domain::Refusal> {
    decide::<Agent, C>(given, command, at(0))
}

fn registered() -> E {
    let events = when(&[], C::Register(RegisterAgent::named("ada"))).expect("accepted");
    events.into_iter().next().expect("one event")
}

fn note() -> TaskNoted {
    TaskNoted::default()
}

fn no() -> Reason {
    Reason::default()
}

fn reported(observed_state: S) -> E {
    E::Reported(AgentReported { observed_state, reason: None })
}

fn report(observed_state: S) -> C {
    C::Report(ReportAgent { observed_state, reason: None })
}

fn retired() -> E {
    E::Retired(AgentRetired { name: "ada".into(), reason: None })
}

/// A history that ends in a state, where one leads there.
fn history(state: S) -> Option<Vec<E>> {
    let last = match state {
        S::Created => return Some(vec![registered()]),
        S::Deploying => E::DeployRequested(note()),
        S::Warming => E::Woken(note()),
        S::Ready => E::Ready(note()),
        S::Busy | S::Blocked | S::Degraded | S::Unhealthy | S::Offline | S::Failed => {
            reported(state)
        }
        S::Hibernating => E::Hibernated(note()),
        S::Draining => E::Draining(note()),
        S::Retired => retired(),
        S::ForceStopped => E::ForceStopped(note()),
        S::Validating | S::Validated => return None,
    };
    Some(vec![registered(), last])
}

fn command(name: &str) -> C {
    let body = match name {
        "register" => r#"{"name":"ada"}"#,
        "update" => r#"{"slots":2}"#,
        "report" => r#"{"observed_state":"failed"}"#,
        _ => "{}",
    };
    C::parse(name, body.as_bytes()).expect("well formed").expect("known")
}

#[test]
fn a_registration_says_what_the_agent_said_of_itself() {
    let new = RegisterAgent {
        capabilities: vec!["rust".into()],
        slots: 4,
        profile: Json::of("small"),
        ttl_ms: Some(5_000),
        ..RegisterAgent::named("ada")
    };
    let events = when(&[], C::Register(new)).expect("accepted");
    let [E::Registered(new)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((new.role.as_str(), new.slots, new.ttl_ms), ("worker", 4, Some(5_000)));
    assert_eq!(new.session_key, "agent:worker:ada");
    assert_eq!(new.profile, Json::of("small"));
}

#[test]
fn an_agent_that_registers_again_is_known_again() {
    let again = C::Register(RegisterAgent::named("ada"));
    for given in [vec![registered()], vec![registered(), E::Draining(note())]] {
        let events = when(&given, again.clone()).expect("accepted");
        assert_eq!(events[0].name(), "reconnected");
        assert_eq!(state_after(Some(S::Draining), &events[0]), Some(S::Created));
    }
    let other = C::Register(RegisterAgent::named("bob"));
    assert_eq!(code(when(&[registered()], other)), Code::AlreadyExists);
}

#[test]
fn nothing_can_be_asked_of_an_agent_that_never_registered() {
    for name in C::NAMES.iter().filter(|name| **name != "register") {
        assert_eq!(code(when(&[], command(name))), Code::NotFound, "{name}");
    }
}

#[test]
fn each_command_leads_to_its_event_and_state() {
    for (name, event, state) in [
        ("update", "updated", S::Created),
        ("deploy", "deploy_requested", S::Deploying),
        ("mark_ready", "ready", S::Ready),
        ("report", "reported", S::Failed),
        ("drain", "draining", S::Draining),
        ("hibernate", "hibernated", S::Hibernating),
        ("restart", "restarted", S::Deploying),
        ("retire", "retired", S::Retired),
        ("force_stop", "force_stopped", S::ForceStopped),
    ] {
        let events = when(&[registered()], command(name)).expect("accepted");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].name(), event);
        assert_eq!(state_after(Some(S::Created), &events[0]), Some(state), "{name}");
    }
    let asleep = [registered(), E::Hibernated(note())];
    assert_eq!(when(&asleep, C::Wake(no())), Ok(vec![E::Woken(note())]));
}

#[test]
fn every_state_takes_exactly_the_commands_it_lists() {
    for state in S::ALL {
        let Some(given) = history(state) else { continue };
        for name in C::NAMES {
            let result = when(&given, command(name));
            if state.allowed().contains(name) {
                assert!(result.is_ok(), "{name} in {state:?}: {result:?}");
            } else {
                let refusal = result.expect_err("refused");
                assert_eq!(refusal.code, Code::IllegalTransition, "{name} in {state:?}");
                assert_eq!(refusal.allowed, state.allowed());
                assert_eq!(refusal.state.as_deref(), Some(state.as_str()));
            }
        }
    }
}

#[test]
fn what_is_so_already_is_no_event() {
    let ready = [registered(), E::Ready(note())];
    assert_eq!(when(&ready, C::MarkReady(no())), Ok(vec![]));
    assert_eq!(when(&ready, report(S::Ready)), Ok(vec![]));
    assert_eq!(when(&ready, report(S::Degraded)), Ok(vec![reported(S::Degraded)]));
}

#[test]
fn what_an_agent_is_told_outweighs_what_it_says_but_for_its_end() {
    for told in [S::Draining, S::Hibernating] {
        let given = history(told).expect("a history");
        for said in [S::Ready, S::Busy, S::Degraded, S::Unhealthy] {
            assert_eq!(when(&given, report(said)), Ok(vec![]), "{told:?}, {said:?}");
        }
        for said in [S::Offline, S::Failed] {
            assert_eq!(when(&given, report(said)), Ok(vec![reported(said)]), "{told:?}, {said:?}");
        }
    }
}

#[test]
fn the_last_words_of_a_stopped_process_do_not_revive_it() {
    let given = [registered(), E::ForceStopped(note())];
    for said in [S::Ready, S::Busy, S::Offline, S::Failed] {
        assert_eq!(when(&given, report(said)), Ok(vec![]), "{said:?}");
    }
    assert_eq!(when(&given, C::MarkReady(no())), Ok(vec![E::Ready(note())]));
}

#[test]
fn a_retired_agent_never_comes_back_and_its_name_is_free() {
    use domain::{ClaimChange, Command, Event};
    let register = Command::from(C::Register(RegisterAgent::named("ada")));
    let claim = register.claim().expect("a name");
    assert_eq!((claim.kind, claim.value.as_str()), ("agent_name", "ada"));
    let taken = Event::Agent(registered()).claim_change();
    assert_eq!(taken, Some(ClaimChange::Take(claim.clone())));

    let events = when(&[registered()], C::Retire(no())).expect("accepted");
    assert_eq!(events, [retired()]);
    let freed = Event::Agent(retired()).claim_change();
    assert_eq!(freed, Some(ClaimChange::Free(claim)));
}
