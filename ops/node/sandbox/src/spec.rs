//! What is to run, in what surroundings, within what limits.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// Where the workspace is seen inside a `namespace` sandbox.
pub const WORKSPACE: &str = "/workspace";
/// Where secrets are seen inside a `namespace` sandbox.
pub const SECRETS: &str = "/run/taffrail/secrets";
/// Where the socket folder is seen inside a `namespace` sandbox.
pub const SOCKETS: &str = "/run/taffrail/sock";

/// A program and its surroundings.
///
/// Unknown fields are refused: a misspelt limit would otherwise be no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Program and arguments. A name without `/` is looked up in `PATH` of `env`.
    pub command: Vec<String>,
    /// The whole environment, but for `PATH`, `HOME`, `TMPDIR` and `TAFFRAIL_*` folders, which
    /// get a value when absent.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// File name to content; files of mode 0400 in the folder `TAFFRAIL_SECRETS` names.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Working directory inside; by default the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// What `/workspace` is.
    #[serde(default)]
    pub workspace: Workspace,
    /// Further folders and files of the host, read-only.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// A host folder with Unix sockets, read-only: connections through it are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_dir: Option<PathBuf>,
    /// Whether the host's network is there.
    #[serde(default)]
    pub network: Network,
    /// The least isolation that is acceptable.
    #[serde(default)]
    pub level: Level,
    /// What may be used.
    #[serde(default)]
    pub limits: Limits,
}

/// How strongly a program is kept apart, weakest first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No isolation: limits only. Chosen only when it is asked for.
    None,
    /// Same view of the host, few rights in it: Landlock, seccomp, no new privileges.
    Process,
    /// Own namespaces and root, and everything of `process`.
    #[default]
    Namespace,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Namespace => "namespace",
        })
    }
}

/// Which network a program sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// None: Unix sockets only.
    #[default]
    None,
    /// The host's.
    Host,
}

/// What a program may write to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Workspace {
    /// Memory, gone at the end; at most `disk_bytes`.
    #[default]
    Tmpfs,
    /// A folder of the host, which stays. It must exist.
    Folder(PathBuf),
}

/// A folder or file of the host, seen read-only inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// Inside; by default as on the host. At level `process` paths are the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
}

impl Mount {
    /// Where it is seen inside.
    pub fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(&self.source)
    }
}

/// A value that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of all processes together, bytes; swap is not given.
    pub memory_bytes: u64,
    /// Processor time, per cent of one core. Enforced only where cgroups are writable.
    pub cpu_percent: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Workspace, bytes. In memory it is exact; a host folder is measured every second or so.
    pub disk_bytes: u64,
    /// Open files per process.
    pub open_files: u32,
    /// Largest file, bytes.
    pub file_bytes: u64,
    /// Kept on disk per output stream, bytes; the oldest goes first and is counted.
    pub output_bytes: u64,
    /// Taken in per output stream and second, bytes; beyond it the program waits.
    pub output_bytes_per_s: u64,
    /// Longest run, milliseconds; none is no limit.
    pub wall_ms: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            cpu_percent: 100,
            pids: 256,
            disk_bytes: 1 << 30,
            open_files: 1024,
            file_bytes: 1 << 30,
            output_bytes: 16 << 20,
            output_bytes_per_s: 8 << 20,
            wall_ms: None,
        }
    }
}

impl Spec {
    /// A command with everything else at its default.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            workdir: None,
            workspace: Workspace::Tmpfs,
            mounts: Vec::new(),
            socket_dir: None,
            network: Network::None,
            level: Level::Namespace,
            limits: Limits::default(),
        }
    }

    /// Refuses what cannot be meant, before anything is started.
    ///
    /// # Errors
    /// [`StartError::Invalid`] with the field.
    pub fn check(&self) -> Result<(), StartError> {
        let bad = |field: &str, reason: &str| {
            Err(StartError::Invalid { field: field.into(), reason: reason.into() })
        };
        let text: usize = self.command.iter().map(|arg| arg.len() + 1).sum();
        if self.command.first().is_none_or(String::is_empty) {
            return bad("command", "must name a program");
        }
        if self.command.len() > 1024 || text > 128 << 10 {
            return bad("command", "at most 1024 arguments of 128 KiB together");
        }
        if self.command.iter().any(|arg| arg.contains('\0')) {
            return bad("command", "must not contain NUL");
        }
        let text: usize = self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if self.env.len() > 1024 || text > 128 << 10 {
            return bad("env", "at most 1024 variables of 128 KiB together");
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return bad("env", "a name is not empty and has no `=`; no NUL anywhere");
            }
        }
        let text: usize = self.secrets.values().map(|secret| secret.0.len()).sum();
        if self.secrets.len() > 256 || text > 1 << 20 {
            return bad("secrets", "at most 256 files of 1 MiB together");
        }
        if !self.secrets.keys().all(|name| is_file_name(name)) {
            return bad("secrets", "a name is 1 to 128 of A-Z a-z 0-9 . _ - and not `.` or `..`");
        }
        if self.workdir.as_deref().is_some_and(|dir| !is_plain(Path::new(dir))) {
            return bad("workdir", "must be an absolute path without `..`");
        }
        if let Workspace::Folder(folder) = &self.workspace
            && !is_plain(folder)
        {
            return bad("workspace", "must be an absolute path without `..`");
        }
        if self.socket_dir.as_deref().is_some_and(|dir| !is_plain(dir)) {
            return bad("socket_dir", "must be an absolute path without `..`");
        }
        if self.mounts.len() > 64 {
            return bad("mounts", "at most 64");
        }
        for mount in &self.mounts {
            if !is_plain(&mount.source) || !is_plain(mount.target()) {
                return bad("mounts", "absolute paths without `..`");
            }
            if !is_free(mount.target()) {
                return bad(
                    "mounts",
                    "the target would cover or hold a folder of the sandbox's own",
                );
            }
        }
        self.limits.check()
    }

    /// The working directory inside a `namespace` sandbox.
    pub(crate) fn workdir(&self) -> &str {
        self.workdir.as_deref().unwrap_or(WORKSPACE)
    }
}

impl Limits {
    fn check(&self) -> Result<(), StartError> {
        let ranges: [(&str, u64, u64, u64); 8] = [
            ("memory_bytes", self.memory_bytes, 16 << 20, 1 << 44),
            ("cpu_percent", self.cpu_percent.into(), 1, 100_000),
            ("pids", self.pids.into(), 4, 1 << 20),
            ("disk_bytes", self.disk_bytes, 64 << 10, 1 << 50),
            ("open_files", self.open_files.into(), 16, 1 << 20),
            ("file_bytes", self.file_bytes, 4 << 10, 1 << 50),
            ("output_bytes", self.output_bytes, 16 << 10, 1 << 40),
            ("output_bytes_per_s", self.output_bytes_per_s, 64 << 10, 1 << 40),
        ];
        let wall = self.wall_ms.map(|wall| ("wall_ms", wall, 1, 366 * 86_400_000));
        for (name, value, least, most) in ranges.into_iter().chain(wall) {
            if !(least..=most).contains(&value) {
                return Err(StartError::Invalid {
                    field: format!("limits.{name}"),
                    reason: format!("{value} is not within {least} to {most}"),
                });
            }
        }
        Ok(())
    }
}

fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=128).contains(&name.len()) && name.chars().all(plain) && name != "." && name != ".."
}

/// Absolute, without `..`, without NUL, and not the root itself.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir)
        && path.components().count() > 1
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path.as_os_str().len() < 4096
}

/// Whether something may be mounted there without covering what the sandbox itself puts there,
/// and without lying below a folder that may be written: Landlock's rules reach all below.
fn is_free(target: &Path) -> bool {
    let own = [
        "/proc",
        "/dev",
        "/sys",
        "/etc",
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/tmp",
        "/run/taffrail",
        WORKSPACE,
    ];
    own.iter().all(|own| !Path::new(own).starts_with(target) && !target.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &Spec) -> String {
        let error = spec.check().unwrap_err();
        let StartError::Invalid { field, .. } = error else { panic!("{error}") };
        field
    }

    #[test]
    fn a_plain_command_is_fine_and_gets_the_strongest_level() {
        let spec: Spec = serde_json::from_str(r#"{"command":["true"]}"#).unwrap();
        assert_eq!(spec, Spec::new(["true"]));
        assert_eq!(spec.level, Level::Namespace);
        assert_eq!(spec.network, Network::None);
        spec.check().unwrap();
    }

    #[test]
    fn a_misspelt_field_is_refused_at_every_depth() {
        for text in [
            r#"{"command":["true"],"limit":{}}"#,
            r#"{"command":["true"],"limits":{"memory":1}}"#,
            r#"{"command":["true"],"limits":{"pids":-1}}"#,
            r#"{"command":["true"],"mounts":[{"source":"/opt","write":true}]}"#,
            r#"{"command":["true"],"level":"strong"}"#,
            r#"{"command":["true"],"removed":["seccomp"]}"#,
        ] {
            assert!(serde_json::from_str::<Spec>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let with = |change: fn(&mut Spec)| {
            let mut spec = Spec::new(["true"]);
            change(&mut spec);
            refused(&spec)
        };
        assert_eq!(with(|s| s.command.clear()), "command");
        assert_eq!(with(|s| s.command.push("a\0b".into())), "command");
        assert_eq!(with(|s| s.command = vec!["x".repeat(200 << 10)]), "command");
        assert_eq!(with(|s| drop(s.env.insert("A=B".into(), String::new()))), "env");
        assert_eq!(with(|s| drop(s.secrets.insert("../x".into(), Secret("a".into())))), "secrets");
        assert_eq!(with(|s| drop(s.secrets.insert("..".into(), Secret("a".into())))), "secrets");
        assert_eq!(with(|s| s.workdir = Some("tmp".into())), "workdir");
        assert_eq!(with(|s| s.workdir = Some("/workspace/../etc".into())), "workdir");
        assert_eq!(with(|s| s.workspace = Workspace::Folder("/".into())), "workspace");
        assert_eq!(with(|s| s.socket_dir = Some("sock".into())), "socket_dir");
        assert_eq!(with(|s| s.limits.memory_bytes = 1), "limits.memory_bytes");
        assert_eq!(with(|s| s.limits.pids = 0), "limits.pids");
        assert_eq!(with(|s| s.limits.wall_ms = Some(0)), "limits.wall_ms");
    }

    #[test]
    fn a_mount_covers_nothing_of_the_sandbox_itself() {
        let mount = |target: &str| {
            let mut spec = Spec::new(["true"]);
            let source = "/opt/models".into();
            spec.mounts.push(Mount { source, target: Some(target.into()) });
            spec.check().is_ok()
        };
        for target in ["/proc", "/etc/ssl", "/usr/bin", "/workspace", "/dev/kvm", "/sys", "/run"] {
            assert!(!mount(target), "{target}");
        }
        for target in ["/run/taffrail/sock", "/run/taffrail", "/tmp", "/tmp/input", "/bin/../x"] {
            assert!(!mount(target), "{target}");
        }
        for target in ["/opt/models", "/data", "/var/tmp/input", "/run/models"] {
            assert!(mount(target), "{target}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let mut spec = Spec::new(["true"]);
        spec.secrets.insert("token".into(), Secret("hunter2".into()));
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
