//! Limits over all processes of a sandbox: cgroup v2, or v1 where that is what is writable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::spec::Limits;

/// Period of the processor quota, microseconds.
const PERIOD_US: u64 = 100_000;

/// Processes beside the program's own: the first process of the namespace and the stage that
/// makes it.
const OWN_PROCESSES: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Where groups can be made that a controller governs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub controller: &'static str,
    pub version: Version,
    pub parent: PathBuf,
}

/// Controllers a sandbox uses.
pub(crate) const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where each controller can be used by this process; a controller without a place is missing.
pub(crate) fn places() -> Vec<Place> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let find = |controller| {
        let mut found = candidates(&mounts, &own, controller).into_iter();
        found.find(usable)
    };
    CONTROLLERS.into_iter().filter_map(find).collect()
}

/// The folders in which a group could be made: the own group first, then those above it.
fn candidates(mounts: &str, own: &str, controller: &'static str) -> Vec<Place> {
    let mut found = Vec::new();
    for version in [Version::V2, Version::V1] {
        for mount in mounts.lines().filter_map(parse_mount) {
            let (fits, path) = match version {
                Version::V2 => (mount.kind == "cgroup2", own_path(own, "")),
                Version::V1 => (
                    mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller),
                    own_path(own, controller),
                ),
            };
            let (true, Some(path)) = (fits, path) else { continue };
            let below = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(""));
            let mut folder: PathBuf = Path::new(mount.at).join(below).components().collect();
            while folder.starts_with(mount.at) {
                found.push(Place { controller, version, parent: folder.clone() });
                if !folder.pop() {
                    break;
                }
            }
        }
    }
    found
}

struct MountLine<'a> {
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// A line of mountinfo(5): `id parent dev ROOT AT options … - KIND source OPTIONS`.
fn parse_mount(line: &str) -> Option<MountLine<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let mut back = back.split(' ');
    let (root, at) = (front.next()?, front.next()?);
    Some(MountLine { root, at, kind: back.next()?, options: back.nth(1)? })
}

/// The own group: `id:controllers:path`, controllers empty for v2.
fn own_path<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

fn usable(place: &Place) -> bool {
    let writable = rustix::fs::access(&place.parent, rustix::fs::Access::WRITE_OK).is_ok();
    match place.version {
        Version::V1 => writable,
        Version::V2 => writable && delegated(&place.parent, place.controller),
    }
}

/// Whether children of a v2 group are governed by a controller; switches it on if need be.
fn delegated(parent: &Path, controller: &str) -> bool {
    let lists = |file: &str| {
        let text = fs::read_to_string(parent.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|name| name == controller)
    };
    let on = parent.join("cgroup.subtree_control");
    lists("cgroup.controllers")
        && (lists("cgroup.subtree_control") || fs::write(on, format!("+{controller}")).is_ok())
}

/// A group of processes; its folders are removed with [`Group::remove`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    folders: Vec<(PathBuf, Version)>,
    controllers: Vec<String>,
}

impl Group {
    /// Makes a group with the limits of a spec in the given places.
    ///
    /// # Errors
    /// When a folder cannot be made or a limit is not taken: nothing is left then.
    pub fn create(places: &[Place], name: &str, limits: &Limits) -> io::Result<Self> {
        let mut group = Self::default();
        let made = group.fill(places, name, limits);
        if let Err(error) = made {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    fn fill(&mut self, places: &[Place], name: &str, limits: &Limits) -> io::Result<()> {
        for place in places {
            let folder = place.parent.join(name);
            if !self.folders.iter().any(|(known, _)| *known == folder) {
                fs::create_dir(&folder)?;
                self.folders.push((folder.clone(), place.version));
            }
            limit(place.controller, place.version, &folder, limits)?;
            self.controllers.push(place.controller.to_owned());
        }
        Ok(())
    }

    /// Whether memory and processes are limited as a whole.
    pub fn holds(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// Puts a process and its future children into the group.
    ///
    /// # Errors
    /// When a group does not take it.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.folders
            .iter()
            .try_for_each(|(folder, _)| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Processes in the group.
    pub fn processes(&self) -> Vec<i32> {
        let Some((folder, _)) = self.folders.first() else { return Vec::new() };
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills the whole group: at once where the kernel can (v2), else one by one, so that what
    /// is born meanwhile needs another call. False when there was nothing to kill.
    pub fn kill(&self) -> bool {
        let processes = self.processes();
        for (folder, _) in self.folders.iter().filter(|(_, version)| *version == Version::V2) {
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
        for number in &processes {
            // Held first and looked up again then: afterwards the number cannot go to another.
            let Some(pid) = Pid::from_raw(*number) else { continue };
            let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if self.processes().contains(number) {
                let _ = pidfd_send_signal(&held, Signal::KILL);
            }
        }
        !processes.is_empty()
    }

    /// Kills what is left and removes the group; the dying get two seconds.
    pub fn remove(&self) {
        let until = Instant::now() + Duration::from_secs(2);
        while self.kill() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        for (folder, _) in &self.folders {
            while fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Whether the kernel killed something of the group for want of memory.
    pub fn out_of_memory(&self) -> bool {
        let killed = |text: String| {
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            count.is_some_and(|count| count.trim() != "0")
        };
        self.read(&["memory.events", "memory.oom_control"]).is_some_and(killed)
    }

    /// Memory in use and its highest value, bytes.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let number = |text: String| text.trim().parse().ok();
        let now = self.read(&["memory.current", "memory.usage_in_bytes"]).and_then(number)?;
        let peak = self.read(&["memory.peak", "memory.max_usage_in_bytes"]).and_then(number);
        Some((now, peak.unwrap_or(now)))
    }

    fn read(&self, names: &[&str]) -> Option<String> {
        let paths =
            self.folders.iter().flat_map(|(folder, _)| names.iter().map(|n| folder.join(n)));
        paths.into_iter().find_map(|path| fs::read_to_string(path).ok())
    }
}

fn limit(controller: &str, version: Version, at: &Path, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: String| fs::write(at.join(file), value);
    let quota = u64::from(limits.cpu_percent) * PERIOD_US / 100;
    let pids = (u64::from(limits.pids) + OWN_PROCESSES).to_string();
    let memory = limits.memory_bytes.to_string();
    match (controller, version) {
        ("memory", Version::V1) => {
            set("memory.limit_in_bytes", memory.clone())?;
            // Absent where the kernel does not account for swap.
            let _ = set("memory.memsw.limit_in_bytes", memory);
        }
        ("memory", Version::V2) => {
            set("memory.max", memory)?;
            let _ = set("memory.swap.max", "0".into());
        }
        ("cpu", Version::V1) => {
            set("cpu.cfs_period_us", PERIOD_US.to_string())?;
            set("cpu.cfs_quota_us", quota.to_string())?;
        }
        ("cpu", Version::V2) => set("cpu.max", format!("{quota} {PERIOD_US}"))?,
        ("pids", _) => set("pids.max", pids)?,
        (other, _) => return Err(io::Error::other(format!("no limit for controller {other}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 /docker/a /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids";
    const OWN: &str = "4:memory:/team/a\n3:cpu,cpuacct:/\n2:pids:/docker/a/b\n0::/user.slice/x";

    fn parents(controller: &'static str, version: Version) -> Vec<String> {
        let found = candidates(MOUNTS, OWN, controller).into_iter();
        let found = found.filter(|place| place.version == version);
        found.map(|place| place.parent.display().to_string()).collect()
    }

    #[test]
    fn groups_are_sought_from_the_own_one_upwards_and_never_outside_the_mount() {
        assert_eq!(
            parents("memory", Version::V1),
            ["/sys/fs/cgroup/memory/team/a", "/sys/fs/cgroup/memory/team", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(parents("cpu", Version::V1), ["/sys/fs/cgroup/cpu,cpuacct"]);
        assert_eq!(parents("pids", Version::V1), ["/sys/fs/cgroup/pids/b", "/sys/fs/cgroup/pids"]);
        assert_eq!(
            parents("memory", Version::V2),
            [
                "/sys/fs/cgroup/unified/user.slice/x",
                "/sys/fs/cgroup/unified/user.slice",
                "/sys/fs/cgroup/unified"
            ]
        );
    }

    #[test]
    fn v2_files_get_the_limits_in_the_kernels_forms() {
        let dir = std::env::temp_dir().join(format!("sandbox-cgroup-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let limits = Limits { cpu_percent: 50, pids: 10, ..Limits::default() };
        for controller in CONTROLLERS {
            limit(controller, Version::V2, &dir, &limits).unwrap();
        }
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("memory.max"), (512_u64 << 20).to_string());
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("pids.max"), "12");
        fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 1\n").unwrap();
        let group = Group { folders: vec![(dir.clone(), Version::V2)], controllers: vec![] };
        assert!(group.out_of_memory());
        fs::write(dir.join("memory.events"), "oom 3\noom_kill 0\n").unwrap();
        assert!(!group.out_of_memory());
        fs::remove_dir_all(dir).unwrap();
    }
}
