//! A running program, as the daemon sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use crate::exit::{EXIT_FILE, Exit, State, read};
use crate::logs::{Chunk, Stream, read_from};
use crate::proc::{self, Process, boot_id};
use crate::spec::Level;

/// Shortest and longest time between two looks, for output or for the end.
const FOLLOW: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// Most output in one piece.
const CHUNK: usize = 64 << 10;

/// A program that runs or ran. It goes on without the handle.
#[derive(Debug, Clone)]
pub struct Handle {
    dir: PathBuf,
    state: State,
    /// Tells when the shim was collected, if it is a child of this process.
    collected: Option<watch::Receiver<bool>>,
}

/// What a running program uses at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Memory of all its processes, bytes.
    pub memory_bytes: u64,
    /// Processor time of the processes that still run, milliseconds.
    pub cpu_ms: u64,
    /// Its processes, with process 1 of the namespace.
    pub processes: u32,
}

impl Handle {
    pub(crate) fn new(
        dir: PathBuf,
        state: State,
        collected: Option<watch::Receiver<bool>>,
    ) -> Self {
        Self { dir, state, collected }
    }

    /// The folder of the run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program's process number on the host.
    pub fn pid(&self) -> u32 {
        self.state.program.pid.cast_unsigned()
    }

    /// The level in force.
    pub fn level(&self) -> Level {
        self.state.level
    }

    /// When the program was executed.
    pub fn started_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.state.started_at_ms)
    }

    /// Whether it still runs.
    pub fn running(&self) -> bool {
        self.state.alive()
    }

    /// Waits until the program and everything it started is gone, then how it ended.
    ///
    /// # Errors
    /// When the folder of the run cannot be read.
    pub async fn wait(&self) -> io::Result<Exit> {
        match &self.collected {
            // An error means that the collector is gone, and then the runtime.
            Some(collected) => drop(collected.clone().wait_for(|collected| *collected).await),
            None => self.await_stranger().await,
        }
        if let Some(exit) = read(&self.dir.join(EXIT_FILE))? {
            return Ok(exit);
        }
        // The shim died first; process 1 notices and goes, and with it all of the namespace.
        self.clear_up().await;
        Ok(Exit::lost())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the folder of the run cannot be read.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        let exit = read(&self.dir.join(EXIT_FILE))?;
        Ok(exit.or_else(|| (!self.running()).then(Exit::lost)))
    }

    /// Sends a signal to the program, by its number; nothing happens when it is gone.
    ///
    /// # Errors
    /// When there is no such signal, or it may not be sent.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such signal"))?;
        self.send(self.state.program, signal)
    }

    /// Ends the program and everything it started, at once. [`wait`](Self::wait) returns soon
    /// after, with `killed`; nothing happens when it is gone.
    ///
    /// # Errors
    /// When the supervisor may not be signalled.
    pub fn kill(&self) -> io::Result<()> {
        self.send(self.state.shim, Signal::TERM)
    }

    /// What it uses now.
    pub fn usage(&self) -> Snapshot {
        let processes = proc::descendants(self.state.shim.pid);
        let processes = if self.running() { processes } else { Vec::new() };
        let memory = self.state.group.memory().map(|(now, _)| now);
        let counted = || processes.iter().map(|pid| proc::memory(*pid)).sum();
        Snapshot {
            memory_bytes: memory.unwrap_or_else(counted),
            cpu_ms: processes.iter().map(|pid| proc::cpu_ms(*pid)).sum(),
            processes: u32::try_from(processes.len()).unwrap_or(u32::MAX),
        }
    }

    /// Output from an offset on, as it comes; ends with the program.
    pub fn follow(&self, stream: Stream, offset: u64) -> Follow {
        Follow { handle: self.clone(), stream, offset }
    }

    /// Output from an offset on, as far as it is there: at most 64 KiB.
    ///
    /// # Errors
    /// When the folder of the run cannot be read.
    pub fn read(&self, stream: Stream, offset: u64) -> io::Result<Option<Chunk>> {
        read_from(&self.dir, stream, offset, CHUNK)
    }

    /// An adopted shim is nobody's child here, so it is looked at, ever more slowly.
    async fn await_stranger(&self) {
        let mut pause = FOLLOW.0;
        while self.running() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FOLLOW.1);
        }
    }

    /// A process that is certainly the one that was meant; none if it is gone.
    fn held(&self, process: Process) -> Option<OwnedFd> {
        // Held first and looked at then: afterwards its number cannot go to another.
        let held = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
        (self.state.boot == boot_id() && process.alive()).then_some(held)
    }

    fn send(&self, process: Process, signal: Signal) -> io::Result<()> {
        match self.held(process).map(|held| pidfd_send_signal(held, signal)) {
            None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// What a shim would have done that was killed.
    async fn clear_up(&self) {
        if self.state.boot != boot_id() {
            return;
        }
        let _ = self.send(self.state.root, Signal::KILL);
        // Without a namespace there may be more, and without a group only the session tells.
        for process in proc::session(self.state.shim) {
            let _ = self.send(process, Signal::KILL);
        }
        let group = self.state.group.clone();
        let _ = tokio::task::spawn_blocking(move || group.remove()).await;
    }
}

/// Output as it comes.
#[derive(Debug)]
pub struct Follow {
    handle: Handle,
    stream: Stream,
    offset: u64,
}

impl Follow {
    /// The next piece; none when the program has ended and everything was read.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the folder of the run cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut pause = FOLLOW.0;
        loop {
            // Asked before the read: what was written until then is read after it.
            let ended = self.handle.exit()?.is_some();
            if let Some(chunk) = self.handle.read(self.stream, self.offset)? {
                self.offset = chunk.next();
                return Ok(Some(chunk));
            }
            if ended {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FOLLOW.1);
        }
    }
}
