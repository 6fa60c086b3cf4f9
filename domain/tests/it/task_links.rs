//! A task's place among others: what it waits for, and what it is a part of.

use std::collections::HashMap;

use domain::task::*;
use domain::{Aggregate, Code, Command, Refusal, TaskId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{at, code, decide};
use crate::task::*;

fn id(n: u128) -> TaskId {
    TaskId::nth(n)
}

fn ids(numbers: &[u128]) -> Vec<TaskId> {
    numbers.iter().copied().map(id).collect()
}

fn parse(name: &str, body: &str) -> C {
    C::parse(name, body.as_bytes()).expect("well formed").expect("known")
}

fn is_field(refusal: &Refusal, pointer: &str, kind: &str) {
    let fault = &refusal.errors[0];
    assert_eq!((fault.pointer.as_str(), fault.code.as_str()), (pointer, kind), "{refusal:?}");
}

fn folded(events: &[E]) -> Task {
    let mut task = Task::default();
    events.iter().for_each(|event| task.apply(event));
    task
}

#[test]
fn what_a_task_needs_of_its_dependencies_is_recorded_with_them() {
    let body = format!(
        r#"{{"title":"t","depends_on":["{}"],"dependency":{{"need":"any","on":"end"}}}}"#,
        id(7)
    );
    let events = decide::<Task, C>(&[], parse("submit", &body), at(0)).expect("accepted");
    let [E::Submitted(new)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(new.dependency, Dependency { need: Need::Any, on: On::End });
    assert_eq!(folded(&events).depends_on, ids(&[7]));

    // Only what is needed changes: the event names both all the same.
    let given: Vec<E> = events;
    let changed = parse("update", r#"{"dependency":{"on":"end"}}"#);
    let events = decide::<Task, C>(&given, changed, at(0)).expect("accepted");
    let [E::Updated(changes)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(changes.depends_on.as_deref(), Some(&ids(&[7])[..]));
    assert_eq!(changes.dependency, Some(Dependency { need: Need::All, on: On::End }));
}

#[test]
fn a_task_that_was_begun_gets_no_other_dependencies() {
    let other = || parse("update", r#"{"depends_on":[]}"#);
    let given = [submitted(), assigned(1, 1), started(1)];
    let refusal = when(&given, other()).expect_err("refused");
    assert_eq!(refusal.code, Code::NotPossible);
    is_field(&refusal, "/depends_on", "begun");
    assert!(when(&given[..1], other()).is_ok());
    let again = parse("requeue", r#"{"changes":{"depends_on":[]}}"#);
    let dead = TaskDeadLettered { attempts: 1, error: domain::Json::null(), queue: "q".into() };
    assert!(when(&[submitted(), assigned(1, 1), E::DeadLettered(dead)], again).is_ok());
}

#[test]
fn a_cancelled_task_says_whether_its_parts_go_with_it() {
    let cancelled = |body: &str| {
        let events = when(&[submitted()], parse("cancel", body)).expect("accepted");
        let [E::Cancelled(cancelled)] = events.as_slice() else { panic!("{events:?}") };
        (cancelled.cascade, String::from_utf8(events[0].payload()).expect("text"))
    };
    assert_eq!(cancelled("{}"), (true, r#"{"queue":"default"}"#.into()));
    let alone = r#"{"queue":"default","cascade":false}"#;
    assert_eq!(cancelled(r#"{"cascade":false}"#), (false, alone.into()));
}

#[test]
fn standing_still_is_recorded_once_for_each_time_and_not_early() {
    let found = |since: i64, due: i64| {
        C::Escalate(EscalateTask {
            since: at(since),
            due_at: at(due),
            head_state: Some(TaskState::Blocked),
            path: ids(&[1, 2]),
        })
    };
    let mut given = vec![submitted()];
    assert_eq!(code(when(&given, found(0, 1_001))), Code::NotPossible);
    let events = when(&given, found(0, 1_000)).expect("accepted");
    let [E::Escalated(said)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((said.head, said.state), (id(2), TaskState::Queued));
    given.extend(events);
    assert_eq!(when(&given, found(0, 1_000)).expect("accepted"), vec![], "said already");
    assert_eq!(when(&given, found(500, 1_000)).expect("accepted").len(), 1, "another time");
    assert_eq!(
        code(when(&[submitted(), assigned(1, 1)], found(0, 1_000))),
        Code::IllegalTransition
    );
}

#[test]
fn a_part_needs_a_parent_that_is_there_open_not_too_deep_and_has_room() {
    let limits = SubtaskLimits { depth: 2, per_task: 3 };
    let open = folded(&[submitted()]);
    let check = |parent: Option<&Task>, parts| check_parent(id(1), id(2), parent, parts, limits);
    assert!(check(Some(&open), 2).is_ok());
    let refused = |result: Result<(), Refusal>, kind| {
        let refusal = result.expect_err("refused");
        assert_eq!(refusal.code, Code::NotPossible);
        is_field(&refusal, "/parent_id", kind);
        refusal.detail
    };
    refused(check(None, 0), "unknown");
    refused(check(Some(&Task::default()), 0), "unknown");
    assert!(refused(check(Some(&open), 3), "too_many").contains('3'), "the limit is named");
    let deep = Task { depth: 2, ..open.clone() };
    assert!(refused(check(Some(&deep), 0), "too_deep").contains('2'), "the limit is named");
    refused(check(Some(&folded(&[submitted(), E::Cancelled(cancelled())])), 0), "ended");
    refused(check(Some(&folded(&[submitted(), E::Archived(noted())])), 0), "ended");
    let own = check_parent(id(1), id(1), Some(&open), 0, limits).expect_err("refused");
    assert_eq!((own.code, own.path), (Code::Cycle, vec![id(1).0, id(1).0]));
}

fn waiting(pairs: &[(u128, u128)]) -> HashMap<TaskId, Vec<TaskId>> {
    let mut all: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for (source, target) in pairs {
        all.entry(id(*target)).or_default().push(id(*source));
    }
    all
}

fn check(task: u128, on: &[u128], edges: &HashMap<TaskId, Vec<TaskId>>) -> Result<(), Refusal> {
    let those = |id: TaskId| (edges.get(&id).map(Vec::as_slice).unwrap_or_default(), true);
    check_dependencies(id(task), &ids(on), those)
}

#[test]
fn a_circle_is_refused_with_the_way_round_it() {
    // 2 waits for 3, 3 for 1; now 1 is to wait for 2.
    let edges = waiting(&[(2, 3), (3, 1), (9, 1)]);
    let refusal = check(1, &[8, 2], &edges).expect_err("refused");
    assert_eq!(refusal.code, Code::Cycle);
    is_field(&refusal, "/depends_on", "cycle");
    let path: Vec<_> = ids(&[1, 2, 3, 1]).iter().map(|id| id.0).collect();
    assert_eq!(refusal.path, path);
    let words: Vec<_> = path.iter().map(ToString::to_string).collect();
    assert_eq!(refusal.detail, words.join(" -> "));
    let own = check(1, &[1], &HashMap::new()).expect_err("refused");
    assert_eq!(own.path, vec![id(1).0, id(1).0]);
    assert!(check(1, &[8], &edges).is_ok());
    let unseen = |_| (&[][..], false);
    let refusal = check_dependencies(id(1), &ids(&[8]), unseen).expect_err("refused");
    is_field(&refusal, "/depends_on", "too_deep");
    let long: Vec<_> = (0..2_000).map(|n| (n + 11, n + 10)).collect();
    let refusal = check(10, &[8], &waiting(&long)).expect_err("refused");
    is_field(&refusal, "/depends_on", "too_deep");
}

#[test]
fn the_commands_that_link_tasks_say_so() {
    let links = |name: &str, body: &str| {
        let command = Command::Task(parse(name, body));
        command.links().map(|links| (links.parent, links.depends_on.map(<[TaskId]>::len)))
    };
    let (one, title) = (id(1), r#""title":"t""#);
    assert_eq!(links("submit", &format!("{{{title}}}")), None);
    let parent = format!(r#"{{{title},"parent_id":"{one}"}}"#);
    assert_eq!(links("submit", &parent), Some((Some(one), None)));
    assert_eq!(links("update", r#"{"depends_on":[]}"#), Some((None, Some(0))));
    assert_eq!(links("update", r#"{"title":"u"}"#), None);
    let changes = format!(r#"{{"changes":{{"depends_on":["{one}"]}}}}"#);
    assert_eq!(links("requeue", &changes), Some((None, Some(1))));
    let command = parse("requeue", &changes);
    let at = command.links().expect("links").at;
    let refusal = check(1, &[1], &HashMap::new()).expect_err("refused").below(at);
    is_field(&refusal, "/changes/depends_on", "cycle");
    let parsed = Command::Agent(domain::agent::AgentCommand::MarkReady(Default::default()));
    assert!(parsed.links().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Links are made one after the other, as the processor does; what was let in never has
    /// a circle, and what was refused would have closed one.
    #[test]
    fn what_is_let_in_has_no_circle(steps in vec((1..7u128, vec(1..7u128, 0..4)), 1..24)) {
        let mut depends: HashMap<u128, Vec<u128>> = HashMap::new();
        for (source, targets) in steps {
            let pairs: Vec<_> = depends.iter()
                .filter(|(from, _)| **from != source)
                .flat_map(|(from, to)| to.iter().map(|to| (*from, *to)))
                .collect();
            let verdict = check(source, &targets, &waiting(&pairs));
            let mut after = depends.clone();
            after.insert(source, targets);
            prop_assert_eq!(verdict.is_err(), has_circle(&after), "{:?}", after);
            if verdict.is_ok() {
                depends = after;
            }
        }
    }
}

/// By taking away whoever waits for nothing, until nothing changes (Kahn).
fn has_circle(depends: &HashMap<u128, Vec<u128>>) -> bool {
    let mut left = depends.clone();
    loop {
        let before = left.len();
        let keys: Vec<u128> = left.keys().copied().collect();
        left.retain(|_, on| on.iter().any(|target| keys.contains(target)));
        if left.len() == before {
            return !left.is_empty();
        }
    }
}

#[test]
fn the_depth_is_what_the_processor_found() {
    let facts = domain::Facts { depth: 3, ..crate::support::facts(at(0)) };
    let command = Command::Task(parse("submit", r#"{"title":"t"}"#));
    let mut state = Aggregate::new(domain::StreamType::Task);
    for event in state.decide(&command, &facts).expect("accepted") {
        state.apply(&event);
    }
    let Aggregate::Task(task) = state else { panic!("a task") };
    assert_eq!(task.depth, 3);
}
