//! What a profile says; everything may be left out.

use std::collections::BTreeMap;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::probe::{Probes, WarmUp};

/// Largest profile, in bytes of JSON.
pub const MAX_PROFILE_BYTES: usize = 64 * 1024;
/// A day, in milliseconds.
pub(super) const DAY_MS: u64 = 86_400_000;

/// What the program is started in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A process of the node, isolated as `sandbox` says.
    #[default]
    Process,
    /// A container of Docker or Podman.
    Docker,
    /// A pod.
    Kubernetes,
}

impl Runtime {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// How the program works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It runs as long as the agent does, and gets its tasks itself.
    #[default]
    Service,
    /// It is started for each task, with the assignment on its standard input; the node
    /// speaks to Taffrail on its behalf.
    PerTask,
}

/// A program with its arguments; a single text is a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct CommandLine(pub Vec<String>);

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = CommandLine;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of words, or a line for the shell")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<CommandLine, E> {
                Ok(CommandLine(vec!["/bin/sh".into(), "-c".into(), line.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<CommandLine, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(words)).map(CommandLine)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Where a secret comes from; its value is in no profile, event, log or argument list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SecretSource {
    /// A file on the node, below the folder for secrets that the node was started with.
    File(String),
    /// The answer to a NATS request on `taffrail.<tenant>.secret.<name>`, made when the
    /// agent is started.
    Nats(String),
}

/// What an agent may use. On a node it is what is reserved for it, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What its workspace may take, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Open files of a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// What it may write to its outputs in all, in bytes; more is dropped and counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// How long it, or the run of one task, may last, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
}

/// The least isolation that an agent is started with: a node that has less refuses it.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A bare process.
    None,
    /// Resource limits, Landlock, seccomp, no new privileges.
    Process,
    /// All of that in namespaces of its own with a read-only root.
    #[default]
    Namespace,
}

impl Level {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Namespace => "namespace",
        }
    }
}

/// What of the network an agent has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing; it reaches Taffrail through a Unix socket of the node.
    #[default]
    None,
    /// The node's.
    Host,
}

/// Its isolation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The least isolation.
    pub level: Level,
    /// What of the network it has.
    pub network: Network,
    /// Folders of the node that it may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
}

/// When a program that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Whenever it ends.
    #[default]
    Always,
    /// When it ended by a signal or another code than 0.
    OnFailure,
    /// Never.
    Never,
}

/// How it is restarted: each delay twice the one before, with jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// When at all.
    pub policy: RestartPolicy,
    /// Restarts within `window_ms` after which it is put into quarantine.
    pub max: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// The first delay, in milliseconds.
    pub backoff_ms: u64,
    /// The longest delay, in milliseconds.
    pub backoff_max_ms: u64,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            max: 5,
            window_ms: 600_000,
            backoff_ms: 500,
            backoff_max_ms: 60_000,
        }
    }
}

/// When silence and standstill are taken for a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// Silence after which it counts as unhealthy, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_after_ms: Option<u64>,
    /// How long it may be unhealthy before it is restarted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_after_ms: Option<u64>,
    /// How long a task may stand still on it before it counts as degraded, in
    /// milliseconds; a task's own `stall_ms` goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<u64>,
}

impl Watch {
    /// What is set here, else there.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            unhealthy_after_ms: self.unhealthy_after_ms.or(other.unhealthy_after_ms),
            restart_after_ms: self.restart_after_ms.or(other.restart_after_ms),
            stall_ms: self.stall_ms.or(other.stall_ms),
        }
    }
}

/// How it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// How long a drain waits for tasks before they are handed back, in milliseconds.
    pub drain_ms: u64,
    /// Between SIGTERM and SIGKILL, in milliseconds.
    pub grace_ms: u64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { drain_ms: 30_000, grace_ms: 5_000 }
    }
}

/// How nodes that could take it are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The node with the least room left after it (best fit).
    #[default]
    Pack,
    /// The node with the most room left after it.
    Spread,
}

/// Which nodes it may run on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Which of them is the best.
    pub strategy: Strategy,
    /// Labels that the node must have: a name, or `name=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The one node, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// How agents of a kind are started, watched and stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// The profile that this one changes. Variables and secrets are put together by name,
    /// everything else that is given replaces what stood there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A word that groups profiles, such as `standard` or `premium`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// What the program is started in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// The image, for runtimes that need one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How the program works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// Its environment. Not for secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets, each a file of its name in `/run/taffrail/secrets`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretSource>,
    /// Where it starts; `/workspace` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// What it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How its health is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// What happens between its start and its readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// Its isolation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// How it is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// When it counts as unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// How it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// From the wish to have it until it is ready, in milliseconds; 120,000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout_ms: Option<u64>,
    /// Idle for so long, in milliseconds, it hibernates; 0: never. 600,000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hibernate_after_ms: Option<u64>,
    /// Which nodes it may run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

impl Profile {
    /// The milliseconds from the wish to have it until it must be ready.
    pub fn start_timeout_ms(&self) -> u64 {
        self.start_timeout_ms.unwrap_or(120_000)
    }

    /// The milliseconds of idleness after which it hibernates; `None`: never.
    pub fn hibernate_after_ms(&self) -> Option<u64> {
        Some(self.hibernate_after_ms.unwrap_or(600_000)).filter(|ms| *ms > 0)
    }
}
