//! The task's rules: `match (state, command)` is the transition table.

use serde::{Deserialize, Serialize};

use super::Dependency;
use super::command::*;
use super::event::*;
use super::links;
use super::state::TaskState;
use super::submission::*;
use crate::decide::{Facts, Refusal, Timestamp};
use crate::ids::{AgentId, TaskId};
use crate::json::Json;
use crate::problem::Code;

/// The actor of the scheduler's own commands.
pub const SCHEDULER: &str = "manager:scheduler";

/// The right to answer for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it.
    pub agent_id: AgentId,
    /// Grows with every assignment of the task.
    pub token: u64,
    /// By the database's clock.
    pub expires_at: Timestamp,
}

/// A unit of work, held by at most one agent at a time.
///
/// Invariants: `lease` stands exactly in assigned, in_progress and blocked;
/// `attempt <= retry.max_attempts`; `tokens` never falls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// `None` until submitted.
    pub state: Option<TaskState>,
    /// The queue it waits in.
    pub queue: String,
    /// Attempts begun, those handed back not counted.
    pub attempt: u32,
    /// How failures are tried again.
    pub retry: RetryPolicy,
    /// Who may answer for it now.
    pub lease: Option<Lease>,
    /// The last lease token given out.
    pub tokens: u64,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When the current attempt began.
    pub started_at: Option<Timestamp>,
    /// When it should be done.
    #[serde(default)]
    pub due_at: Option<Timestamp>,
    /// That this time has passed was recorded.
    #[serde(default)]
    pub overdue: bool,
    /// Who may unblock it; nobody named: anybody.
    #[serde(default)]
    pub lifted_by: Vec<String>,
    /// The task that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    /// How many tasks stand above it.
    #[serde(default)]
    pub depth: u32,
    /// Tasks that it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    /// What it needs of those.
    #[serde(default, skip_serializing_if = "Dependency::is_default")]
    pub dependency: Dependency,
    /// Since when it stood still as that was last recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalated: Option<Timestamp>,
    /// What was handed in for review.
    pub result: Json,
    /// Off every list.
    pub archived: bool,
}

impl Task {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When the state does not allow the command, or its lease token is stale.
    pub fn decide(&self, command: &TaskCommand, facts: &Facts) -> Result<Vec<TaskEvent>, Refusal> {
        use TaskCommand as C;
        use TaskEvent as E;
        use TaskState as S;

        let Some(state) = self.state else {
            let C::Submit(new) = command else {
                return Err(Refusal::unknown("task"));
            };
            return Ok(vec![E::Submitted(submitted(new, facts))]);
        };
        let illegal = || match shown(command) {
            // An answer by somebody whose lease has ended, whatever became of the task since.
            Some(token) if (1..=self.tokens).contains(&token) && self.held(token).is_err() => {
                self.held(token).map(|_| vec![])
            }
            Some(_) | None if self.archived => {
                Err(Refusal::illegal(command.name(), "archived", &[]))
            }
            Some(_) | None => {
                Err(Refusal::illegal(command.name(), state.as_str(), state.allowed()))
            }
        };
        if matches!(command, C::Submit(_)) {
            return Err(Refusal::new(Code::AlreadyExists, "a task of this id exists already"));
        }
        if self.archived {
            return illegal();
        }
        self.answers_for_its_own(command, facts)?;
        let queue = || self.queue.clone();
        match (state, command) {
            (S::Done | S::Failed | S::Dead | S::Cancelled, C::Update(_)) => illegal(),
            (state, C::Update(changes)) => Ok(vec![E::Updated(self.updated(state, changes)?)]),

            (S::Inbox | S::Queued, C::Assign(to)) => Ok(self.assigned(to, facts, 1)),
            // Handed out to this very agent already: nothing to add.
            (S::Assigned, C::Assign(to)) if self.held_by(to.agent_id) => {
                let started = || E::Started(self.started(to.agent_id, self.attempt, facts));
                Ok(to.start.then(started).into_iter().collect())
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Reassign(to)) => {
                let mut events = vec![E::Unassigned(self.unassigned(to.reason.clone())?)];
                events.extend(self.assigned(to, facts, 0));
                Ok(events)
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Unassign(why)) => {
                Ok(vec![E::Unassigned(self.unassigned(why.reason.clone())?)])
            }

            (S::Assigned, C::Start(by)) => {
                let lease = self.held(by.lease_token)?;
                Ok(vec![E::Started(self.started(lease.agent_id, self.attempt, facts))])
            }
            // The same holder says it twice.
            (S::InProgress, C::Start(by)) => self.held(by.lease_token).map(|_| vec![]),
            (S::Assigned | S::InProgress, C::Progress(by)) => {
                let lease = self.held(by.lease_token)?;
                Ok(self.begun(lease, facts).with(E::Progressed(TaskProgressed {
                    percent: by.percent.and_then(thousandths),
                    message: by.message.clone(),
                    data: by.data.clone(),
                })))
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Complete(by)) => {
                let lease = self.held(by.lease_token)?;
                Ok(self.begun(lease, facts).with(E::Completed(TaskCompleted {
                    agent_id: Some(lease.agent_id),
                    result: by.result.clone(),
                    queue: queue(),
                    ran_ms: self.ran_ms(facts),
                })))
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Fail(by)) => {
                let lease = self.held(by.lease_token)?;
                Ok(self.attempt_failed(lease, by, facts))
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Extend(by)) => {
                let lease = self.held(by.lease_token)?;
                Ok(vec![E::LeaseExtended(TaskLeaseExtended {
                    lease_token: lease.token,
                    lease_expires_at: expiry(by.lease_ms, facts),
                })])
            }
            (S::Assigned | S::InProgress | S::Blocked, C::Release(by)) => {
                self.held(by.lease_token)?;
                Ok(vec![E::Released(self.unassigned(by.reason.clone())?)])
            }
            (S::Assigned | S::InProgress | S::Blocked, C::ExpireLease(by)) => {
                let lease = self.held(by.lease_token)?;
                if facts.now < lease.expires_at {
                    return Err(Refusal::new(Code::StaleLease, "the lease runs on"));
                }
                Ok(self.lease_expired(lease))
            }
            (S::Assigned | S::InProgress, C::Block(by)) => {
                let lease = self.held_if_said(by.lease_token)?;
                let (reason, lifted_by) = (by.reason.clone(), by.lifted_by.clone());
                let blocked = E::Blocked(TaskBlocked { reason, lifted_by });
                Ok(self.begun(lease, facts).with(blocked))
            }
            (S::Blocked, C::Unblock(why)) => {
                if !self.lifted_by.is_empty() && !self.lifted_by.contains(&facts.actor) {
                    let who = self.lifted_by.join(", ");
                    let detail = format!("only {who} may unblock it, not {}", facts.actor);
                    return Err(Refusal::new(Code::Forbidden, detail));
                }
                Ok(vec![E::Unblocked(TaskNoted { reason: why.reason.clone() })])
            }
            (S::Assigned | S::InProgress, C::SubmitForReview(by)) => {
                let lease = self.held_if_said(by.lease_token)?;
                let asked = TaskReviewRequested { result: by.result.clone() };
                Ok(self.begun(lease, facts).with(E::ReviewRequested(asked)))
            }
            (S::Review, C::Approve(why)) => Ok(vec![
                E::Approved(TaskNoted { reason: why.reason.clone() }),
                E::Completed(TaskCompleted {
                    agent_id: None,
                    result: self.result.clone(),
                    queue: queue(),
                    ran_ms: self.ran_ms(facts),
                }),
            ]),
            (S::Review, C::Reject(why)) => {
                let rejected = E::Rejected(TaskNoted { reason: why.reason.clone() });
                Ok(self.unless_used_up(rejected, "rejected in review"))
            }

            (state, C::Cancel(why)) if !state.is_final() => {
                let (reason, cascade) = (why.reason.clone(), why.cascade);
                Ok(vec![E::Cancelled(TaskCancelled { queue: queue(), reason, cascade })])
            }
            (state @ (S::Inbox | S::Failed | S::Dead), C::Requeue(why)) => {
                let changed = why.changes.as_ref().map(|changes| self.updated(state, changes));
                let changed = changed.transpose()?.map(E::Updated);
                let requeued =
                    E::Requeued(TaskEnded { queue: queue(), reason: why.reason.clone() });
                Ok(changed.into_iter().chain([requeued]).collect())
            }
            (state, C::MarkOverdue(_)) if !state.is_final() => self.marked_overdue(state, facts),
            (S::Queued | S::Blocked, C::Escalate(found)) => self.escalated(state, found, facts),
            (S::Failed | S::Dead, C::Discard(why)) => {
                let reason = why.reason.clone().or_else(|| Some("discarded".into()));
                Ok(vec![E::Archived(TaskNoted { reason })])
            }
            (state, C::Archive(why))
                if state.is_final() || matches!(state, S::Inbox | S::Queued) =>
            {
                Ok(vec![E::Archived(TaskNoted { reason: why.reason.clone() })])
            }

            (
                _,
                C::Assign(_)
                | C::Start(_)
                | C::Progress(_)
                | C::Block(_)
                | C::Unblock(_)
                | C::SubmitForReview(_)
                | C::Approve(_)
                | C::Reject(_)
                | C::Complete(_)
                | C::Fail(_)
                | C::Extend(_)
                | C::Release(_)
                | C::Cancel(_)
                | C::Requeue(_)
                | C::Reassign(_)
                | C::Unassign(_)
                | C::Discard(_)
                | C::Archive(_)
                | C::ExpireLease(_)
                | C::MarkOverdue(_)
                | C::Escalate(_)
                | C::Submit(_),
            ) => illegal(),
        }
    }

    /// Folds one event into the state; total, so any recorded history can be read.
    pub fn apply(&mut self, event: &TaskEvent) {
        use TaskEvent as E;
        match event {
            E::Submitted(new) => {
                let start = if new.triage { TaskState::Inbox } else { TaskState::Queued };
                self.state = Some(start);
                self.submitted_at = new.submitted_at;
                self.queue.clone_from(&new.queue);
                self.retry = new.retry.clone();
                self.due_at = new.due_at;
                self.parent_id = new.parent_id;
                self.depth = new.depth;
                self.depends_on.clone_from(&new.depends_on);
                self.dependency = new.dependency;
            }
            E::Updated(changes) => {
                if let Some(due_at) = changes.due_at {
                    self.due_at = due_at;
                    self.overdue = false;
                }
                if let Some(on) = &changes.depends_on {
                    self.depends_on.clone_from(on);
                }
                self.dependency = changes.dependency.unwrap_or(self.dependency);
            }
            E::Overdue(_) => self.overdue = true,
            E::Escalated(found) => self.escalated = Some(found.since),
            E::Progressed(_) => {}
            E::Assigned(to) => {
                self.state = Some(TaskState::Assigned);
                self.attempt = to.attempt;
                self.tokens = to.lease_token;
                self.started_at = None;
                self.lease = Some(Lease {
                    agent_id: to.agent_id,
                    token: to.lease_token,
                    expires_at: to.lease_expires_at,
                });
            }
            E::Unassigned(_) | E::Released(_) => {
                self.attempt = self.attempt.saturating_sub(1);
                self.end_lease(TaskState::Queued);
            }
            E::Started(start) => {
                self.state = Some(TaskState::InProgress);
                self.started_at = Some(start.started_at);
            }
            E::Blocked(by) => {
                self.state = Some(TaskState::Blocked);
                self.lifted_by.clone_from(&by.lifted_by);
            }
            E::Unblocked(_) => self.state = Some(TaskState::InProgress),
            E::ReviewRequested(asked) => {
                self.result = asked.result.clone();
                self.end_lease(TaskState::Review);
            }
            E::Approved(_) => {}
            E::Rejected(_) | E::AttemptFailed(_) | E::LeaseExpired(_) => {
                self.end_lease(TaskState::Queued);
            }
            E::Completed(_) => self.end_lease(TaskState::Done),
            E::Failed(_) => self.end_lease(TaskState::Failed),
            E::DeadLettered(_) => self.end_lease(TaskState::Dead),
            E::LeaseExtended(to) => {
                if let Some(lease) = &mut self.lease {
                    lease.expires_at = to.lease_expires_at;
                }
            }
            E::Cancelled(_) => self.end_lease(TaskState::Cancelled),
            E::Requeued(_) => {
                self.attempt = 0;
                self.end_lease(TaskState::Queued);
            }
            E::Archived(_) => self.archived = true,
        }
    }

    fn held_by(&self, agent_id: AgentId) -> bool {
        self.lease.is_some_and(|lease| lease.agent_id == agent_id)
    }

    fn held(&self, token: u64) -> Result<Lease, Refusal> {
        self.lease.filter(|lease| lease.token == token).ok_or_else(|| {
            let current = match self.lease {
                Some(lease) => format!("the current token is {}", lease.token),
                None => "nobody holds a lease".into(),
            };
            Refusal::new(Code::StaleLease, format!("lease token {token} is stale: {current}"))
        })
    }

    /// A token is a small number that another agent may guess, or have kept of another
    /// task: an agent answers with its own leases only. Others (an operator with the
    /// token) may answer in its place.
    fn answers_for_its_own(&self, command: &TaskCommand, facts: &Facts) -> Result<(), Refusal> {
        let Some(lease) = self.lease.filter(|lease| shown(command) == Some(lease.token)) else {
            return Ok(());
        };
        let agent = facts.actor.strip_prefix("agent:").and_then(|id| id.parse().ok()).map(AgentId);
        match agent {
            Some(agent) if agent != lease.agent_id => {
                let detail = format!("the lease is agent {}'s, not {agent}'s", lease.agent_id);
                Err(Refusal::new(Code::StaleLease, detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Operators may act without a token; whoever shows one must hold it.
    fn held_if_said(&self, token: Option<u64>) -> Result<Lease, Refusal> {
        let current = self.lease.map_or(0, |lease| lease.token);
        self.held(token.unwrap_or(current))
    }

    fn assigned(&self, to: &AssignTask, facts: &Facts, step: u32) -> Vec<TaskEvent> {
        let attempt = self.attempt.saturating_add(step).max(1);
        let assigned = TaskEvent::Assigned(TaskAssigned {
            agent_id: to.agent_id,
            attempt,
            lease_token: self.tokens.saturating_add(1),
            lease_expires_at: expiry(to.lease_ms, facts),
            queue: self.queue.clone(),
            reason: to.reason.clone(),
            decision: to.decision.clone().filter(|_| facts.actor == SCHEDULER),
        });
        let started =
            to.start.then(|| TaskEvent::Started(self.started(to.agent_id, attempt, facts)));
        [assigned].into_iter().chain(started).collect()
    }

    fn unassigned(&self, reason: Option<String>) -> Result<TaskUnassigned, Refusal> {
        let lease = self.held_if_said(None)?;
        Ok(TaskUnassigned { agent_id: lease.agent_id, reason })
    }

    fn started(&self, agent_id: AgentId, attempt: u32, facts: &Facts) -> TaskStarted {
        TaskStarted {
            agent_id,
            attempt,
            queue: self.queue.clone(),
            started_at: facts.now,
            waited_ms: millis(self.submitted_at, facts.now),
        }
    }

    /// An answer by a holder who never said `start` implies it.
    fn begun(&self, lease: Lease, facts: &Facts) -> Begun {
        let implied = self.state == Some(TaskState::Assigned);
        let started = || TaskEvent::Started(self.started(lease.agent_id, self.attempt, facts));
        Begun(implied.then(started))
    }

    fn ran_ms(&self, facts: &Facts) -> u64 {
        self.started_at.map_or(0, |start| millis(start, facts.now))
    }

    fn attempt_failed(&self, lease: Lease, by: &FailTask, facts: &Facts) -> Vec<TaskEvent> {
        let class_allows = match (&self.retry.retryable, &by.class) {
            (Some(classes), Some(class)) => classes.contains(class),
            (Some(_) | None, _) => true,
        };
        let retryable = by.retryable && class_allows;
        let again = retryable && self.attempt < self.retry.max_attempts;
        let failed = TaskEvent::AttemptFailed(TaskAttemptFailed {
            agent_id: lease.agent_id,
            attempt: self.attempt,
            error: by.error.clone(),
            class: by.class.clone(),
            retry_at: again.then(|| {
                later(facts.now, by.retry_after_ms.unwrap_or_else(|| self.backoff_ms(facts)))
            }),
            queue: self.queue.clone(),
        });
        let (error, queue) = (by.error.clone(), self.queue.clone());
        match (again, retryable) {
            (true, _) => vec![failed],
            (false, true) => {
                let attempts = self.attempt;
                vec![failed, TaskEvent::DeadLettered(TaskDeadLettered { attempts, error, queue })]
            }
            (false, false) => vec![failed, TaskEvent::Failed(TaskFailed { error, queue })],
        }
    }

    fn lease_expired(&self, lease: Lease) -> Vec<TaskEvent> {
        let expired = TaskEvent::LeaseExpired(TaskLeaseExpired {
            agent_id: lease.agent_id,
            attempt: self.attempt,
            lease_token: lease.token,
            queue: self.queue.clone(),
        });
        self.unless_used_up(expired, "the lease ran out: the agent was silent")
    }

    /// An attempt that came to nothing; behind the last one stands the end.
    fn unless_used_up(&self, event: TaskEvent, error: &str) -> Vec<TaskEvent> {
        let dead = (self.attempt >= self.retry.max_attempts).then(|| {
            TaskEvent::DeadLettered(TaskDeadLettered {
                attempts: self.attempt,
                error: Json::of(error),
                queue: self.queue.clone(),
            })
        });
        [event].into_iter().chain(dead).collect()
    }

    /// That its time has passed is recorded once, and not a moment early.
    fn marked_overdue(&self, state: TaskState, facts: &Facts) -> Result<Vec<TaskEvent>, Refusal> {
        let due_at = self.due_at.filter(|due_at| *due_at <= facts.now);
        let Some(due_at) = due_at else {
            return Err(Refusal::new(Code::NotPossible, "its time has not passed"));
        };
        if self.overdue {
            return Ok(vec![]);
        }
        let queue = self.queue.clone();
        Ok(vec![TaskEvent::Overdue(TaskOverdue { due_at, state, queue })])
    }

    /// What is recorded of an update. Dependencies and what is needed of them stand there
    /// together, so that whoever reads the event needs no other one.
    fn updated(&self, state: TaskState, changes: &UpdateTask) -> Result<UpdateTask, Refusal> {
        let mut changes = changes.clone();
        if changes.depends_on.is_some() || changes.dependency.is_some() {
            if !links::may_be_linked_anew(state) {
                return Err(links::begun(state));
            }
            changes.depends_on.get_or_insert_with(|| self.depends_on.clone());
            changes.dependency.get_or_insert(self.dependency);
        }
        Ok(changes)
    }

    /// That it stands still is recorded once for each time it does, and not a moment early.
    fn escalated(
        &self,
        state: TaskState,
        found: &EscalateTask,
        facts: &Facts,
    ) -> Result<Vec<TaskEvent>, Refusal> {
        if found.due_at > facts.now {
            return Err(Refusal::new(Code::NotPossible, "it has not stood still for so long"));
        }
        let Some(head) = found.path.last().copied().filter(|_| self.escalated != Some(found.since))
        else {
            return Ok(vec![]);
        };
        Ok(vec![TaskEvent::Escalated(TaskEscalated {
            since: found.since,
            state,
            head,
            head_state: found.head_state,
            path: found.path.clone(),
            queue: self.queue.clone(),
        })])
    }

    /// Exponential backoff with full jitter: anything up to the doubled wait (AWS
    /// Architecture Blog, "Exponential Backoff And Jitter"). The spread comes from the
    /// instant of the decision, so a replay waits as long.
    fn backoff_ms(&self, facts: &Facts) -> u64 {
        let doublings = self.attempt.saturating_sub(1).min(31);
        let full = self.retry.backoff_ms.saturating_mul(1 << doublings);
        let full = full.min(self.retry.backoff_max_ms).min(MAX_LEASE_MS);
        let spread = u64::from(facts.now.timestamp_subsec_micros()) % 1_000;
        full * spread / 999
    }

    fn end_lease(&mut self, state: TaskState) {
        self.state = Some(state);
        self.lease = None;
    }
}

struct Begun(Option<TaskEvent>);

impl Begun {
    fn with(self, event: TaskEvent) -> Vec<TaskEvent> {
        self.0.into_iter().chain([event]).collect()
    }
}

fn expiry(lease_ms: Option<u64>, facts: &Facts) -> Timestamp {
    let ms = lease_ms.unwrap_or(DEFAULT_LEASE_MS).min(MAX_LEASE_MS);
    later(facts.now, ms)
}

/// At most a day later; at the end of all time, that end.
fn later(now: Timestamp, ms: u64) -> Timestamp {
    let wait = chrono::TimeDelta::milliseconds(ms.min(MAX_LEASE_MS) as i64);
    now.checked_add_signed(wait).unwrap_or(Timestamp::MAX_UTC)
}

/// Three decimals: so few digits come back from the log as the same bits, also
/// without serde_json's slower exact reading of floats.
fn thousandths(percent: f64) -> Option<f64> {
    percent.is_finite().then(|| (percent * 1_000.0).round() / 1_000.0)
}

/// The lease token that a command shows.
fn shown(command: &TaskCommand) -> Option<u64> {
    use TaskCommand as C;
    match command {
        C::Start(StartTask { lease_token })
        | C::Progress(ProgressTask { lease_token, .. })
        | C::Complete(CompleteTask { lease_token, .. })
        | C::Fail(FailTask { lease_token, .. })
        | C::Extend(ExtendTask { lease_token, .. })
        | C::Release(ReleaseTask { lease_token, .. })
        | C::ExpireLease(ExpireLease { lease_token }) => Some(*lease_token),
        C::Block(BlockTask { lease_token, .. })
        | C::SubmitForReview(SubmitForReview { lease_token, .. }) => *lease_token,
        C::Submit(_)
        | C::Update(_)
        | C::Assign(_)
        | C::Unblock(_)
        | C::Approve(_)
        | C::Reject(_)
        | C::Cancel(_)
        | C::Requeue(_)
        | C::Reassign(_)
        | C::Unassign(_)
        | C::Discard(_)
        | C::MarkOverdue(_)
        | C::Escalate(_)
        | C::Archive(_) => None,
    }
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    (to - from).num_milliseconds().try_into().unwrap_or(0)
}

fn submitted(new: &SubmitTask, facts: &Facts) -> TaskSubmitted {
    let new = new.clone();
    let retry = facts.task_types.get(&new.kind).map(|kind| kind.retry.clone()).unwrap_or_default();
    TaskSubmitted {
        title: new.title,
        description: new.description,
        kind: new.kind,
        queue: new.queue,
        payload: new.payload,
        priority: new.priority,
        capabilities: new.capabilities,
        labels: new.labels,
        assignees: new.assignees,
        parent_id: new.parent_id,
        depends_on: new.depends_on,
        dependency: new.dependency,
        due_at: new.due_at,
        run_at: new.run_at,
        triage: new.triage,
        concurrency_key: new.concurrency_key,
        retry: new.retry.unwrap_or(retry),
        submitted_at: facts.now,
        depth: facts.depth,
        attachments: new.attachments,
        estimate_ms: new.estimate_ms,
        stall_ms: new.stall_ms,
        acceptance_criteria: new.acceptance_criteria,
        deliverables: new.deliverables,
        affinity: new.affinity,
    }
}

aggregate!(Task, "task", TaskCommand, TaskEvent);
