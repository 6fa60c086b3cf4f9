//! One start of nats-server, the first or any after.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{settings, status};
use crate::data_dir::write_secret;
use crate::error::StartError;
use crate::process::{self, Child, Kind, Log, Spawn, command_line, spawn, stat};
use crate::supervise::Launch;

/// Everything a start needs; the same for every restart.
pub(super) struct NatsLaunch {
    pub(super) program: PathBuf,
    pub(super) shim: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) port: u16,
    pub(super) token: String,
}

/// 40 ms when empty; a large store is scanned at the start.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long the server of an earlier run may take to leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

impl Launch for NatsLaunch {
    const NAME: &'static str = NatsLaunch::SERVER;

    async fn launch(&self) -> Result<Child, StartError> {
        let config = self.dir.join("nats.conf");
        let run_dir = self.dir.join("run");
        settle(&self.dir).await?;
        let text = settings::text(&self.dir, self.port, &self.token);
        write_secret(&config, &text).map_err(StartError::file("write", &config))?;
        let log_path = self.dir.join("logs").join("nats.log");
        let (log, file) = Log::open(&log_path).map_err(StartError::file("open", &log_path))?;
        let child = spawn(Spawn {
            kind: Kind::Nats,
            shim: self.shim.clone(),
            program: self.program.clone(),
            args: vec!["-c".into(), config.into()],
            owns: self.dir.join("nats"),
            stdin: None,
            log: file,
        })
        .await
        .map_err(|source| StartError::Spawn { program: self.shim.display().to_string(), source })?;
        self.wait_ready(&child, &log, &run_dir).await?;
        Ok(child)
    }
}

impl NatsLaunch {
    pub(super) const SERVER: &'static str = "nats-server";

    async fn wait_ready(&self, child: &Child, log: &Log, run_dir: &Path) -> Result<(), StartError> {
        let ports_file = status::ports_file(run_dir, child.pid());
        let started = Instant::now();
        loop {
            if let Some(monitoring) = status::monitoring(&ports_file)
                && status::is_healthy(&monitoring).await
            {
                return Ok(());
            }
            if let Some(status) = child.status() {
                return Err(StartError::Ended { server: Self::SERVER, status, log: log.tail() });
            }
            if started.elapsed() > READY_LIMIT {
                let waited = started.elapsed();
                return Err(StartError::NotReady { server: Self::SERVER, waited, log: log.tail() });
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// Ends a server that an earlier supervisor left on the folder, and clears its traces.
pub(super) async fn settle(dir: &Path) -> Result<(), StartError> {
    let (run_dir, config) = (&dir.join("run"), &dir.join("nats.conf"));
    let noted = fs::read_to_string(run_dir.join("nats.pid")).unwrap_or_default();
    let started = Instant::now();
    let mut asked = None;
    while let Some(pid) = noted.trim().parse().ok().filter(|pid| is_ours(*pid, config)) {
        let waited = started.elapsed();
        if waited > LEAVE_LIMIT * 2 {
            let path = run_dir.to_owned();
            return Err(StartError::StillRunning { server: NatsLaunch::SERVER, pid, path });
        }
        let signal = if waited > LEAVE_LIMIT { Signal::KILL } else { Signal::TERM };
        if asked != Some(signal) {
            asked = Some(signal);
            tracing::info!(pid, ?signal, "stopping the nats-server of an earlier run");
            process::signal(pid, signal);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for entry in fs::read_dir(run_dir).map_err(StartError::file("read", run_dir))?.flatten() {
        // A ports file that stays is told from the new one by the pid, unless pids repeat.
        let stale = entry.path();
        fs::remove_file(&stale).map_err(StartError::file("remove", &stale))?;
    }
    Ok(())
}

/// Whether the process is a live nats-server on this configuration, not a stranger.
fn is_ours(pid: u32, config: &Path) -> bool {
    stat(pid).is_some_and(|process| process.is_alive() && process.comm == "nats-server")
        && command_line(pid).split('\0').any(|argument| Path::new(argument) == config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn traces_of_a_dead_server_are_cleared() {
        let dir =
            std::env::temp_dir().join(format!("taffrail-run-{}", crate::data_dir::random_secret()));
        let run = dir.join("run");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("nats.pid"), std::process::id().to_string()).unwrap();
        fs::write(run.join("nats-server_7.ports"), "{}").unwrap();
        settle(&dir).await.unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
        fs::remove_dir_all(&dir).unwrap();
    }
}
