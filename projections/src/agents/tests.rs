use domain::{AgentId, Command, StreamType, TaskId, TenantId};

use super::*;
use crate::agents::AgentView;
use crate::testing::{History, command};

fn agent(name: &str, body: &str) -> Command {
    command(StreamType::Agent, name, body)
}

fn after(commands: &[(&str, &str)]) -> AgentRow {
    let mut history = History::default();
    for (name, body) in commands {
        assert!(history.decide(7, agent(name, body)) > 0, "{name} was refused");
    }
    history.world(Agents).get(&TenantId::default_tenant(), &Uuid::from_u128(7)).unwrap().clone()
}

const REGISTER: (&str, &str) = ("register", r#"{"name":"ada","role":"coder","slots":3}"#);

#[test]
fn told_seen_and_believed_come_from_different_events() {
    let row = after(&[REGISTER]);
    assert_eq!(row.state, AgentState::Created);
    assert_eq!(row.observed_state, None);
    let row = after(&[
        REGISTER,
        ("mark_ready", "{}"),
        ("report", r#"{"observed_state":"degraded"}"#),
        ("drain", "{}"),
    ]);
    assert_eq!(row.desired_state, AgentState::Draining);
    assert_eq!(row.observed_state, Some(AgentState::Degraded));
    assert_eq!(row.state, AgentState::Draining);
    assert_eq!((row.stream_version, row.position), (4, 4));
}

#[test]
fn a_restart_counts_once_whether_asked_for_or_noticed() {
    assert_eq!(after(&[REGISTER, REGISTER]).restart_count, 1);
    assert_eq!(after(&[REGISTER, ("restart", "{}")]).restart_count, 1);
    assert_eq!(after(&[REGISTER, ("restart", "{}"), REGISTER]).restart_count, 1);
    assert_eq!(after(&[REGISTER, ("restart", "{}"), REGISTER, REGISTER]).restart_count, 2);
}

#[test]
fn a_ready_agent_with_tasks_is_shown_busy_and_any_other_as_it_is() {
    let shown =
        |row, tasks: usize| AgentView::of(AgentId::nth(7), row, vec![TaskId::nth(1); tasks]).state;
    let ready = after(&[REGISTER, ("mark_ready", "{}")]);
    assert_eq!(shown(ready.clone(), 0), AgentState::Ready);
    assert_eq!(shown(ready, 1), AgentState::Busy);
    let draining = after(&[REGISTER, ("mark_ready", "{}"), ("drain", "{}")]);
    assert_eq!(shown(draining, 1), AgentState::Draining);
}

#[test]
fn the_view_has_the_fields_of_the_contract() {
    let view = AgentView::of(AgentId::nth(7), after(&[REGISTER]), vec![]);
    let shown = serde_json::to_value(view).unwrap();
    for field in "id name role capabilities labels profile version endpoint session_key \
                  memory_context state desired_state observed_state last_heartbeat \
                  restart_count slots tasks crew_id node_id created_at updated_at \
                  stream_version position"
        .split_whitespace()
    {
        assert!(shown.get(field).is_some(), "{field} is missing");
    }
    assert_eq!(shown["session_key"], "agent:coder:ada");
}

#[test]
fn a_role_in_a_crew_names_the_crew() {
    let mut history = History::default();
    history.decide(7, agent(REGISTER.0, REGISTER.1));
    history.decide(9, command(StreamType::Crew, "assemble", r#"{"name":"c","agents":[]}"#));
    let role = format!(r#"{{"agent_id":"{}","role":"lead"}}"#, Uuid::from_u128(7));
    history.decide(9, command(StreamType::Crew, "assign_role", &role));
    let world = history.world(Agents);
    let row = world.get(&TenantId::default_tenant(), &Uuid::from_u128(7)).unwrap();
    assert_eq!(row.crew_id, Some(CrewId(Uuid::from_u128(9))));
    assert_eq!((row.stream_version, row.position), (1, 3));
}
