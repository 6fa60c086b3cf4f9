use domain::{StreamType, TenantId};

use super::*;
use crate::testing::{History, command};

fn after(commands: &[(&str, &str)]) -> OperationRow {
    let mut history = History::default();
    let accept = r#"{"kind":"projection.rebuild","resource":{"type":"projection","id":"tasks"}}"#;
    history.decide(3, command(StreamType::Operation, "accept", accept));
    for (name, body) in commands {
        assert!(history.decide(3, command(StreamType::Operation, name, body)) > 0, "{name}");
    }
    let world = history.world(Operations);
    world.get(&TenantId::default_tenant(), &Uuid::from_u128(3)).unwrap().clone()
}

#[test]
fn an_operation_goes_from_accepted_over_running_to_its_end() {
    assert_eq!(after(&[]).state, OperationState::Accepted);
    let far = ("progress", r#"{"done":3,"total":9,"message":"folding"}"#);
    let row = after(&[("start", "{}"), far]);
    assert_eq!((row.state, row.progress.done), (OperationState::Running, 3));
    let row = after(&[far, ("succeed", r#"{"result":{"rows":9}}"#)]);
    assert_eq!(row.state, OperationState::Succeeded);
    assert_eq!(row.result.as_str(), r#"{"rows":9}"#);
    assert_eq!(row.progress.done, 9);
}

#[test]
fn a_failed_operation_carries_its_problem() {
    let problem = serde_json::to_string(&Problem::new(domain::Code::NotPossible, "no")).unwrap();
    let row = after(&[("fail", &format!(r#"{{"problem":{problem}}}"#))]);
    assert_eq!(row.state, OperationState::Failed);
    assert_eq!(row.problem.unwrap().detail, "no");
}
