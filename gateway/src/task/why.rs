//! What a task waits for, told from the same facts that the scheduler goes by.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use commands::Waits;
use domain::agent::AgentState;
use domain::task::{Need, TaskEvent, TaskRef, TaskState};
use domain::{AgentId, Event, Recorded, TaskId, Timestamp};
use projections::agents::{AgentFilter, AgentView};
use projections::tasks::TaskView;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiResult;
use crate::openapi::Refused;
use crate::query::{Fresh, NoParams, Params};
use crate::view;

use super::TaskAt;

/// Agents that are looked at; a fleet beyond that has somebody for most tasks.
const MAX_AGENTS: usize = 1_000;
/// Events at a task's end that are looked at for its backoff.
const LAST_EVENTS: u64 = 8;

/// Why a task stands where it does.
#[derive(Debug, Serialize, ToSchema)]
pub struct Why {
    /// The task.
    pub task_id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// Every reason, the strongest first.
    pub reasons: Vec<WhyReason>,
    /// The log position that the answer reflects.
    pub position: u64,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct WhyReason {
    /// A stable word: `run_at`, `backoff`, `dependency`, `dependency_lost`, `chain_stuck`, `queue_paused`, `queue_draining`,
    /// `limit_full`, `rate_limited`, `sticky`, `key_in_line`, `no_agent`, `agents_busy`,
    /// `next_in_line`, `being_assigned`, `inbox`, `assigned`, `running`, `blocked`,
    /// `review`, `ended`, `archived`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Until when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The things that it waits for, or that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// The log position of the event that made it so, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    /// What would release the task from it, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub release: String,
}

impl WhyReason {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            until: None,
            ids: Vec::new(),
            cause: None,
            release: String::new(),
        }
    }

    /// With what would release it, and the event that made it so.
    fn released_by(self, release: &str, cause: u64) -> Self {
        Self { release: release.into(), cause: Some(cause), ..self }
    }

    fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    fn about(self, ids: impl IntoIterator<Item = Uuid>) -> Self {
        Self { ids: ids.into_iter().collect(), ..self }
    }
}

impl From<Waits> for WhyReason {
    fn from(waits: Waits) -> Self {
        let Waits { code, message, until, ids, cause, release } = waits;
        Self { code: code.into(), message, until, ids, cause, release }
    }
}

/// Says what a task waits for.
#[utoipa::path(get, path = "/tasks/{id}/why", tag = "tasks", params(("id" = TaskRef, Path)), responses(
    (status = 200, description = "The reasons", body = Why),
    (status = "4XX", response = Refused),
))]
pub async fn why_task(
    State(app): State<App>,
    caller: Caller,
    TaskAt(id): TaskAt,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
) -> ApiResult {
    let found = super::list::exists(&app, &caller, id.into(), fresh).await?;
    let (task, tenant) = (found.value, &caller.tenant);
    let (mut open, mut lost, mut met) = (Vec::new(), Vec::new(), false);
    for on in &task.depends_on {
        let found = app.doors.queries.task(tenant, *on, fresh.wait).await?.value;
        let (state, archived) = found
            .as_ref()
            .map_or((TaskState::Queued, false), |on| (on.state, on.archived_at.is_some()));
        if task.dependency.is_met_by(state, archived) {
            met = true;
        } else if let Some(on) = found.filter(|_| task.dependency.is_lost_by(state, archived)) {
            lost.push((on.id, on.state, on.position));
        } else {
            open.push(*on);
        }
    }
    if met && task.dependency.need == Need::Any {
        (open, lost) = (Vec::new(), Vec::new());
    }
    let behind = task.version.saturating_sub(LAST_EVENTS);
    let last =
        app.doors.reader.log.read_stream(tenant, id, behind, LAST_EVENTS as usize * 2).await?;
    let agents = agents(&app, &caller).await?;
    let facts = Facts {
        now: app.doors.clock.now(),
        retry_at: retry_at(&last),
        open,
        lost,
        agents: &agents,
    };
    let mut told = reasons(&task, &facts);
    if task.state == TaskState::Queued && task.archived_at.is_none() {
        // The scheduler knows more, where it runs in this process: limits, and who holds them.
        let asked = app.doors.claims.why(tenant.clone(), task.id).await;
        if let Some(waits) = asked.filter(|waits| !waits.is_empty()) {
            told = waits.into_iter().map(WhyReason::from).collect();
        }
    }
    let reasons = told;
    let (position, lag_ms) = (found.position, found.lag_ms);
    let why = Why { task_id: task.id, state: task.state, reasons, position };
    Ok(view::with_position(Json(why), position, lag_ms))
}

async fn agents(app: &App, caller: &Caller) -> ApiResult<Vec<AgentView>> {
    let (mut all, mut cursor) = (Vec::new(), None);
    let filter = AgentFilter::default();
    while all.len() < MAX_AGENTS {
        let queries = &app.doors.queries;
        let limit = crate::query::MAX_LIMIT as usize;
        let page = queries.agents(&caller.tenant, &filter, limit, cursor.as_deref()).await?.value;
        all.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

/// When the next attempt is due, if the last thing that happened was a failed one.
fn retry_at(events: &[Arc<Recorded>]) -> Option<Timestamp> {
    let moves = events.iter().rev().filter_map(|event| match event.event() {
        Ok(Event::Task(TaskEvent::Updated(_))) => None,
        Ok(Event::Task(event)) => Some(event),
        Ok(
            Event::Agent(_)
            | Event::Operation(_)
            | Event::Crew(_)
            | Event::Schedule(_)
            | Event::Queue(_)
            | Event::Node(_)
            | Event::Profile(_),
        )
        | Err(_) => None,
    });
    match moves.into_iter().next() {
        Some(TaskEvent::AttemptFailed(failed)) => failed.retry_at,
        _other_or_none => None,
    }
}

/// What the reasons follow from.
struct Facts<'a> {
    now: Timestamp,
    retry_at: Option<Timestamp>,
    /// Dependencies that may still give what is needed.
    open: Vec<TaskId>,
    /// Those that can no longer, with their states and last events.
    lost: Vec<(TaskId, TaskState, u64)>,
    agents: &'a [AgentView],
}

fn reasons(task: &TaskView, facts: &Facts<'_>) -> Vec<WhyReason> {
    let holder = task.agent_id.map(|id| id.0);
    if task.archived_at.is_some() {
        return vec![WhyReason::new("archived", "it was taken off the lists")];
    }
    let one = |reason: WhyReason| vec![reason.about(holder)];
    match task.state {
        TaskState::Inbox => {
            let reason = WhyReason::new("inbox", "it waits until somebody assigns or requeues it");
            vec![reason.released_by("assign or requeue", task.position)]
        }
        TaskState::Queued => queued(task, facts),
        TaskState::Assigned => {
            let reason = WhyReason::new("assigned", "its agent has it and has not begun");
            let release = "the agent's start, or the end of its lease";
            one(reason.until(task.lease_expires_at).released_by(release, task.position))
        }
        TaskState::InProgress => {
            let reason = WhyReason::new("running", "its agent is at it");
            let release = "the agent's answer, or the end of its lease";
            one(reason.until(task.lease_expires_at).released_by(release, task.position))
        }
        TaskState::Blocked => {
            let reason = WhyReason::new("blocked", blocked(task));
            let release = "unblock, or the end of its lease";
            one(reason.until(task.lease_expires_at).released_by(release, task.position))
        }
        TaskState::Review => {
            let reason = WhyReason::new("review", "it waits for somebody to approve or reject it");
            one(reason.released_by("approve or reject", task.position))
        }
        TaskState::Done | TaskState::Failed | TaskState::Dead | TaskState::Cancelled => {
            one(WhyReason::new("ended", format!("it has come to its end: {}", task.state.as_str())))
        }
    }
}

/// What a blocked task waits for, and who may lift it.
fn blocked(task: &TaskView) -> String {
    let Some(by) = &task.blocked else { return "its agent can't go on".into() };
    match by.lifted_by.as_slice() {
        [] => format!("blocked: {}; anybody may unblock it", by.reason),
        names => format!("blocked: {}; {} may unblock it", by.reason, names.join(", ")),
    }
}

fn queued(task: &TaskView, facts: &Facts<'_>) -> Vec<WhyReason> {
    let mut reasons = Vec::new();
    if let Some(at) = task.run_at.filter(|at| *at > facts.now) {
        let message = format!("it is not to run before {at}");
        reasons.push(WhyReason::new("run_at", message).until(Some(at)));
    }
    if let Some(at) = facts.retry_at.filter(|at| *at > facts.now) {
        let message = format!("attempt {} failed; the next is due at {at}", task.attempt);
        reasons.push(WhyReason::new("backoff", message).until(Some(at)));
    }
    for (on, state, position) in &facts.lost {
        let message = format!("task {on} is {} and will not be done", state.as_str());
        let release = "its requeue, other `depends_on` for this task, or cancelling this one";
        let reason = WhyReason::new("dependency_lost", message).about([on.0]);
        reasons.push(reason.released_by(release, *position));
    }
    if !facts.open.is_empty() {
        let message = format!("{} tasks must be done before it", facts.open.len());
        let ids = facts.open.iter().map(|id| id.0);
        reasons.push(WhyReason::new("dependency", message).about(ids));
    }
    if let Some(reason) = for_an_agent(task, facts.agents) {
        reasons.push(reason);
    }
    if reasons.is_empty() {
        let message = "an agent for it is free: it is next in line, or its agent asks by itself";
        reasons.push(WhyReason::new("next_in_line", message));
    }
    reasons
}

/// Why no agent has it, as far as that lies with the agents.
fn for_an_agent(task: &TaskView, agents: &[AgentView]) -> Option<WhyReason> {
    let fits = |agent: &&AgentView| {
        task.capabilities.iter().all(|needed| agent.capabilities.contains(needed))
            && (task.assignees.is_empty()
                || task.assignees.iter().any(|who| *who == agent.name || is(who, agent.id)))
    };
    let able: Vec<_> = agents.iter().filter(fits).collect();
    if able.is_empty() {
        let needs = match (task.capabilities.is_empty(), task.assignees.is_empty()) {
            (true, true) => "there is no agent".to_owned(),
            (false, true) => format!("no agent can {}", task.capabilities.join(", ")),
            (true, false) => {
                format!("none of its assignees is there: {}", task.assignees.join(", "))
            }
            (false, false) => {
                format!("no assignee is there that can {}", task.capabilities.join(", "))
            }
        };
        return Some(WhyReason::new("no_agent", needs));
    }
    let ids = able.iter().map(|agent| agent.id.0).take(20);
    // A created or offline agent is made ready by its own claim.
    let up = |agent: &&&AgentView| {
        agent.state.takes_work() || matches!(agent.state, AgentState::Created | AgentState::Offline)
    };
    let ready: Vec<_> = able.iter().filter(up).collect();
    if ready.is_empty() {
        let message = format!("of {} agents that could do it none takes work now", able.len());
        return Some(WhyReason::new("no_agent", message).about(ids));
    }
    let full = |agent: &&&AgentView| agent.tasks.len() >= agent.slots as usize;
    ready.iter().copied().all(|agent| full(&agent)).then(|| {
        let message = format!("all {} agents that could do it have their hands full", ready.len());
        WhyReason::new("agents_busy", message).about(ids)
    })
}

fn is(who: &str, id: AgentId) -> bool {
    Uuid::try_parse(who).is_ok_and(|given| given == id.0)
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
