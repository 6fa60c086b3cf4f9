//! Limits the kernel does not hold for us: memory without a cgroup, and a folder's size.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lock::files::View;
use crate::plan::{Layer, Plan};
use crate::proc;
use crate::spec::Workspace;

/// How often memory is looked at where no cgroup limits it.
const MEMORY_PERIOD: Duration = Duration::from_millis(100);
/// How often a folder is measured at most; a large one is measured less often.
const DISK_PERIOD: Duration = Duration::from_secs(1);
/// Share of time that measuring may take, as a divisor.
const DISK_SHARE: u32 = 20;

pub(crate) enum Excess {
    Memory,
    Disk,
}

pub(crate) struct Watch {
    memory_at: Option<Instant>,
    disk_at: Option<Instant>,
    folders: Vec<PathBuf>,
}

impl Watch {
    pub fn new(plan: &Plan, view: &View) -> Self {
        let now = Instant::now();
        let watched = plan.has(Layer::Group);
        let mut folders = Vec::new();
        match &plan.spec.workspace {
            Workspace::Folder(folder) => folders.push(folder.clone()),
            Workspace::Tmpfs if !plan.has(Layer::Root) => folders.push(view.workspace.clone()),
            Workspace::Tmpfs => {}
        }
        if !plan.has(Layer::Root) {
            folders.push(view.tmp.clone());
        }
        Self {
            memory_at: (watched && !plan.grouped).then_some(now),
            disk_at: (watched && !folders.is_empty()).then_some(now + DISK_PERIOD),
            folders,
        }
    }

    /// Time until the next look.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let next = [self.memory_at, self.disk_at].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Looks, if it is time.
    pub fn look(&mut self, plan: &Plan, now: Instant) -> Option<Excess> {
        if self.memory_at.is_some_and(|at| now >= at) {
            self.memory_at = Some(now + MEMORY_PERIOD);
            let own = std::process::id().cast_signed();
            let used: u64 = proc::descendants(own).into_iter().map(proc::memory).sum();
            if used > plan.spec.limits.memory_bytes {
                return Some(Excess::Memory);
            }
        }
        if self.disk_at.is_some_and(|at| now >= at) {
            let limit = plan.spec.limits.disk_bytes;
            let used: u64 = self.folders.iter().map(|folder| size(folder, limit)).sum();
            let took = now.elapsed();
            self.disk_at = Some(Instant::now() + DISK_PERIOD.max(took * DISK_SHARE));
            if used > limit {
                return Some(Excess::Disk);
            }
        }
        None
    }
}

/// Bytes a folder takes on disk, at least one block per entry; stops counting over the limit.
/// Links are not followed, so that nothing outside is counted, or opened.
fn size(folder: &Path, limit: u64) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut used = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            used += (found.blocks() * 512).max(512);
            if found.is_dir() {
                folders.push(entry.path());
            }
            if used > limit {
                return used;
            }
        }
    }
    used
}
