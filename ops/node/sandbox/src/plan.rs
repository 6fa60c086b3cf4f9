//! What the supervisor is told: the spec, the chosen level, and what tests leave out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{Level, Network, Spec};

/// One of the layers that keep a program apart.
///
/// Only tests leave one out, to show what it stops; a [`Spec`] has no field for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// An unused user outside, a plain user inside.
    UserMapping,
    /// Own process numbers.
    PidNamespace,
    /// Own root file system.
    Root,
    /// Own network.
    NetNamespace,
    /// Own System V and POSIX message objects.
    IpcNamespace,
    /// Own host name.
    UtsNamespace,
    /// Own view of the cgroup tree.
    CgroupNamespace,
    /// Host folders are read-only.
    ReadOnly,
    /// No privileges by executing a file.
    NoNewPrivs,
    /// No capabilities.
    Capabilities,
    /// Landlock rules and scopes.
    Landlock,
    /// System call filter.
    Seccomp,
    /// Limits of the whole group: cgroup, or the watch on memory.
    Group,
    /// Limits of each process.
    Rlimits,
}

/// What the supervisor gets on its standard input, as one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub spec: Spec,
    /// The level in force; never below `spec.level`.
    pub level: Level,
    /// Layers that a test leaves out.
    pub removed: BTreeSet<Layer>,
    /// Where output, state and exit are written.
    pub dir: PathBuf,
    /// Landlock version to enforce in full.
    pub abi: u8,
    /// Filled by the supervisor: the user outside, when it may choose one.
    pub outer_uid: Option<u32>,
    /// Filled by the supervisor: what is mounted, in the order of passed descriptors.
    pub binds: Vec<Bind>,
    /// Filled by the supervisor: whether the mounts come as descriptors.
    pub opened: bool,
    /// Filled by the supervisor: whether cgroups hold memory and processes.
    pub grouped: bool,
}

/// A path of the host and where it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub kind: BindKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BindKind {
    ReadOnly,
    ReadWrite,
    Device,
    /// Whatever the mount allows: the host's /proc, when a test leaves out process numbers.
    AsIs,
}

impl Plan {
    /// Whether a layer is in force at this level.
    pub fn has(&self, layer: Layer) -> bool {
        use Layer::{Group, Rlimits};
        let at_level = match self.level {
            Level::None => matches!(layer, Group | Rlimits),
            Level::Process => !matches!(
                layer,
                Layer::PidNamespace
                    | Layer::Root
                    | Layer::NetNamespace
                    | Layer::IpcNamespace
                    | Layer::UtsNamespace
                    | Layer::CgroupNamespace
                    | Layer::ReadOnly
            ),
            Level::Namespace => true,
        };
        let wanted = layer != Layer::NetNamespace || self.spec.network == Network::None;
        at_level && wanted && !self.removed.contains(&layer)
    }
}
