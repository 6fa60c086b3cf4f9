//! What describes a task: its submission, and changes to it. Field names are the contract's.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Dependency;
use super::affinity::Affinity;
use super::command::{MAX_LEASE_MS, given};
use crate::capability::check_needed;
use crate::ids::TaskId;
use crate::json::Json;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::{Check, Labels, Priority};

/// Longest estimate: ten years, a bound against slips of the unit.
const MAX_ESTIMATE_MS: u64 = 10 * 365 * 86_400_000;

fn default_name() -> String {
    "default".into()
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
    /// How long it may stand still while somebody works on it, in milliseconds, before the
    /// agent counts as degraded; as set for the agent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<u64>,
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
            stall_ms: None,
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
            .range("estimate_ms", self.estimate_ms.unwrap_or(0), 0, MAX_ESTIMATE_MS)
            .range("stall_ms", self.stall_ms.unwrap_or(500), 500, MAX_ESTIMATE_MS);
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
    /// See [`SubmitTask::stall_ms`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<Option<u64>>,
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
            .range("stall_ms", self.stall_ms.flatten().unwrap_or(500), 500, MAX_ESTIMATE_MS)
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
