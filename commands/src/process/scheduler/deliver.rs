//! Carries the scheduler's picks out: assigns, then tells the agent.

use std::sync::Arc;

use domain::task::{Assignment, Task, TaskEvent};
use domain::{AgentId, Code, Event, Json, Recorded, Status, TaskId, TenantId};
use futures::future::join_all;
use store::StoreError;

use super::core::{Hand, Pick};
use super::entry::Payload;
use super::needs::Standing;
use super::waiters::Waiter;
use crate::process::perform::Session;

/// Tries to have an assignment taken before the task goes back to the queue.
const TRIES: u32 = 5;
/// Tries to take back what could not be delivered; its lease ends it otherwise.
const TRIES_BACK: u32 = 10;
/// Agents asked at once whether they listen.
const MOST_ASKED: usize = 64;
/// Dependencies looked up at once.
const MOST_LOOKUPS: usize = 32;
/// Why a task goes back whose claim nobody waits for.
pub(super) const CLAIMANT_GONE: &str = "its claimant had gone";
/// Events read at once while a stream is looked through.
const PAGE: usize = 500;

/// Gives out what can be given out, and starts carrying it out.
pub(in crate::process) fn serve(session: &Arc<Session>) {
    let (hands, more) = {
        let mut scheduler = session.scheduler.lock();
        // Rates count from now, not from when the runner last looked up.
        scheduler.advance(session.now().time);
        (scheduler.serve(), scheduler.is_unfinished())
    };
    if more {
        session.wake.notify_one();
    }
    for hand in hands {
        let ours = session.clone();
        match hand {
            Hand::Claim(waiter, picks) => {
                session.tasks.spawn(async move { answer(&ours, waiter, picks).await });
            }
            Hand::Push(pick) => {
                session.tasks.spawn(async move { push(&ours, &pick).await });
            }
        }
    }
}

/// Assigns all picks of a claim and answers it.
async fn answer(session: &Session, waiter: Waiter, picks: Vec<Pick>) {
    let assignments = join_all(picks.iter().map(|pick| assign(session, pick))).await;
    let gone = match waiter.answer.send(assignments.iter().flatten().cloned().collect()) {
        Ok(()) => return,
        Err(gone) => gone,
    };
    tracing::debug!(agent = %waiter.agent, tasks = gone.len(), "a claimant went before its answer");
    for (pick, assignment) in picks.iter().zip(assignments) {
        if let Some(assignment) = assignment {
            give_back(session, pick, &assignment, CLAIMANT_GONE).await;
        }
    }
}

/// Assigns a pick and pushes it to its agent.
async fn push(session: &Session, pick: &Pick) {
    let Some(assignment) = assign(session, pick).await else { return };
    let sent = session.wire.push(pick.tenant.clone(), pick.agent, assignment.clone());
    if sent.await {
        return;
    }
    session.scheduler.lock().heard(pick.agent, false, session.now().instant);
    give_back(session, pick, &assignment, "nobody listened").await;
}

/// Has a pick assigned; `None` when that did not come about.
async fn assign(session: &Session, pick: &Pick) -> Option<Assignment> {
    // Before the assignment: what cannot be read must not be handed out.
    let payload = match payload(session, pick).await {
        Ok(payload) => payload,
        Err(error) => {
            tracing::warn!(task = %pick.task, %error, "cannot read the payload of a task");
            put_back(session, pick, true);
            return None;
        }
    };
    if let Some(command) = &pick.assign {
        let outcome = session.execute(command, TRIES).await;
        let decision = outcome.decision();
        // Also what refused it is seen before the task is looked at again.
        let folded = session.folded_to(decision.position).await;
        let accepted = matches!(decision.status, Status::Accepted | Status::Duplicate);
        if !accepted || !folded {
            tracing::debug!(task = %pick.task, status = ?outcome.status, "a task was not assigned");
            // Another change came first: by what it left, the task may be given out again.
            let changed = decision.problem.as_ref().and_then(|problem| problem.code());
            put_back(session, pick, !folded || changed != Some(Code::VersionMismatch));
            return None;
        }
    }
    let assignment = session.scheduler.lock().assignment(pick, payload);
    // Whatever its place is now, there may be work to do.
    session.wake.notify_one();
    assignment
}

fn put_back(session: &Session, pick: &Pick, refused: bool) {
    session.scheduler.lock().put_back(pick, refused);
    session.wake.notify_one();
}

/// Ends an assignment of which its agent did not hear; one that was only told once more
/// stays the agent's.
async fn give_back(session: &Session, pick: &Pick, assignment: &Assignment, why: &str) {
    let token = assignment.lease.token;
    if pick.assign.is_some() {
        return take_back(session, pick.task, token, why).await;
    }
    session.scheduler.lock().not_told(pick.task, token);
    session.wake.notify_one();
}

/// Takes a task from an agent who did not hear of it.
pub(super) async fn take_back(session: &Session, task: TaskId, token: u64, why: &str) {
    let command = session.scheduler.lock().undeliverable(task, token, why);
    if let Some(command) = command {
        let outcome = session.execute(&command, TRIES_BACK).await;
        if outcome.decision().status != Status::Accepted {
            session.scheduler.lock().not_told(task, token);
        }
    }
    session.wake.notify_one();
}

async fn payload(session: &Session, pick: &Pick) -> Result<Json, StoreError> {
    let version = match &pick.payload {
        Payload::Inline(json) => return Ok(json.clone()),
        Payload::At(version) => *version,
    };
    let before = version.saturating_sub(1);
    let events = session.source.stream(pick.tenant.clone(), pick.task.0, before, 1).await?;
    Ok(events.first().and_then(|event| payload_in(event)).unwrap_or_default())
}

fn payload_in(event: &Recorded) -> Option<Json> {
    let Ok(Event::Task(happened)) = event.event() else { return None };
    if let TaskEvent::Submitted(new) = happened {
        return Some(new.payload.clone());
    }
    if let TaskEvent::Updated(changes) = happened { changes.payload.clone() } else { None }
}

/// Asks agents whether they listen for pushed tasks.
///
/// `deaf` has those asked again who did not listen a while ago.
pub(in crate::process) fn probe(session: &Arc<Session>, deaf: bool) {
    let seen = |tenant: &TenantId, agent| Some(session.wire.observed(tenant, agent)?.received);
    let asked = session.scheduler.lock().ask(deaf, session.now().instant, MOST_ASKED, seen);
    if asked.is_empty() {
        return;
    }
    let session = session.clone();
    session.tasks.clone().spawn(async move {
        let ask = |(tenant, agent): (TenantId, AgentId)| {
            let session = &session;
            async move {
                let listens = session.wire.listens(tenant, agent).await;
                session.scheduler.lock().heard(agent, listens, session.now().instant);
                if listens {
                    session.wake.notify_one();
                }
            }
        };
        join_all(asked.into_iter().map(ask)).await;
        session.wake.notify_one();
    });
}

/// Has recorded what stands still for too long.
pub(in crate::process) fn escalate(session: &Arc<Session>) {
    let now = session.now().time;
    let commands = session.scheduler.lock().board.escalations(now);
    for command in commands {
        let session = session.clone();
        session.tasks.clone().spawn(async move {
            let outcome = session.execute(&command, 1).await;
            // What refused it is seen before the task is looked at again.
            session.folded_to(outcome.decision().position).await;
            session.scheduler.lock().board.settle(&command, &outcome, session.now().time);
            session.wake.notify_one();
        });
    }
}

/// Looks up what became of dependencies that nothing in memory knows.
pub(in crate::process) fn look_up(session: &Arc<Session>) {
    let lookups = session.scheduler.lock().board.take_lookups(MOST_LOOKUPS);
    if lookups.is_empty() {
        return;
    }
    let session = session.clone();
    session.tasks.clone().spawn(async move {
        for (tenant, task) in lookups {
            match found(&session, &tenant, task).await {
                Ok(found) => session.scheduler.lock().looked_up(&tenant, task, found),
                Err(error) => {
                    tracing::warn!(%task, %error, "cannot look a dependency up");
                    session.pause(std::time::Duration::from_secs(1)).await;
                    session.scheduler.lock().board.look_up_again(tenant, task);
                }
            }
        }
        session.wake.notify_one();
    });
}

async fn found(
    session: &Session,
    tenant: &TenantId,
    task: TaskId,
) -> Result<Option<Standing>, StoreError> {
    let mut state = Task::default();
    let mut stands: Option<Standing> = None;
    let mut version = 0;
    loop {
        let events = session.source.stream(tenant.clone(), task.0, version, PAGE).await?;
        for event in &events {
            let Ok(Event::Task(happened)) = event.event() else { continue };
            state.apply(happened);
            let Some(now) = state.state else { continue };
            let archived = state.archived;
            if stands.is_none_or(|s| (s.state, s.archived) != (now, archived)) {
                let at = event.recorded_at.timestamp_micros();
                stands = Some(Standing { state: now, archived, cause: event.position, at });
            }
        }
        match events.last() {
            Some(last) if events.len() == PAGE => version = last.version,
            Some(_) | None => return Ok(stands),
        }
    }
}
