//! What can be asked of a task. Field names are the contract's.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::affinity::Affinity;
use super::decision::Decision;
use super::{Dependency, TaskState};
use crate::capability::check_needed;
use crate::ids::{AgentId, TaskId};
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::{Check, Labels, Priority};

/// Lease length when nothing is said, in milliseconds.
pub const DEFAULT_LEASE_MS: u64 = 30_000;
/// Shortest lease: below it a slow network alone would lose the task.
pub const MIN_LEASE_MS: u64 = 1_000;
/// Longest lease: a day.
pub const MAX_LEASE_MS: u64 = 86_400_000;
/// Longest estimate: ten years, a bound against slips of the unit.
const MAX_ESTIMATE_MS: u64 = 10 * 365 * 86_400_000;

commands! {
    /// The commands of a task.
    TaskCommand {
        /// Creates it.
        Submit(SubmitTask) = "submit",
        /// Changes what is described, not the state.
        Update(UpdateTask) = "update",
        /// Gives it to an agent, with a lease.
        Assign(AssignTask) = "assign",
        /// The agent begins (contract: accept).
        Start(StartTask) = "start",
        /// The agent tells how far it is.
        Progress(ProgressTask) = "progress",
        /// It can't go on for now.
        Block(BlockTask) = "block",
        /// It can go on.
        Unblock(Reason) = "unblock",
        /// The work waits for a verdict.
        SubmitForReview(SubmitForReview) = "submit_for_review",
        /// The verdict is yes.
        Approve(Reason) = "approve",
        /// The verdict is no: back to the queue, or dead where no attempt is left.
        Reject(Reason) = "reject",
        /// The agent is done.
        Complete(CompleteTask) = "complete",
        /// The agent could not do it.
        Fail(FailTask) = "fail",
        /// The agent needs longer.
        Extend(ExtendTask) = "extend",
        /// The agent hands it back undone.
        Release(ReleaseTask) = "release",
        /// Nobody is to do it any more.
        Cancel(CancelTask) = "cancel",
        /// Into the queue: out of the inbox, or revived after failing, changed on the way.
        Requeue(RequeueTask) = "requeue",
        /// Takes it from its agent and gives it to another.
        Reassign(AssignTask) = "reassign",
        /// Takes it from its agent.
        Unassign(Reason) = "unassign",
        /// Drops a failed or dead task from the dead letters.
        Discard(Reason) = "discard",
        /// Takes it off every list; its history stays.
        Archive(Reason) = "archive",
        /// The scheduler noticed that the lease has run out.
        ExpireLease(ExpireLease) = "expire_lease",
        /// The time at which it should have been done has passed.
        MarkOverdue(Reason) = "mark_overdue",
        /// It has stood still for too long.
        Escalate(EscalateTask) = "escalate",
    }
}

fn default_name() -> String {
    "default".into()
}

fn yes() -> bool {
    true
}

/// Tells `null` (clear it, or a fault where there is nothing to clear) from absence
/// (leave it).
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// How failures are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts in all, 1 to 100.
    pub max_attempts: u32,
    /// Wait before the second attempt; doubles with each further one.
    pub backoff_ms: u64,
    /// Longest wait.
    pub backoff_max_ms: u64,
    /// Error classes that are worth another attempt; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<Vec<String>>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff_ms: 1_000, backoff_max_ms: 60_000, retryable: None }
    }
}

/// What is set for tasks of one type, by the type's name.
pub type TaskTypes = BTreeMap<String, TaskType>;

/// What holds for tasks of one type that say nothing themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskType {
    /// How failures are tried again.
    pub retry: RetryPolicy,
}

impl Body for TaskType {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        self.retry.check(Check::default(), "retry").done()
    }
}

/// A new task; only `title` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    /// What is to be done, in a line.
    pub title: String,
    /// The same at length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The kind of work, for handlers that know several.
    #[serde(rename = "type", default = "default_name")]
    pub kind: String,
    /// The queue it waits in.
    #[serde(default = "default_name")]
    pub queue: String,
    /// The input of the work.
    #[serde(default)]
    pub payload: Json,
    /// Its urgency.
    #[serde(default)]
    pub priority: Priority,
    /// What an agent must be able to do: names, or names with a range of versions, such as
    /// `python@>=3.10`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Free labels.
    #[serde(default)]
    pub labels: Labels,
    /// Who is meant to do it; agents outside the list are passed over.
    #[serde(default)]
    pub assignees: Vec<String>,
    /// The task that this one is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    /// Tasks that it waits for; they may be submitted later.
    #[serde(default)]
    pub depends_on: Vec<TaskId>,
    /// How many of those it needs, and what of them counts.
    #[serde(default, skip_serializing_if = "Dependency::is_default")]
    pub dependency: Dependency,
    /// When it should be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// Waits in the inbox until somebody assigns or requeues it.
    #[serde(default)]
    pub triage: bool,
    /// Tasks with the same key run one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// How failures are tried again; absent: as set for its type, or three attempts.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// What belongs to it, by reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// How long it is thought to take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_ms: Option<u64>,
    /// What must hold for it to be accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptance_criteria: Vec<String>,
    /// What it is to bring about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliverables: Vec<String>,
    /// Where it may run, and where it had better run.
    #[serde(default, skip_serializing_if = "Affinity::is_empty")]
    pub affinity: Box<Affinity>,
}

/// Something that belongs to a task; the thing itself is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// What people call it.
    pub name: String,
    /// Where it is: a URL, or whatever the agents understand.
    pub url: String,
    /// Its media type, such as `text/markdown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// SHA-256 of its bytes, as 64 lower-case hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The rules for what describes a task beside its title, for submission and update alike.
fn check_described(
    check: Check,
    attachments: &[Attachment],
    acceptance_criteria: &[String],
    deliverables: &[String],
) -> Check {
    let mut check = check
        .rule(attachments.len() <= 64, "attachments", "too_many", "at most 64 entries")
        .rule(
            acceptance_criteria.len() <= 64,
            "acceptance_criteria",
            "too_many",
            "at most 64 entries",
        )
        .rule(deliverables.len() <= 64, "deliverables", "too_many", "at most 64 entries");
    for (nth, attachment) in attachments.iter().enumerate().take(64) {
        let field = |name: &str| format!("attachments/{nth}/{name}");
        let hex = |text: &String| {
            text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        check = check
            .text(&field("name"), &attachment.name, 1, 255)
            .text(&field("url"), &attachment.url, 1, 2_048)
            .maybe(&field("media_type"), attachment.media_type.as_ref(), 255)
            .rule(
                attachment.sha256.as_ref().is_none_or(hex),
                &field("sha256"),
                "malformed",
                "64 lower-case hex digits",
            );
    }
    for (list, texts) in
        [("acceptance_criteria", acceptance_criteria), ("deliverables", deliverables)]
    {
        for (nth, text) in texts.iter().enumerate().take(64) {
            check = check.text(&format!("{list}/{nth}"), text, 1, 2_000);
        }
    }
    check
}

impl RetryPolicy {
    /// The limits of a policy, as fields below `at`.
    pub(crate) fn check(&self, check: Check, at: &str) -> Check {
        let field = |name: &str| format!("{at}/{name}");
        check
            .range(&field("max_attempts"), self.max_attempts.into(), 1, 100)
            .range(&field("backoff_ms"), self.backoff_ms, 0, MAX_LEASE_MS)
            .range(&field("backoff_max_ms"), self.backoff_max_ms, 0, MAX_LEASE_MS)
            .words(&field("retryable"), self.retryable.as_deref().unwrap_or_default(), 64)
    }
}

impl SubmitTask {
    /// A task of which only the title is known.
    pub fn titled(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            description: None,
            kind: default_name(),
            queue: default_name(),
            payload: Json::null(),
            priority: Priority::default(),
            capabilities: Vec::new(),
            labels: Labels::default(),
            assignees: Vec::new(),
            parent_id: None,
            depends_on: Vec::new(),
            dependency: Dependency::default(),
            due_at: None,
            run_at: None,
            triage: false,
            concurrency_key: None,
            retry: None,
            attachments: Vec::new(),
            estimate_ms: None,
            acceptance_criteria: Vec::new(),
            deliverables: Vec::new(),
            affinity: Box::default(),
        }
    }
}

impl Body for SubmitTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let check = Check::default()
            .text("title", &self.title, 1, 500)
            .maybe("description", self.description.as_ref(), 65_536)
            .token("type", &self.kind)
            .token("queue", &self.queue)
            .value("payload", &self.payload)
            .labels("labels", &self.labels)
            .words("assignees", &self.assignees, 64)
            .rule(self.depends_on.len() <= 256, "depends_on", "too_many", "at most 256 entries")
            .time("due_at", self.due_at)
            .time("run_at", self.run_at)
            .maybe("concurrency_key", self.concurrency_key.as_ref(), 128)
            .range("estimate_ms", self.estimate_ms.unwrap_or(0), 0, MAX_ESTIMATE_MS);
        let check = check_described(
            check,
            &self.attachments,
            &self.acceptance_criteria,
            &self.deliverables,
        );
        let check = check_needed(check, "capabilities", &self.capabilities, 64);
        let check = self.affinity.check(check, "affinity");
        match &self.retry {
            Some(retry) => retry.check(check, "retry").done(),
            None => check.done(),
        }
    }
}

/// Changes to a task; what is absent stays, `null` clears what may be absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateTask {
    /// See [`SubmitTask::title`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// See [`SubmitTask::description`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub description: Option<Option<String>>,
    /// See [`SubmitTask::payload`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub payload: Option<Json>,
    /// See [`SubmitTask::priority`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// See [`SubmitTask::capabilities`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// See [`SubmitTask::labels`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// See [`SubmitTask::assignees`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub assignees: Option<Vec<String>>,
    /// See [`SubmitTask::depends_on`]; only for a task that was not begun.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<TaskId>>,
    /// See [`SubmitTask::dependency`]; only for a task that was not begun.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub dependency: Option<Dependency>,
    /// See [`SubmitTask::due_at`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Option<DateTime<Utc>>>,
    /// See [`SubmitTask::run_at`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Option<DateTime<Utc>>>,
    /// See [`SubmitTask::attachments`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// See [`SubmitTask::estimate_ms`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub estimate_ms: Option<Option<u64>>,
    /// See [`SubmitTask::acceptance_criteria`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub acceptance_criteria: Option<Vec<String>>,
    /// See [`SubmitTask::deliverables`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub deliverables: Option<Vec<String>>,
    /// See [`SubmitTask::affinity`]; replaces the whole.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Box<Affinity>>,
}

impl Body for UpdateTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check::default()
            .maybe("description", self.description.as_ref().and_then(Option::as_ref), 65_536)
            .words("assignees", self.assignees.as_deref().unwrap_or_default(), 64)
            .time("due_at", self.due_at.flatten())
            .time("run_at", self.run_at.flatten())
            .range("estimate_ms", self.estimate_ms.flatten().unwrap_or(0), 0, MAX_ESTIMATE_MS)
            .rule(
                self.depends_on.as_ref().is_none_or(|on| on.len() <= 256),
                "depends_on",
                "too_many",
                "at most 256 entries",
            )
            .rule(*self != Self::default(), "", "empty", "at least one field must be given");
        check = check_described(
            check,
            self.attachments.as_deref().unwrap_or_default(),
            self.acceptance_criteria.as_deref().unwrap_or_default(),
            self.deliverables.as_deref().unwrap_or_default(),
        );
        let capabilities = self.capabilities.as_deref().unwrap_or_default();
        check = check_needed(check, "capabilities", capabilities, 64);
        if let Some(affinity) = &self.affinity {
            check = affinity.check(check, "affinity");
        }
        if let Some(title) = &self.title {
            check = check.text("title", title, 1, 500);
        }
        if let Some(payload) = &self.payload {
            check = check.value("payload", payload);
        }
        if let Some(labels) = &self.labels {
            check = check.labels("labels", labels);
        }
        check.done()
    }
}

/// Gives a task to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignTask {
    /// The agent.
    pub agent_id: AgentId,
    /// How long the lease runs, in milliseconds; 30,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Why this agent; the scheduler writes down what it chose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The agent begins with it at once and need not say `start`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
    /// How the scheduler came to it; only its own word is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Box<Decision>>,
}

impl AssignTask {
    /// To this agent, for a lease of the usual length, not begun.
    pub fn to(agent_id: AgentId) -> Self {
        Self { agent_id, lease_ms: None, reason: None, start: false, decision: None }
    }
}

fn check_lease(check: Check, lease_ms: Option<u64>) -> Check {
    match lease_ms {
        Some(ms) => check.range("lease_ms", ms, MIN_LEASE_MS, MAX_LEASE_MS),
        None => check,
    }
}

impl Body for AssignTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        check_lease(Check::default(), self.lease_ms)
            .maybe("reason", self.reason.as_ref(), 2_000)
            .done()
    }
}

/// The agent begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
}

impl Body for StartTask {}

/// The agent tells how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgressTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// 0 to 100; three decimals are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub data: Json,
}

impl Body for ProgressTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let percent = self.percent.is_none_or(|p| (0.0..=100.0).contains(&p));
        Check::default()
            .rule(percent, "percent", "out_of_range", "`percent` must lie between 0 and 100")
            .maybe("message", self.message.as_ref(), 2_000)
            .value("data", &self.data)
            .done()
    }
}

/// Why something is done; may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Body for Reason {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

/// Nobody is to do it any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CancelTask {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its open subtasks are cancelled with it, and theirs; `true` when absent. Tasks that
    /// depend on it are not touched.
    #[serde(skip_serializing_if = "is_yes")]
    pub cascade: bool,
}

impl Default for CancelTask {
    fn default() -> Self {
        Self { reason: None, cascade: true }
    }
}

impl From<Reason> for CancelTask {
    fn from(why: Reason) -> Self {
        Self { reason: why.reason, ..Self::default() }
    }
}

impl Body for CancelTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

/// It has stood still for too long: the managers found at which task that lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EscalateTask {
    /// Since when it stands still.
    pub since: DateTime<Utc>,
    /// When that is too long.
    pub due_at: DateTime<Utc>,
    /// Where that one stands; absent where it was never submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_state: Option<TaskState>,
    /// From the task itself to the one at which it lies: each waits for the next.
    pub path: Vec<TaskId>,
}

impl Body for EscalateTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .rule(!self.path.is_empty(), "path", "required", "the task itself, at least")
            .rule(self.path.len() <= super::MAX_WALK, "path", "too_many", "at most 1,000 entries")
            .time("since", Some(self.since))
            .time("due_at", Some(self.due_at))
            .done()
    }
}

/// Back into the queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequeueTask {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is to be different this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<UpdateTask>,
}

impl Body for RequeueTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let reason = Check::default().maybe("reason", self.reason.as_ref(), 2_000).done();
        let changes = self.changes.as_ref().map_or(Ok(()), Body::check).map_err(|faults| {
            let below = |fault: FieldError| FieldError {
                pointer: format!("/changes{}", fault.pointer),
                ..fault
            };
            faults.into_iter().map(below).collect::<Vec<_>>()
        });
        match (reason, changes) {
            (Ok(()), changes) => changes,
            (Err(mut faults), changes) => {
                faults.extend(changes.err().unwrap_or_default());
                Err(faults)
            }
        }
    }
}

/// It can't go on for now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockTask {
    /// What it waits for.
    pub reason: String,
    /// Who may unblock it, by the name that their commands carry; nobody named: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifted_by: Vec<String>,
    /// The token, when the agent itself says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_token: Option<u64>,
}

impl Body for BlockTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .text("reason", &self.reason, 1, 2_000)
            .words("lifted_by", &self.lifted_by, 64)
            .done()
    }
}

/// The work waits for a verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitForReview {
    /// The token, when the agent itself says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_token: Option<u64>,
    /// What came out.
    pub result: Json,
}

impl Body for SubmitForReview {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("result", &self.result).done()
    }
}

/// The agent is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// What came out.
    #[serde(default)]
    pub result: Json,
}

impl Body for CompleteTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().value("result", &self.result).done()
    }
}

/// The agent could not do it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// What went wrong: a text or any JSON.
    #[serde(default)]
    pub error: Json,
    /// Whether another attempt may help.
    #[serde(default = "yes")]
    pub retryable: bool,
    /// The error's class, held against the task's `retry.retryable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// When another attempt is worth it, in milliseconds from now, instead of the backoff: what
    /// a service that was asked too often says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Body for FailTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default()
            .value("error", &self.error)
            .maybe("class", self.class.as_ref(), 128)
            .range("retry_after_ms", self.retry_after_ms.unwrap_or(0), 0, MAX_LEASE_MS)
            .done()
    }
}

/// The agent needs longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// From now on, in milliseconds; 30,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

impl Body for ExtendTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        check_lease(Check::default(), self.lease_ms).done()
    }
}

/// The agent hands the task back undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseTask {
    /// The token of the assignment's lease.
    pub lease_token: u64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Body for ReleaseTask {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().maybe("reason", self.reason.as_ref(), 2_000).done()
    }
}

/// The scheduler noticed that the lease has run out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireLease {
    /// The token of the lease that has run out.
    pub lease_token: u64,
}

impl Body for ExpireLease {}
