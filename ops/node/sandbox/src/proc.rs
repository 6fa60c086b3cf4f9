//! What /proc says of a process.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub pid: i32,
    /// Clock ticks between boot and its start: field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

impl Process {
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: stat(pid)?.start_ticks })
    }

    /// Whether it still runs; a process that only waits to be collected does not.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.start_ticks == self.start_ticks && !stat.gone())
    }
}

struct Stat {
    state: char,
    parent: i32,
    session: i32,
    start_ticks: u64,
}

impl Stat {
    fn gone(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other("unreadable /proc/PID/stat"))
}

/// The name is in parentheses and may itself contain any of them.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, start_ticks })
}

/// The parent of a process that is still there.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid).ok().map(|stat| stat.parent)
}

/// One boot of the machine: process numbers and ticks start anew with each.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Processes of the session that a process led. Its number goes to no other session as long as
/// one of them is there.
pub(crate) fn session(leader: Process) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let member = |pid: i32| {
        let found = stat(pid).ok()?;
        let Stat { session, start_ticks, .. } = found;
        let ours = session == leader.pid && start_ticks >= leader.start_ticks && !found.gone();
        ours.then_some(Process { pid, start_ticks })
    };
    pids.filter_map(member).collect()
}

/// Children of all threads of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

/// Everything below a process, parents first.
pub(crate) fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// Memory that belongs to a process, bytes: anonymous and shared pages, without mapped files.
pub(crate) fn memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    (kib("RssAnon:") + kib("RssShmem:")) << 10
}

/// Processor time of a process, milliseconds.
pub(crate) fn cpu_ms(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = text.rfind(')').and_then(|at| {
        let mut fields = text[at + 1..].split_ascii_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(user + system)
    });
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    ticks.unwrap_or(0) * 1000 / per_second
}

/// Processes of the calling user, for a limit that counts them all.
pub(crate) fn of_user(uid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let own = entries.flatten().filter(|entry| {
        entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)
            && entry.metadata().is_ok_and(|found| found.uid() == uid)
    });
    own.map(|entry| fs::read_dir(entry.path().join("task")).map_or(1, |tasks| tasks.count() as u64))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) Z (b c) S 1 7 8 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session, stat.start_ticks), ('S', 1, 8, 4242));
        assert!(parse_stat("7 (cut").is_none());
    }

    #[test]
    fn another_start_is_another_process() {
        let own = Process::of(std::process::id().cast_signed()).unwrap();
        assert!(own.alive());
        assert!(!Process { start_ticks: own.start_ticks + 1, ..own }.alive());
    }
}
