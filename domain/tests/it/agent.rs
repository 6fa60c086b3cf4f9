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

fn asked() -> AgentAsked {
    AgentAsked::default()
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
    E::Retired(AgentRetired { name: "ada".into(), reason: None, operation_id: None })
}

/// A history that ends in a state.
fn history(state: S) -> Vec<E> {
    let last = match state {
        S::Created => return vec![registered()],
        S::Deploying => E::Restarted(asked()),
        S::Warming => E::Woken(asked()),
        S::Ready => E::Ready(note()),
        S::Busy | S::Blocked | S::Degraded | S::Unhealthy | S::Offline | S::Failed => {
            reported(state)
        }
        S::Hibernating => E::Hibernated(asked()),
        S::Draining => E::Draining(asked()),
        S::Retired => retired(),
        S::ForceStopped => E::ForceStopped(asked()),
        S::Validating => E::DeployRequested(asked()),
        S::Validated => E::Validated(ValidateAgent { reason: String::new() }),
    };
    vec![registered(), last]
}

fn command(name: &str) -> C {
    let body = match name {
        "register" => r#"{"name":"ada"}"#,
        "update" => r#"{"slots":2}"#,
        "report" => r#"{"observed_state":"failed"}"#,
        "assess" => r#"{"state":"failed","reason":"r"}"#,
        "validate" => r#"{"reason":"r"}"#,
        "place" => {
            r#"{"node_id":"00000000-0000-0000-0000-000000000009","node":"n",
            "launch":{"role":"worker","slots":1,"profile":{"command":["run"]}}}"#
        }
        "observe" => {
            r#"{"node_id":"00000000-0000-0000-0000-000000000009","generation":1,"seq":1,
            "phase":"ready"}"#
        }
        "schedule_restart" => r#"{"delay_ms":5,"attempt":1,"reason":"r"}"#,
        "quarantine" => r#"{"restarts":5,"window_ms":1000,"reason":"r"}"#,
        "hand_back" => r#"{"tasks":2,"waited_ms":5}"#,
        "drift" => r#"{"state":"open","desired":"ready","age_ms":5,"owner":"node"}"#,
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
    for given in [vec![registered()], vec![registered(), E::Draining(asked())]] {
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
        ("mark_ready", "ready", S::Ready),
        ("report", "reported", S::Failed),
        ("drain", "draining", S::Draining),
        ("hibernate", "hibernated", S::Hibernating),
        ("restart", "restarted", S::Deploying),
        ("retire", "retired", S::Retired),
        ("force_stop", "force_stopped", S::ForceStopped),
        ("assess", "assessed", S::Failed),
        ("quarantine", "quarantined", S::Failed),
        ("schedule_restart", "restart_scheduled", S::Created),
        ("drift", "drifted", S::Created),
        ("observe", "ignored", S::Created),
        ("begin_round", "round_begun", S::Created),
    ] {
        let events = when(&[registered()], command(name)).expect("accepted");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].name(), event);
        assert_eq!(state_after(Some(S::Created), &events[0]), Some(state), "{name}");
    }
    let asleep = [registered(), E::Hibernated(asked())];
    assert_eq!(when(&asleep, C::Wake(no())), Ok(vec![E::Woken(asked())]));
}

#[test]
fn every_state_takes_exactly_the_commands_it_lists() {
    for state in S::ALL {
        let given = history(state);
        for name in C::NAMES {
            let result = when(&given, command(name));
            // Without a profile there is nothing to deploy in any state.
            if *name == "deploy" && state.allowed().contains(name) {
                assert_eq!(code(result), Code::NotPossible);
                continue;
            }
            if state.allowed().contains(name) {
                assert!(result.is_ok(), "{name} in {state:?}: {result:?}");
            } else {
                let refusal = result.expect_err("refused");
                assert_eq!(refusal.code, Code::IllegalTransition, "{name} in {state:?}");
                let mut possible = state.allowed().to_vec();
                possible.retain(|name| *name != "deploy");
                assert_eq!(refusal.allowed, possible);
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
        let given = history(told);
        for said in [S::Ready, S::Busy, S::Degraded, S::Unhealthy] {
            assert_eq!(when(&given, report(said)), Ok(vec![]), "{told:?}, {said:?}");
        }
        for said in [S::Offline, S::Failed] {
            assert_eq!(when(&given, report(said)), Ok(vec![reported(said)]), "{told:?}, {said:?}");
        }
    }
}

#[test]
fn what_comes_after_the_end_is_recorded_and_changes_nothing() {
    for end in [S::ForceStopped, S::Failed, S::Retired] {
        let given = history(end);
        for said in [S::Ready, S::Busy, S::Offline, S::Failed] {
            let events = when(&given, report(said)).expect("recorded");
            let [E::Ignored(ignored)] = events.as_slice() else { panic!("{events:?}") };
            assert_eq!((ignored.what.as_str(), ignored.said.as_str()), ("report", said.as_str()));
            assert_eq!(state_after(Some(end), &events[0]), Some(end));
        }
        let illegal = code(when(&given, C::MarkReady(no())));
        assert_eq!(illegal, Code::IllegalTransition, "{end:?}");
    }
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

fn managed() -> Vec<E> {
    let new = RegisterAgent {
        profile: Json::parse(r#"{"command":["run"]}"#).expect("JSON"),
        capabilities: vec!["rust".into()],
        ..RegisterAgent::named("ada")
    };
    when(&[], C::Register(new)).expect("accepted")
}

/// A life, one command after the other; `phase:generation` is an observation.
fn live(words: &str) -> (Agent, Vec<E>) {
    let mut events = managed();
    let mut agent = Agent::default();
    events.iter().for_each(|event| agent.apply(event));
    for word in words.split_whitespace() {
        let command = match word.split_once(':') {
            Some((phase, generation)) => {
                let seq = agent.process.as_ref().map_or(1, |process| process.seq + 1);
                let body = format!(
                    r#"{{"node_id":"00000000-0000-0000-0000-000000000009",
                    "generation":{generation},"seq":{seq},"phase":"{phase}"}}"#
                );
                C::parse("observe", body.as_bytes()).expect("well formed").expect("known")
            }
            None => command(word),
        };
        let new = when(&events, command).unwrap_or_else(|refusal| panic!("{word}: {refusal:?}"));
        new.iter().for_each(|event| agent.apply(event));
        events.extend(new);
    }
    (agent, events)
}

#[test]
fn a_managed_agent_goes_through_its_states_as_its_node_tells() {
    for (words, state) in [
        ("deploy", S::Validating),
        ("deploy validate", S::Validated),
        ("deploy place", S::Deploying),
        ("deploy place starting:1", S::Deploying),
        ("deploy place started:1", S::Warming),
        ("deploy place started:1 warming:1 ready:1", S::Ready),
        ("deploy place ready:1 not_ready:1", S::Blocked),
        // Its own word mends no probe.
        ("deploy place ready:1 not_ready:1 mark_ready", S::Blocked),
        ("deploy place ready:1 not_ready:1 ready:1", S::Ready),
        ("deploy place ready:1 unhealthy:1", S::Unhealthy),
        ("deploy place ready:1 exited:1", S::Offline),
        ("deploy place start_failed:1", S::Offline),
        ("deploy place ready:1 exited:1 schedule_restart restart", S::Deploying),
        ("deploy place ready:1 exited:1 restart place ready:2", S::Ready),
        ("deploy place ready:1 drain", S::Draining),
        ("deploy place ready:1 drain not_ready:1 terminating:1", S::Draining),
        ("deploy place ready:1 drain terminating:1 exited:1", S::Offline),
        ("deploy place ready:1 hibernate exited:1", S::Hibernating),
        ("deploy place ready:1 hibernate exited:1 wake place ready:2", S::Ready),
        ("deploy place ready:1 force_stop exited:1", S::ForceStopped),
        ("deploy place ready:1 retire ready:1", S::Retired),
        ("deploy place ready:1 quarantine exited:1", S::Failed),
        // Its process registers, too, and says that it is ready: its node knows better.
        ("deploy place started:1 register mark_ready", S::Warming),
        // An older process has nothing to say any more.
        ("deploy place ready:1 restart place exited:1", S::Deploying),
    ] {
        let (agent, _) = live(words);
        assert_eq!(agent.state, Some(state), "{words}");
    }
}

#[test]
fn what_is_observed_late_is_recorded_and_changes_nothing() {
    let (before, _) = live("deploy place ready:1 restart place");
    let (after, events) = live("deploy place ready:1 restart place exited:1");
    assert_eq!(before, after);
    let E::Ignored(ignored) = events.last().expect("one") else { panic!("{events:?}") };
    assert_eq!(ignored.said, "generation 1: exited");
    // The end of a process that was told to end is a fact, but moves nothing.
    let (agent, events) = live("deploy place ready:1 retire exited:1");
    assert_eq!(events.last().expect("one").name(), "observed");
    assert_eq!((agent.state, agent.operation), (Some(S::Retired), None));
}

#[test]
fn one_operation_at_a_time_and_the_refusal_names_it() {
    for first in ["deploy", "deploy place ready:1 restart", "deploy place ready:1 drain"] {
        let (agent, events) = live(first);
        let running = agent.operation.expect("an operation").0;
        for second in ["deploy", "restart", "drain", "hibernate", "wake"] {
            let refusal = when(&events, command(second)).expect_err("refused");
            assert_eq!(refusal.code, Code::InProgress, "{first}, {second}");
            assert_eq!(refusal.conflicting_id, Some(running));
        }
        assert!(when(&events, command("force_stop")).is_ok(), "{first}");
    }
    for over in [
        "deploy place ready:1",
        "deploy place ready:1 drain exited:1",
        "deploy place ready:1 drain mark_ready",
        "deploy assess",
    ] {
        assert_eq!(live(over).0.operation, None, "{over}");
    }
}

#[test]
fn what_a_started_process_leaves_out_of_its_registration_stays() {
    let (_, events) = live("deploy place ready:1 register");
    let E::Reconnected(said) = events.last().expect("one") else { panic!("{events:?}") };
    assert_eq!(said.capabilities, ["rust"]);
    assert!(said.led && !said.profile.is_null());
}

#[test]
fn a_running_agent_that_names_its_profile_again_stays_as_its_node_sees_it() {
    let (agent, mut events) = live("deploy place ready:1");
    let said = RegisterAgent {
        profile: Json::parse(r#"{"command":["other"]}"#).expect("JSON"),
        ..RegisterAgent::named("ada")
    };
    events.extend(when(&events, C::Register(said)).expect("accepted"));
    let after = events.iter().fold(Agent::default(), |mut agent, event| {
        agent.apply(event);
        agent
    });
    assert_eq!((after.state, after.process), (Some(S::Ready), agent.process));
    let profile = after.managed.expect("a profile").profile;
    assert_eq!(profile.as_str(), r#"{"command":["other"]}"#);
}

#[test]
fn no_agent_says_what_nodes_and_managers_say() {
    let (agent, _) = live("deploy");
    let by = |actor: &str, word: &str| {
        let facts = domain::Facts::new(at(1), actor);
        agent.decide(&command(word), &facts).map_err(|refusal| refusal.code)
    };
    let id = "agent:00000000-0000-0000-0000-000000000001";
    for word in ["validate", "place", "assess", "schedule_restart", "quarantine"] {
        assert_eq!(by(id, word), Err(Code::Forbidden), "{word}");
        assert!(by("manager:lifecycle", word).is_ok(), "{word}");
    }
    assert!(by(id, "restart").is_err_and(|code| code == Code::InProgress));
}

#[test]
fn one_round_at_a_time_and_a_sleeper_is_woken_for_it() {
    let (agent, events) = live("deploy place ready:1 begin_round begin_round");
    assert_eq!((agent.rounds, agent.round_since.is_some()), (1, true));
    let E::RoundBegun(begun) = events.last().expect("one") else { panic!("{events:?}") };
    assert_eq!(begun.round, 1);
    let (agent, events) = live("deploy place ready:1 begin_round end_round end_round begin_round");
    assert_eq!(agent.rounds, 2);
    assert_eq!(events.iter().filter(|event| event.name() == "round_ended").count(), 1);
    let (agent, events) = live("deploy place ready:1 hibernate exited:1 begin_round");
    assert_eq!(events[events.len() - 2].name(), "round_begun");
    assert_eq!((agent.state, agent.pending), (Some(S::Deploying), true));
}

#[test]
fn rounds_go_by_a_timetable_that_is_checked() {
    let rounds = |text: &str| {
        let body = format!(r#"{{"name":"ada","rounds":{text}}}"#);
        C::parse("register", body.as_bytes())
            .map(|_| ())
            .map_err(|faults| faults[0].pointer.clone())
    };
    assert_eq!(rounds(r#"{"cron":"0 9 * * *","timezone":"Europe/Berlin"}"#), Ok(()));
    for (wrong, pointer) in [
        (r#"{"cron":"0 9 * * *","every_ms":60000}"#, "/rounds/every_ms"),
        (r#"{"every_ms":1}"#, "/rounds/every_ms"),
        (r#"{"cron":"x"}"#, "/rounds/cron"),
        (r#"{"cron":"0 9 * * *","timezone":"Mars"}"#, "/rounds/timezone"),
    ] {
        assert_eq!(rounds(wrong), Err(pointer.to_owned()), "{wrong}");
    }
    let hourly = Rounds { every_ms: Some(3_600_000), ..Rounds::default() };
    assert_eq!(hourly.next_after(at(0)), Some(at(3_600_000)));
}
