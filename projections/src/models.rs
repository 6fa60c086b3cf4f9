//! The read models by name.

use std::str::FromStr;

/// A read model, as it is named in paths, tables and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// Every task.
    Tasks,
    /// Every agent: the registry.
    Agents,
    /// Every long-running operation.
    Operations,
    /// One line per event.
    Audit,
    /// Counters and latencies per queue.
    Metrics,
    /// Every schedule.
    Schedules,
    /// What was decided about queues.
    Queues,
    /// Every node.
    Nodes,
    /// Every profile.
    Profiles,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Tasks,
        Self::Agents,
        Self::Operations,
        Self::Audit,
        Self::Metrics,
        Self::Schedules,
        Self::Queues,
        Self::Nodes,
        Self::Profiles,
    ];

    /// The name, also of its table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Agents => "agents",
            Self::Operations => "operations",
            Self::Audit => "audit",
            Self::Metrics => "metrics",
            Self::Schedules => "schedules",
            Self::Queues => "queues",
            Self::Nodes => "nodes",
            Self::Profiles => "profiles",
        }
    }
}

impl FromStr for Model {
    type Err = crate::ProjectionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|model| model.as_str() == name);
        found.ok_or_else(|| crate::ProjectionError::UnknownModel(name.into()))
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Runs the same lines for whichever model is named.
#[macro_export]
macro_rules! with_model {
    ($model:expr, $projection:ident => $body:expr) => {
        match $model {
            $crate::Model::Tasks => {
                let $projection = $crate::tasks::Tasks;
                $body
            }
            $crate::Model::Agents => {
                let $projection = $crate::agents::Agents;
                $body
            }
            $crate::Model::Operations => {
                let $projection = $crate::operations::Operations;
                $body
            }
            $crate::Model::Audit => {
                let $projection = $crate::audit::Audit;
                $body
            }
            $crate::Model::Metrics => {
                let $projection = $crate::metrics::Metrics;
                $body
            }
            $crate::Model::Schedules => {
                let $projection = $crate::schedules::Schedules;
                $body
            }
            $crate::Model::Queues => {
                let $projection = $crate::queues::Queues;
                $body
            }
            $crate::Model::Nodes => {
                let $projection = $crate::nodes::Nodes;
                $body
            }
            $crate::Model::Profiles => {
                let $projection = $crate::profiles::Profiles;
                $body
            }
        }
    };
}
