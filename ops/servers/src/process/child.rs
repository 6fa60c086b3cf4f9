//! One running child.

use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

/// How a kind of child is asked to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The polite signal.
    pub(crate) ask: Signal,
    /// How long it may take before it is told instead of asked.
    pub(crate) patience: Duration,
}

/// After SIGQUIT a server only has to exit; one that does not is stuck in the kernel or broken.
const AFTER_QUIT: Duration = Duration::from_secs(5);

/// A child process; dropping it asks it to leave and sees to it in the background.
#[derive(Debug)]
pub(crate) struct Child {
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    ending: Ending,
    /// True once reaped: from then on the pid may be a stranger's.
    reaped: Mutex<bool>,
}

impl Child {
    /// Takes over a spawned process and starts its waiter thread.
    ///
    /// A thread blocked in `waitid` sees the end at once, costs nothing meanwhile, and takes
    /// no exit status away from any other part of the process, unlike a SIGCHLD handler.
    pub(crate) fn watch(mut process: std::process::Child, ending: Ending) -> io::Result<Self> {
        let pid = Pid::from_child(&process);
        let shared = Arc::new(Shared { pid, ending, reaped: Mutex::new(false) });
        let (sender, exit) = watch::channel(None);
        let waiter = shared.clone();
        let wait = move || {
            // NOWAIT leaves the zombie in place, so that reaping happens under the lock.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), ended), Err(Errno::INTR)) {}
            let mut reaped = lock(&waiter.reaped);
            let status = process.wait().unwrap_or_default();
            *reaped = true;
            drop(reaped);
            sender.send_replace(Some(status));
        };
        let thread = thread::Builder::new().name(format!("wait-{pid}")).stack_size(64 << 10);
        if let Err(error) = thread.spawn(wait) {
            // Nobody would ever see it end, so it may not begin.
            let _ = kill_process(pid, Signal::KILL);
            return Err(error);
        }
        Ok(Self { shared, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.shared.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for the end, whatever its cause.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            // The waiter never leaves without sending; a default says "exited" at worst.
            Err(_) => ExitStatus::default(),
        }
    }

    /// SIGKILL, for tests of what follows a crash.
    pub(crate) fn kill(&self) {
        self.shared.signal(Signal::KILL);
    }

    /// Asks, then tells (SIGQUIT), and only a child that ignores both is killed.
    ///
    /// Returns the status and the last signal it took.
    pub(crate) async fn stop(&self) -> (ExitStatus, Signal) {
        let Ending { ask, patience } = self.shared.ending;
        for (signal, wait) in [(ask, patience), (Signal::QUIT, AFTER_QUIT)] {
            self.shared.signal(signal);
            if let Ok(status) = tokio::time::timeout(wait, self.ended()).await {
                return (status, signal);
            }
        }
        self.shared.signal(Signal::KILL);
        (self.ended().await, Signal::KILL)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.shared.signal(self.shared.ending.ask) {
            return;
        }
        let shared = self.shared.clone();
        // Without a runtime to lean on; ends as soon as the child does, usually in 0.1 s.
        let escalate = move || {
            for (signal, wait) in
                [(Signal::QUIT, shared.ending.patience), (Signal::KILL, AFTER_QUIT)]
            {
                if shared.gone_within(wait) {
                    return;
                }
                shared.signal(signal);
            }
        };
        if let Err(error) = thread::Builder::new().name("stop-child".into()).spawn(escalate) {
            tracing::warn!(%error, "cannot watch a dropped child end");
        }
    }
}

impl Shared {
    /// Whether there was still a process to signal.
    fn signal(&self, signal: Signal) -> bool {
        let reaped = lock(&self.reaped);
        !*reaped && kill_process(self.pid, signal).is_ok()
    }

    fn gone_within(&self, wait: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(20);
        for _ in 0..wait.as_millis() / STEP.as_millis() {
            if *lock(&self.reaped) {
                return true;
            }
            thread::sleep(STEP);
        }
        false
    }
}

/// The flag is a plain bool: a panicked holder leaves nothing half done behind.
fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}
