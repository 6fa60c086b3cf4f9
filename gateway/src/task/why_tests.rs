use super::*;

fn task(change: serde_json::Value) -> TaskView {
    let mut base = serde_json::json!({
        "number": "TASK-1", "id": Uuid::from_u128(1), "title": "t", "description": null, "type": "default",
        "queue": "default", "payload": null, "priority": "normal", "state": "queued",
        "capabilities": [], "labels": [], "assignees": [], "agent_id": null, "attempt": 0,
        "max_attempts": 3, "lease_expires_at": null, "parent_id": null, "depends_on": [],
        "children": [], "created_by": "me", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "due_at": null, "run_at": null,
        "progress": null, "result": null, "error": null, "archived_at": null,
        "overdue_at": null, "dependency": { "need": "all", "on": "success" }, "subtasks": null,
        "escalation": null, "blocked": null, "review": null, "attachments": [],
        "estimate_ms": null, "acceptance_criteria": [], "deliverables": [], "affinity": {},
        "version": 1, "position": 1,
    });
    merge(&mut base, change);
    serde_json::from_value(base).expect("a task")
}

fn agent(change: serde_json::Value) -> AgentView {
    let mut base = serde_json::json!({
        "id": Uuid::from_u128(2), "name": "a", "role": "worker", "capabilities": ["rust"],
        "labels": [], "profile": null, "version": null, "endpoint": null,
        "session_key": "agent:worker:a", "memory_context": null, "state": "ready",
        "desired_state": "ready", "observed_state": null, "last_heartbeat": null,
        "load": null, "slots_free": null, "restart_count": 0, "slots": 1, "cost": 0, "tasks": [],
        "crew_id": null, "node_id": null, "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "stream_version": 1, "position": 1,
    });
    merge(&mut base, change);
    serde_json::from_value(base).expect("an agent")
}

fn merge(base: &mut serde_json::Value, change: serde_json::Value) {
    for (name, value) in change.as_object().expect("an object") {
        base[name] = value.clone();
    }
}

fn codes(task: &TaskView, agents: &[AgentView]) -> Vec<String> {
    codes_with(task, agents, None, vec![])
}

fn codes_with(
    task: &TaskView,
    agents: &[AgentView],
    retry_at: Option<Timestamp>,
    open: Vec<TaskId>,
) -> Vec<String> {
    let now = "2026-01-01T12:00:00Z".parse().expect("a time");
    let facts = Facts { now, retry_at, open, lost: vec![], agents };
    reasons(task, &facts).into_iter().map(|reason| reason.code).collect()
}

#[test]
fn a_queued_task_names_everything_that_holds_it_back() {
    let waiting = task(serde_json::json!({
        "run_at": "2026-01-01T13:00:00Z", "capabilities": ["cobol"], "attempt": 1,
    }));
    let retry_at = "2026-01-01T12:00:01Z".parse().ok();
    let found =
        codes_with(&waiting, &[agent(serde_json::json!({}))], retry_at, vec![TaskId::nth(9)]);
    assert_eq!(found, ["run_at", "backoff", "dependency", "no_agent"]);
}

#[test]
fn agents_are_missing_busy_or_free() {
    let plain = task(serde_json::json!({}));
    let rust = task(serde_json::json!({ "capabilities": ["rust"] }));
    let ready = agent(serde_json::json!({}));
    let busy = agent(serde_json::json!({ "state": "busy", "tasks": [Uuid::from_u128(8)] }));
    let draining = agent(serde_json::json!({ "state": "draining" }));
    assert_eq!(codes(&plain, &[]), ["no_agent"]);
    assert_eq!(codes(&rust, std::slice::from_ref(&ready)), ["next_in_line"]);
    assert_eq!(codes(&rust, std::slice::from_ref(&busy)), ["agents_busy"]);
    assert_eq!(codes(&rust, &[draining]), ["no_agent"]);
    assert_eq!(codes(&rust, &[busy, ready]), ["next_in_line"]);
    let mine = task(serde_json::json!({ "assignees": ["somebody"] }));
    assert_eq!(codes(&mine, &[agent(serde_json::json!({}))]), ["no_agent"]);
}

#[test]
fn every_other_state_explains_itself() {
    let at = |state: &str| task(serde_json::json!({ "state": state }));
    for (state, code) in [
        ("inbox", "inbox"),
        ("assigned", "assigned"),
        ("in_progress", "running"),
        ("blocked", "blocked"),
        ("review", "review"),
        ("done", "ended"),
        ("dead", "ended"),
    ] {
        assert_eq!(codes(&at(state), &[]), [code]);
    }
}
