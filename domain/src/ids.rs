//! Typed ids, so that a task's id cannot be passed where an agent's is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl $name {
            /// A fixed id for tests and examples.
            pub fn nth(n: u128) -> Self {
                Self(Uuid::from_u128(n))
            }
        }
    )*};
}

ids! {
    /// Names one task.
    TaskId;
    /// Names one agent.
    AgentId;
    /// Names one long-running operation.
    OperationId;
    /// Names one crew.
    CrewId;
    /// Names one schedule.
    ScheduleId;
    /// Names one node.
    NodeId;
}

/// The customer that owns a stream: a slug, part of every key and every subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant of an installation where nothing is set up.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// Takes a slug of 1 to 64 characters out of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(text.into()))
    }

    /// The slug.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a tenant slug"))
    }
}

/// Whether a text may stand as one token of a NATS subject: `[A-Za-z0-9_-]{1,64}`.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The kind of a stream, and the `<type>` token of its subjects.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StreamType {
    /// A unit of work.
    Task,
    /// A worker.
    Agent,
    /// Long-running work on behalf of a caller.
    Operation,
    /// A team of agents.
    Crew,
    /// A standing order to submit tasks.
    Schedule,
    /// What was decided about a queue.
    Queue,
    /// A host that starts agents.
    Node,
    /// How agents of a kind are started.
    Profile,
}

impl StreamType {
    /// Every kind, in the order of the documents.
    pub const ALL: [Self; 8] = [
        Self::Task,
        Self::Agent,
        Self::Operation,
        Self::Crew,
        Self::Schedule,
        Self::Queue,
        Self::Node,
        Self::Profile,
    ];

    /// The token in subjects and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Operation => "operation",
            Self::Crew => "crew",
            Self::Schedule => "schedule",
            Self::Queue => "queue",
            Self::Node => "node",
            Self::Profile => "profile",
        }
    }
}

impl fmt::Display for StreamType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StreamType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}
