//! Stories of a queue.

use domain::queue::*;
use domain::{Code, Command, StreamType, TenantId};

use crate::support::{at, code, decide};

use QueueCommand as C;
use QueueEvent as E;

fn when(given: &[E], command: C) -> Result<Vec<E>, domain::Refusal> {
    decide::<Queue, C>(given, command, at(0))
}

fn change() -> ChangeQueue {
    ChangeQueue { queue: "mail".into(), reason: Some("night".into()) }
}

fn changed() -> QueueChanged {
    QueueChanged { queue: "mail".into(), reason: Some("night".into()) }
}

#[test]
fn a_queue_is_paused_drained_and_resumed() {
    assert_eq!(when(&[], C::Pause(change())), Ok(vec![E::Paused(changed())]));
    let paused = E::Paused(changed());
    assert_eq!(
        when(std::slice::from_ref(&paused), C::Drain(change())),
        Ok(vec![E::Draining(changed())])
    );
    let given = [paused, E::Draining(changed())];
    assert_eq!(when(&given, C::Resume(change())), Ok(vec![E::Resumed(changed())]));
}

#[test]
fn what_is_so_already_is_refused_with_what_is_possible() {
    for (given, command) in [
        (vec![], C::Resume(change())),
        (vec![E::Paused(changed())], C::Pause(change())),
        (vec![E::Draining(changed())], C::Drain(change())),
        (vec![E::Paused(changed()), E::Resumed(changed())], C::Resume(change())),
    ] {
        assert_eq!(code(when(&given, command)), Code::IllegalTransition);
    }
}

#[test]
fn a_policy_is_set_as_a_whole_in_any_state() {
    let policy = QueuePolicy { weight: 7, mode: QueueMode::Strict, ..QueuePolicy::default() };
    let new = ConfigureQueue { queue: "mail".into(), policy: policy.clone() };
    let set = E::Configured(QueueConfigured { queue: "mail".into(), policy });
    assert_eq!(when(&[], C::Configure(new.clone())), Ok(vec![set.clone()]));
    assert_eq!(when(&[E::Paused(changed())], C::Configure(new)), Ok(vec![set]));
}

fn faults(policy: &str) -> Vec<String> {
    let body = format!(r#"{{"queue":"mail","policy":{policy}}}"#);
    match Command::parse(StreamType::Queue, "configure", body.as_bytes()) {
        Ok(_) => vec![],
        Err(problem) => problem.errors.into_iter().map(|fault| fault.pointer).collect(),
    }
}

#[test]
fn every_faulty_field_of_a_policy_is_named() {
    assert_eq!(faults("{}"), [""; 0]);
    assert_eq!(faults(r#"{"weights":{"low":0}}"#), ["/policy/weights/low"]);
    assert_eq!(faults(r#"{"weight":0,"aging_ms":0}"#), ["/policy/weight", "/policy/aging_ms"]);
    assert_eq!(faults(r#"{"limits":[{"key":"queue"}]}"#), ["/policy/limits/0"]);
    assert_eq!(
        faults(r#"{"limits":[{"key":"task.","max_running":0}]}"#),
        ["/policy/limits/0/key", "/policy/limits/0/max_running"]
    );
    assert_eq!(
        faults(r#"{"limits":[{"key":"queue","max_running":2,"guaranteed":3}]}"#),
        ["/policy/limits/0/guaranteed"]
    );
    assert_eq!(
        faults(r#"{"limits":[{"key":"queue","rate":{"per_s":-1,"burst":0}}]}"#),
        ["/policy/limits/0/rate/per_s", "/policy/limits/0/rate/burst"]
    );
    assert_eq!(
        faults(r#"{"limits":[{"key":"queue","max_running":1},{"key":"queue","max_running":2}]}"#),
        ["/policy/limits/1/key"]
    );
    let many = (0..17).map(|n| format!(r#"{{"key":"task.f{n}","max_running":1}}"#));
    let many = many.collect::<Vec<_>>().join(",");
    assert_eq!(faults(&format!(r#"{{"limits":[{many}]}}"#)), ["/policy/limits"]);
    assert!(!faults(r#"{"wieghts":{}}"#).is_empty());
}

#[test]
fn a_command_for_a_queue_belongs_to_the_stream_of_its_name() {
    let tenant = TenantId::default_tenant();
    let pause = Command::from(C::Pause(change()));
    assert_eq!(pause.misplaced(&tenant, queue_id(&tenant, "mail")), None);
    assert!(pause.misplaced(&tenant, queue_id(&tenant, "post")).is_some());
    let other = TenantId::parse("other").expect("a slug");
    assert_ne!(queue_id(&tenant, "mail"), queue_id(&other, "mail"));
    // For ever: the stored streams are found by it.
    assert_eq!(queue_id(&tenant, "default").to_string(), "d16dc586-282d-5f4a-b796-046795fbbf18");
}
