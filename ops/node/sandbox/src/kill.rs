//! Ending everything that is left of a sandbox. Only its shim does this.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, wait,
};

use crate::cgroup::Group;
use crate::proc;

/// Kills and collects every process below this one and in the group, until none is left or the
/// time is over. A process that forks meanwhile is met in the next round.
pub(crate) fn kill_all(group: &Group, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        let grouped = group.kill();
        let own = getpid().as_raw_pid();
        let below = proc::descendants(own);
        if below.is_empty() && !grouped {
            return true;
        }
        let known: HashSet<i32> = below.iter().copied().chain([own]).collect();
        for pid in below {
            // Held by descriptor, then looked at: a number that was given to a stranger since
            // the listing has another parent.
            let Some(pid) = Pid::from_raw(pid) else { continue };
            let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if proc::parent(pid.as_raw_pid()).is_some_and(|parent| known.contains(&parent)) {
                let _ = pidfd_send_signal(&held, Signal::KILL);
            }
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
