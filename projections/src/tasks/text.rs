//! A task as JSON text: the values of the stored document as they stand there.
//!
//! The row's document and the contract's Task have the same values under the same names;
//! what differs is said here: the document leaves out what is empty, knows some values of
//! its own and neither id nor children. So the values are carried over as text, without
//! being read. Invariant: the text is the one that [`TaskView`] would write.

use std::sync::Arc;

use domain::TaskId;
use domain::task::Dependency;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use super::{Part, RollUp, TaskView};
use crate::QueryError;

/// A task ready to be sent; serialises as its text. A copy shares the text.
#[derive(Debug, Clone)]
pub struct TaskText {
    /// Its id.
    pub id: TaskId,
    /// The stream's version.
    pub version: u64,
    /// Of its last event.
    pub position: u64,
    json: Arc<RawValue>,
}

impl TaskText {
    /// A stored document with the task's id and its parts.
    pub(crate) fn of(id: Uuid, doc: &str, parts: &[Part]) -> Result<Self, QueryError> {
        let unread = |error: serde_json::Error| QueryError::Row(error.to_string());
        let mut stored: Stored<'_> = serde_json::from_str(doc).map_err(unread)?;
        stored.id = id;
        stored.children = parts.iter().map(|part| part.id.0).collect();
        stored.subtasks = RollUp::of(parts);
        let (version, position) = (stored.version, stored.position);
        let json = to_raw_value(&stored).map_err(unread)?.into();
        Ok(Self { id: TaskId(id), version, position, json })
    }

    /// The JSON.
    pub fn as_str(&self) -> &str {
        self.json.get()
    }

    /// The task, read.
    ///
    /// # Errors
    /// When the stored document does not have the shape that this release reads.
    pub fn view(&self) -> Result<TaskView, QueryError> {
        serde_json::from_str(self.as_str()).map_err(|error| QueryError::Row(error.to_string()))
    }
}

impl Serialize for TaskText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

/// The fields of [`TaskView`], in its order; read from a [`super::TaskRow`]'s document.
#[derive(Deserialize, Serialize)]
struct Stored<'a> {
    #[serde(skip_deserializing)]
    id: Uuid,
    #[serde(borrow)]
    number: &'a RawValue,
    #[serde(borrow)]
    title: &'a RawValue,
    #[serde(borrow)]
    description: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    queue: &'a RawValue,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    priority: &'a RawValue,
    #[serde(borrow)]
    state: &'a RawValue,
    #[serde(borrow, serialize_with = "or_empty")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    labels: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    assignees: Option<&'a RawValue>,
    #[serde(borrow)]
    agent_id: Option<&'a RawValue>,
    #[serde(borrow)]
    attempt: &'a RawValue,
    #[serde(borrow)]
    max_attempts: &'a RawValue,
    #[serde(borrow)]
    lease_expires_at: Option<&'a RawValue>,
    #[serde(borrow)]
    parent_id: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    depends_on: Option<&'a RawValue>,
    #[serde(default)]
    dependency: Dependency,
    #[serde(skip_deserializing)]
    children: Vec<Uuid>,
    #[serde(skip_deserializing)]
    subtasks: Option<RollUp>,
    #[serde(borrow)]
    created_by: &'a RawValue,
    #[serde(borrow)]
    created_at: &'a RawValue,
    #[serde(borrow)]
    updated_at: &'a RawValue,
    #[serde(borrow)]
    due_at: Option<&'a RawValue>,
    #[serde(borrow)]
    run_at: Option<&'a RawValue>,
    #[serde(borrow)]
    progress: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    error_class: Option<&'a RawValue>,
    #[serde(borrow)]
    overdue_at: Option<&'a RawValue>,
    #[serde(borrow)]
    escalation: Option<&'a RawValue>,
    #[serde(borrow)]
    blocked: Option<&'a RawValue>,
    #[serde(borrow)]
    review: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    attachments: Option<&'a RawValue>,
    #[serde(borrow)]
    estimate_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    stall_ms: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    acceptance_criteria: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_empty")]
    deliverables: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "or_nothing")]
    affinity: Option<&'a RawValue>,
    #[serde(borrow)]
    archived_at: Option<&'a RawValue>,
    version: u64,
    position: u64,
}

/// What is not there is an empty object.
fn or_nothing<S: Serializer>(object: &Option<&RawValue>, serializer: S) -> Result<S::Ok, S::Error> {
    match object {
        Some(object) => object.serialize(serializer),
        None => serializer.collect_map::<(), (), [((), ()); 0]>([]),
    }
}

/// What is not there is an empty list.
fn or_empty<S: Serializer>(list: &Option<&RawValue>, serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        Some(list) => list.serialize(serializer),
        None => serializer.collect_seq::<[u8; 0]>([]),
    }
}
