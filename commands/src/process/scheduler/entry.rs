//! One open task as the scheduler knows it.

use std::sync::Arc;

use domain::capability::Need;
use domain::task::{Lease, TaskEvent, TaskState, TaskSubmitted, TaskUpdated};
use domain::values::Priority;
use domain::{AgentId, Json, Recorded, TaskId, TenantId, Timestamp};

use super::groups::GateId;
use super::matching::Shape;
use super::needs::{Needs, Standing};

/// A payload up to this size stays in memory; a larger one is read from the log when
/// the task is handed out. 100,000 open tasks then take well below 100 MB.
const INLINE_BYTES: usize = 256;

/// A task's place in the order of service: urgency, then age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub priority: Priority,
    /// Since when it could have run, in microseconds: its submission, or the time before
    /// which it was not to run. Attempts that failed do not make it younger.
    pub since: i64,
    pub position: u64,
    pub task: TaskId,
}

/// Where a payload is found.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    Inline(Json),
    /// In the task's event of this version.
    At(u64),
}

impl Payload {
    fn of(json: &Json, version: u64) -> Self {
        if json.as_str().len() <= INLINE_BYTES {
            Self::Inline(json.clone())
        } else {
            Self::At(version)
        }
    }
}

/// What the log says of an open task, and what the scheduler is about to do with it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub tenant: TenantId,
    /// Of its submission.
    pub position: u64,
    /// By the database's clock, in microseconds.
    submitted_us: i64,
    /// Of its last event: the cause of what happens to it next.
    pub cause: u64,
    /// Of its stream.
    pub version: u64,
    pub correlation: Option<uuid::Uuid>,
    pub queue: Arc<str>,
    pub priority: Priority,
    pub shape: Arc<Shape>,
    pub key: Option<Arc<str>>,
    /// What the queue's expressions say of it, with their texts.
    pub values: Vec<(Arc<str>, Arc<str>)>,
    /// What expressions look at, where the queue has any.
    pub facts: Option<Box<serde_json::Value>>,
    pub title: Box<str>,
    pub kind: Box<str>,
    pub due_at: Option<Timestamp>,
    pub trace: Option<Arc<str>>,
    pub payload: Payload,
    pub state: TaskState,
    pub run_at: Option<Timestamp>,
    pub retry_at: Option<Timestamp>,
    /// Other tasks that it waits for.
    pub needs: Option<Box<Needs>>,
    /// The event that brought it into its state, and when that was, in microseconds.
    pub stands_cause: u64,
    pub stands_since: i64,
    pub tokens: u64,
    pub attempt: u32,
    pub lease: Option<Lease>,
    /// The pick that led to the lease, where it was one.
    pub picked: Option<u64>,
    /// On its way to an agent: the command is with the executor, or its event not folded
    /// yet. That event ends it, or the pick that made it and came to nothing.
    pub reserved: Option<Reserved>,
    /// The agent was told of its assignment, or is being told.
    pub delivered: bool,
    /// Who had it last.
    pub previous: Option<AgentId>,
    /// Its parent, where its affinity looks at that.
    pub kin: Option<Box<ParentOf>>,
    /// The assignment is the scheduler's, not an operator's.
    pub ours: bool,
    /// The scheduler had it started, as the claim asked; nothing came from the agent yet.
    pub begun_with_claim: bool,
    /// Which index holds it.
    pub place: Place,
}

/// The parent of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParentOf {
    pub task: TaskId,
    /// Who has it, or had it last.
    pub agent: Option<AgentId>,
}

/// A claim of one pick on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    pub agent: AgentId,
    /// Counts picks, so that a late one cannot end the reservation of the next.
    pub pick: u64,
}

/// Which of the scheduler's indices holds a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// None: it is not to be given out.
    Nowhere,
    /// The dependencies' index.
    Dependent,
    /// The timetable, under this time.
    Timed(Timestamp),
    /// The queue.
    Waiting,
    /// An agent's hands (or on the way there).
    Held(AgentId),
}

impl Entry {
    pub fn submitted(event: &Recorded, new: &TaskSubmitted) -> Self {
        Self {
            tenant: event.tenant.clone(),
            position: event.position,
            submitted_us: event.recorded_at.timestamp_micros(),
            cause: event.position,
            version: event.version,
            correlation: event.correlation_id,
            queue: new.queue.as_str().into(),
            priority: new.priority,
            shape: Arc::new(Shape::new(&new.capabilities, new.assignees.clone(), &new.affinity)),
            key: new.concurrency_key.as_deref().map(Arc::from),
            values: Vec::new(),
            facts: None,
            title: new.title.as_str().into(),
            kind: new.kind.as_str().into(),
            due_at: new.due_at,
            trace: event.trace.clone(),
            payload: Payload::of(&new.payload, event.version),
            state: if new.triage { TaskState::Inbox } else { TaskState::Queued },
            run_at: new.run_at,
            retry_at: None,
            needs: None,
            stands_cause: event.position,
            stands_since: event.recorded_at.timestamp_micros(),
            tokens: 0,
            attempt: 0,
            lease: None,
            picked: None,
            reserved: None,
            delivered: false,
            previous: None,
            kin: new
                .parent_id
                .filter(|_| new.affinity.asks_for_parent())
                .map(|task| Box::new(ParentOf { task, agent: None })),
            ours: false,
            begun_with_claim: false,
            place: Place::Nowhere,
        }
    }

    /// Folds an event that is not its submission.
    pub fn apply(&mut self, event: &Recorded, happened: &TaskEvent, scheduler: &str) {
        use TaskEvent as E;
        let before = self.state;
        self.cause = event.position;
        self.version = event.version;
        self.begun_with_claim = matches!(happened, E::Started(_)) && &*event.actor == scheduler;
        match happened {
            E::Updated(changes) => {
                if let Some(priority) = changes.priority {
                    self.priority = priority;
                }
                if let Some(title) = &changes.title {
                    self.title = title.as_str().into();
                }
                if let Some(payload) = &changes.payload {
                    self.payload = Payload::of(payload, event.version);
                }
                if changes.capabilities.is_some()
                    || changes.assignees.is_some()
                    || changes.affinity.is_some()
                {
                    self.reshape(changes);
                }
                if let Some(due_at) = changes.due_at {
                    self.due_at = due_at;
                }
                if let Some(run_at) = changes.run_at {
                    self.run_at = run_at;
                }
            }
            E::Assigned(to) => {
                self.state = TaskState::Assigned;
                self.attempt = to.attempt;
                self.tokens = to.lease_token;
                self.retry_at = None;
                self.previous = Some(to.agent_id);
                self.lease = Some(Lease {
                    agent_id: to.agent_id,
                    token: to.lease_token,
                    expires_at: to.lease_expires_at,
                });
                self.ours = &*event.actor == scheduler;
                // Whoever reserved it for this agent is about to tell it.
                self.delivered = self.reserved.is_some_and(|by| by.agent == to.agent_id);
                self.picked = to.decision.as_ref().map(|decision| decision.nth);
                let begun = |by: &Reserved| Some(by.pick) == self.picked && self.delivered;
                if self.reserved.as_ref().is_some_and(begun) {
                    self.reserved = None;
                }
            }
            E::Unassigned(_) | E::Released(_) => {
                self.attempt = self.attempt.saturating_sub(1);
                self.end_lease(TaskState::Queued);
            }
            E::Started(_) | E::Unblocked(_) => {
                self.state = TaskState::InProgress;
                self.delivered = true;
            }
            E::Blocked(_) => self.state = TaskState::Blocked,
            E::ReviewRequested(_) => self.end_lease(TaskState::Review),
            E::Rejected(_) | E::LeaseExpired(_) => self.end_lease(TaskState::Queued),
            E::AttemptFailed(failed) => {
                self.retry_at = failed.retry_at;
                self.end_lease(TaskState::Queued);
            }
            E::Failed(_) => self.end_lease(TaskState::Failed),
            E::DeadLettered(_) => self.end_lease(TaskState::Dead),
            E::LeaseExtended(to) => {
                if let Some(lease) = &mut self.lease {
                    lease.expires_at = to.lease_expires_at;
                }
            }
            E::Requeued(_) => {
                self.attempt = 0;
                self.end_lease(TaskState::Queued);
            }
            E::Completed(_) => self.end_lease(TaskState::Done),
            E::Cancelled(_) => self.end_lease(TaskState::Cancelled),
            E::Submitted(_)
            | E::Progressed(_)
            | E::Approved(_)
            | E::Archived(_)
            | E::Escalated(_)
            | E::Overdue(_) => {}
        }
        if self.state != before {
            self.stands_cause = event.position;
            self.stands_since = event.recorded_at.timestamp_micros();
        }
    }

    fn end_lease(&mut self, state: TaskState) {
        self.state = state;
        self.lease = None;
        self.picked = None;
        self.delivered = false;
    }

    /// How it stands for those who wait for it.
    pub fn standing(&self) -> Standing {
        let (cause, at) = (self.stands_cause, self.stands_since);
        Standing { state: self.state, archived: false, cause, at }
    }

    fn reshape(&mut self, changes: &TaskUpdated) {
        let old = &self.shape;
        let of = |needs: &[Need]| needs.iter().map(|need| need.as_str().to_owned()).collect();
        let capabilities = changes.capabilities.clone().unwrap_or_else(|| of(&old.capabilities));
        let assignees = changes.assignees.clone().unwrap_or_else(|| old.assignees.clone());
        let affinity = changes.affinity.clone();
        let affinity = affinity
            .map(|new| *new)
            .or_else(|| old.affinity.as_deref().cloned())
            .unwrap_or_default();
        self.shape = Arc::new(Shape::new(&capabilities, assignees, &affinity));
    }

    /// Until when it waits for the agent that it is sticky to, in microseconds.
    pub fn sticks_until(&self) -> Option<i64> {
        let sticky = self.shape.affinity.as_ref()?.sticky.as_ref()?;
        let wait = i64::try_from(sticky.wait_ms).ok().filter(|ms| *ms > 0)?;
        let from = self.not_before().map_or(0, |at| at.timestamp_micros()).max(self.stands_since);
        Some(from.saturating_add(wait.saturating_mul(1_000)))
    }

    /// Its assignment does not come about; it rests perhaps.
    pub fn put_back(&mut self, rest: Option<Timestamp>) {
        self.reserved = None;
        self.retry_at = self.retry_at.max(rest);
    }

    /// The agent whose slot it takes.
    pub fn holder(&self) -> Option<AgentId> {
        self.lease.map(|lease| lease.agent_id).or(self.reserved.map(|by| by.agent))
    }

    /// Where it belongs, by what is known of it.
    pub fn belongs(&self, now: Timestamp) -> Place {
        if let Some(agent) = self.holder() {
            return Place::Held(agent);
        }
        if self.state != TaskState::Queued {
            return Place::Nowhere;
        }
        if self.needs.is_some() {
            return Place::Dependent;
        }
        match self.not_before() {
            Some(at) if at > now => Place::Timed(at),
            Some(_) | None => Place::Waiting,
        }
    }

    /// Until when it must not be given out.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.run_at.max(self.retry_at)
    }

    /// Its agent has it and may not know.
    pub fn is_undelivered(&self) -> bool {
        self.state == TaskState::Assigned && !self.delivered && self.reserved.is_none()
    }

    pub fn rank(&self, task: TaskId) -> Rank {
        let run_at = self.run_at.map_or(0, |at| at.timestamp_micros());
        let since = self.submitted_us.max(run_at);
        Rank { priority: self.priority, since, position: self.position, task }
    }

    /// The keys of its own that limits count it by.
    pub fn gates(&self) -> Vec<GateId> {
        let key = self.key.iter().map(|key| GateId::Key(self.tenant.clone(), key.clone()));
        let values = self.values.iter().map(|(expression, value)| GateId::Value {
            tenant: self.tenant.clone(),
            queue: self.queue.clone(),
            expression: expression.clone(),
            value: value.clone(),
        });
        key.chain(values).collect()
    }
}
