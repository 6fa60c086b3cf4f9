//! The one thread all children are spawned from.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked the child ends (prctl(2)), so a
//! child of a runtime's blocking thread would be stopped whenever that thread idles out.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, set_child_subreaper};
use tokio::sync::oneshot;

use super::child::{Child, Ending};
use super::orphans::Reaper;
use crate::shim::SHIM_ARG;

/// What is spawned; decides the signals and, as root, the change of user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// PostgreSQL and its tools, which refuse to run as root.
    Postgres,
    /// nats-server.
    Nats,
}

impl Kind {
    /// The word in the shim's arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Nats => "nats",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Postgres, Self::Nats].into_iter().find(|kind| kind.name() == name)
    }

    /// The signal that ends it cleanly: for PostgreSQL "fast shutdown".
    pub(crate) fn stop_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::INT,
            Self::Nats => Signal::TERM,
        }
    }

    fn ending(self) -> Ending {
        Ending { ask: self.stop_signal(), patience: Duration::from_secs(10) }
    }
}

/// A child to be.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) kind: Kind,
    /// Our own binary, see [`crate::run_shim`].
    pub(crate) shim: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The folder that must belong to the child's user.
    pub(crate) owns: PathBuf,
    pub(crate) stdin: Option<File>,
    /// Both stdout and stderr.
    pub(crate) log: File,
}

struct Request {
    spawn: Spawn,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Started on first use and alive until the process ends, as the death signal demands.
static KEEPER: LazyLock<io::Result<Mutex<Sender<Request>>>> = LazyLock::new(|| {
    let (sender, requests) = channel();
    thread::Builder::new().name("keeper".into()).spawn(move || keep(&requests))?;
    Ok(Mutex::new(sender))
});

/// Spawns a child from the keeper thread.
///
/// # Errors
/// When the shim cannot be executed; what the shim itself meets ends up in the log.
pub(crate) async fn spawn(spawn: Spawn) -> io::Result<Child> {
    let keeper =
        KEEPER.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (reply, answer) = oneshot::channel();
    let request = Request { spawn, reply };
    let gone = |_| io::Error::other("the keeper thread is gone");
    keeper.lock().unwrap_or_else(PoisonError::into_inner).send(request).map_err(gone)?;
    answer.await.map_err(|_| io::Error::other("the keeper thread is gone"))?
}

fn keep(requests: &Receiver<Request>) {
    // Backends of a killed postmaster become our children, so that they can be reaped.
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "orphans will not be reaped");
    }
    let mut reaper = Reaper::default();
    loop {
        match requests.recv_timeout(Reaper::PERIOD) {
            Ok(Request { spawn, reply }) => {
                // Nobody waiting any more means the child is dropped, and thereby stopped.
                drop(reply.send(fork(spawn)));
            }
            Err(RecvTimeoutError::Timeout) => reaper.sweep(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn fork(spawn: Spawn) -> io::Result<Child> {
    let ending = spawn.kind.ending();
    let mut command = Command::new(&spawn.shim);
    command
        .arg(SHIM_ARG)
        .arg(spawn.kind.name())
        .arg(std::process::id().to_string())
        .arg(&spawn.owns)
        .arg("--")
        .arg(&spawn.program)
        .args(&spawn.args)
        // No PG* variable and no LD_PRELOAD of the caller reaches a server.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        // Its own group: Ctrl-C in the terminal reaches us, and we stop it in order.
        .process_group(0)
        .stdin(spawn.stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(spawn.log.try_clone()?)
        .stderr(spawn.log);
    Child::watch(command.spawn()?, ending)
}
