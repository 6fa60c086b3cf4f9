use domain::{StreamType, TenantId};

use super::*;
use crate::testing::{History, command};

fn after(commands: &[(&str, &str)]) -> QueueRow {
    let mut history = History::default();
    for (name, body) in commands {
        assert!(history.decide(3, command(StreamType::Queue, name, body)) > 0, "{name}");
    }
    let world = history.world(Queues);
    world.get(&TenantId::default_tenant(), &Uuid::from_u128(3)).unwrap().clone()
}

#[test]
fn a_queue_has_the_state_and_the_policy_that_came_last() {
    let pause = ("pause", r#"{"queue":"mail","reason":"night"}"#);
    let row = after(&[pause]);
    assert_eq!((row.name.as_str(), row.state), ("mail", QueueState::Paused));
    assert_eq!((row.reason.as_deref(), row.state_position), (Some("night"), 1));
    assert!(row.policy.is_null());
    let configure = ("configure", r#"{"queue":"mail","policy":{"weight":3}}"#);
    let row = after(&[pause, configure]);
    assert_eq!((row.state, row.state_position, row.version), (QueueState::Paused, 1, 2));
    assert!(row.policy.as_str().contains(r#""weight":3"#), "{}", row.policy.as_str());
    let row = after(&[pause, ("drain", r#"{"queue":"mail"}"#), ("resume", r#"{"queue":"mail"}"#)]);
    assert_eq!((row.state, row.reason, row.state_position), (QueueState::Active, None, 3));
}
