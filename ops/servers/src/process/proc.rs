//! What `/proc` tells about a process.

use std::fs;
use std::path::PathBuf;

/// The fields of `/proc/<pid>/stat` that identify a process (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    /// Program name, cut to 15 bytes by the kernel.
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// Start, in ticks since boot.
    start_ticks: u64,
}

/// `USER_HZ`, the unit of times in `/proc`: 100 on every architecture we build for.
const TICKS_PER_SECOND: u64 = 100;

impl Stat {
    /// A zombie answers signals but will never do anything again.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// Start in seconds since 1970, given [`boot_time`].
    pub(crate) fn started_at(&self, boot_time: u64) -> u64 {
        boot_time + self.start_ticks / TICKS_PER_SECOND
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may itself contain blanks and parentheses, so it ends at the last one.
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The process, or none when there is none with that id.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// The working folder, when we may look.
pub(crate) fn current_dir(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The arguments, separated by NUL; empty for a zombie.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// When the machine started, in seconds since 1970.
pub(crate) fn boot_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a (b) c) Z 7 42 43 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 5500 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.pid, stat.comm.as_str(), stat.parent), (42, "a (b) c", 7));
        assert_eq!((stat.session, stat.started_at(1_000)), (43, 1_055));
        assert!(!stat.is_alive());
    }

    #[test]
    fn this_process_can_be_seen() {
        let own = stat(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(own.started_at(boot_time().unwrap()) > 0);
        assert_eq!(current_dir(own.pid), std::env::current_dir().ok());
    }
}
