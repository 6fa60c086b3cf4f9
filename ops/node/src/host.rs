//! What this host has.

use domain::node::Capacity;

/// Agents at once, when nobody says otherwise: enough for a host of ordinary size.
const SLOTS: u32 = 50;

/// The host's name; the default name of its node.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".into() } else { name }
}

/// What this host has for agents: its processors, and its memory or what the daemon's own
/// cgroup leaves of it.
pub fn capacity() -> Capacity {
    // Minds quotas of cgroups and the set of processors that we may run on.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let total = total_memory(&read("/proc/meminfo"));
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|file| read(file).trim().parse::<u64>().ok());
    let memory_bytes = match (total, limit) {
        (Some(total), Some(limit)) => total.min(limit),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => 1 << 30,
    };
    Capacity { cpu_millis: cores * 1000, memory_bytes, slots: SLOTS }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Differs after every start of the host: no process of before is there any more.
pub(crate) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use domain::macros::Body;
    use domain::node::RegisterNode;

    use super::*;

    #[test]
    fn the_total_memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(total_memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16_384));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn what_the_host_has_can_be_registered() {
        let node = RegisterNode {
            name: hostname(),
            capacity: capacity(),
            labels: Default::default(),
            level: Default::default(),
            runtimes: vec![],
            version: None,
        };
        assert_eq!(node.check(), Ok(()));
    }
}
