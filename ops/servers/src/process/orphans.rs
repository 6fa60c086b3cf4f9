//! Processes whose parent was killed.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};

use super::proc::{self, Stat};

/// Ends the backends that a killed postmaster left on a cluster.
///
/// They notice by themselves when idle, but one in the middle of a long query does not,
/// and PostgreSQL refuses to start while any is attached to the old shared memory. Only for
/// the holder of the data folder's lock, and only when the postmaster is dead.
pub(crate) async fn quit_backends(cluster: &Path) {
    const STEP: Duration = Duration::from_millis(10);
    const PATIENCE: u32 = 300; // steps before SIGKILL
    for step in 0..PATIENCE + 100 {
        let mut any = false;
        for backend in proc::all() {
            if backend.comm == "postgres"
                && backend.is_alive()
                && proc::current_dir(backend.pid).as_deref() == Some(cluster)
            {
                any = true;
                signal(backend.pid, if step < PATIENCE { Signal::QUIT } else { Signal::KILL });
            }
        }
        if !any {
            return;
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Signals a process that is not a [`super::Child`]; one that is gone by now is what we want.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Reaps the children that nobody in this process spawned.
///
/// Being a subreaper (or pid 1 of a container) we inherit every orphan below us, agents'
/// included. A child that some other part of the process spawned must be left to it: a
/// zombie counts as inherited when it is a PostgreSQL backend (which leads a session of its
/// own) or when nobody has waited for it for a good while.
#[derive(Default)]
pub(crate) struct Reaper {
    zombies: HashMap<u32, Instant>,
}

impl Reaper {
    /// How often the keeper sweeps.
    pub(crate) const PERIOD: Duration = Duration::from_secs(2);
    /// Both tokio and our waiter threads collect a child within milliseconds.
    const UNCLAIMED_AFTER: Duration = Duration::from_secs(30);

    pub(crate) fn sweep(&mut self) {
        // One call that consumes nothing; most of the time there is no zombie to look for.
        let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if !matches!(waitid(WaitId::All, any), Ok(Some(_))) {
            self.zombies.clear();
            return;
        }
        let own = std::process::id();
        let found: Vec<Stat> =
            proc::all().into_iter().filter(|stat| stat.parent == own && !stat.is_alive()).collect();
        self.zombies.retain(|pid, _| found.iter().any(|stat| stat.pid == *pid));
        for zombie in found {
            let since = *self.zombies.entry(zombie.pid).or_insert_with(Instant::now);
            let backend = zombie.comm == "postgres" && zombie.session == zombie.pid;
            let unclaimed = backend || since.elapsed() > Self::UNCLAIMED_AFTER;
            if unclaimed && let Some(pid) = to_pid(zombie.pid) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}
