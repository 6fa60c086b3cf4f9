use domain::TenantId;

use super::*;
use crate::testing::{History, task};

#[test]
fn every_event_has_a_line_that_names_who_and_whom() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"water the plants"}"#));
    let agent = AgentId::nth(7);
    history.decide(1, task("assign", &format!(r#"{{"agent_id":"{agent}"}}"#)));
    let world = history.world(Audit);
    let tenant = TenantId::default_tenant();
    let first = world.get(&tenant, &1).unwrap();
    assert_eq!((first.kind.as_str(), first.actor.as_str()), ("task.submitted", "tester"));
    assert_eq!(first.task_id, Some(TaskId(Uuid::from_u128(1))));
    assert!(first.summary.contains("water the plants"));
    let second = world.get(&tenant, &2).unwrap();
    assert_eq!(second.agent_id, Some(agent));
    assert_eq!(Audit::index(&2, second).len(), Audit::COLUMNS.len());
}
