//! What is written about a program: where it runs, and how it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::proc::{Process, boot_id};
use crate::spec::Level;

/// File with the processes of a running program.
pub(crate) const STATE_FILE: &str = "state.json";
/// File with the end of a program; it exists once the program has ended.
pub(crate) const EXIT_FILE: &str = "exit.json";

/// How a program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Its exit status, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It wanted more memory than its limit.
    pub oom: bool,
    /// It ran longer than `wall_ms`.
    pub wall_timeout: bool,
    /// Its workspace folder grew over `disk_bytes`.
    pub disk_full: bool,
    /// It was ended by [`Handle::kill`](crate::Handle::kill).
    pub killed: bool,
    /// Its supervisor was gone before it could write this: status and usage are unknown.
    pub lost: bool,
    /// When, milliseconds since 1970; 0 when unknown.
    pub at_ms: u64,
    /// What it used.
    pub usage: Usage,
}

impl Exit {
    /// Ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.oom && !self.wall_timeout && !self.disk_full
    }

    pub(crate) fn lost() -> Self {
        Self { lost: true, ..Self::default() }
    }
}

/// What a program used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Processor time of all processes, milliseconds.
    pub cpu_ms: u64,
    /// Highest memory, bytes: of the group where a cgroup counts it, else of the largest process.
    pub max_rss_bytes: u64,
    /// From start to end, milliseconds.
    pub wall_ms: u64,
    /// Written to both output streams.
    pub output_bytes: u64,
    /// Thereof no longer kept.
    pub dropped_bytes: u64,
}

/// The processes of a running program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Which boot of the machine the numbers belong to.
    pub boot: String,
    pub shim: Process,
    /// What to kill: process 1 of the namespace, or the program.
    pub root: Process,
    pub program: Process,
    pub level: Level,
    pub started_at_ms: u64,
    pub group: Group,
}

impl State {
    pub fn alive(&self) -> bool {
        self.boot == boot_id() && self.shim.alive()
    }
}

/// Writes a document that is either there in full or not at all; `durable` also after a power
/// cut, which state need not be, since the program does not survive one either.
///
/// # Errors
/// Of the file system.
pub(crate) fn write_whole(path: &Path, document: &impl Serialize, durable: bool) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(document)?)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(fresh, path)
}

/// Reads a document, none if there is no such file.
///
/// # Errors
/// Of the file system, or when it is not what it should be.
pub(crate) fn read<D: DeserializeOwned>(path: &Path) -> io::Result<Option<D>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
