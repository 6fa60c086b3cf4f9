//! `taffrail up` as a child, which ends with this process whatever happens to it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::mpsc;

/// How long a start may take: a first start lays the database out.
const START: Duration = Duration::from_secs(120);
/// How long an orderly end may take before it is made short.
const STOP: Duration = Duration::from_secs(30);

/// A running `taffrail up`.
pub struct Server {
    /// `http://127.0.0.1:…`
    pub http: String,
    /// The first admin token.
    pub token: String,
    /// `nats://…`
    pub nats_url: String,
    /// NATS's token.
    pub nats_token: Option<String>,
    /// PostgreSQL as its owner.
    pub database_url: String,
    /// Its data folder.
    pub folder: PathBuf,
    /// The process.
    pub pid: u32,
    /// From spawning to the line that says that all is ready.
    pub started_in: Duration,
    child: Mutex<Child>,
}

impl Server {
    /// Starts one on a folder and waits until it is ready; its log goes to `up.log` there.
    ///
    /// # Errors
    /// When it does not become ready; the message has the end of its log.
    pub async fn start(program: &Path, folder: &Path, more: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let log = folder.join("up.log");
        let began = Instant::now();
        let mut command = command(program, folder, more, &log)?;
        let (spawned, child) = tokio::sync::oneshot::channel();
        let (sent, mut lines) = mpsc::channel(16);
        // The death signal fires when the spawning thread ends: this one never does.
        std::thread::spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(spawned.send(Err(error))),
            };
            let out = child.stdout.take();
            let _ = spawned.send(Ok(child));
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
                let Ok(line) = line else { break };
                let _ = sent.blocking_send(line);
            }
            drop(sent);
            loop {
                std::thread::park();
            }
        });
        let child = child.await.context("the server was not started")??;
        let (pid, child) = (child.id(), Mutex::new(child));
        let (database_url, http, token) = Default::default();
        let mut server = Self {
            http,
            token,
            nats_url: String::new(),
            nats_token: None,
            database_url,
            folder: folder.to_owned(),
            pid,
            started_in: Duration::ZERO,
            child,
        };
        let ready = tokio::time::timeout(START, server.listen(&mut lines)).await;
        let ready = ready.map_err(|_| anyhow!("it took longer than {} s", START.as_secs()));
        if let Err(error) = ready.and_then(|listened| listened) {
            let tail = tail(&log);
            return Err(error.context(format!("the server did not become ready:\n{tail}")));
        }
        server.started_in = began.elapsed();
        Ok(server)
    }

    async fn listen(&mut self, lines: &mut mpsc::Receiver<String>) -> anyhow::Result<()> {
        while let Some(line) = lines.recv().await {
            let line: Value = serde_json::from_str(&line).context("a line that is no JSON")?;
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            match line["ready"].as_str() {
                Some("http") => self.http = text("url"),
                Some("token") => self.token = text("token"),
                Some("postgres") => self.database_url = text("url"),
                Some("nats") => {
                    self.nats_url = text("url");
                    self.nats_token = line["token"].as_str().map(Into::into);
                }
                Some("all") => return Ok(()),
                Some(_) | None => {}
            }
        }
        bail!("it ended")
    }

    /// The postmaster, as it says itself.
    #[must_use]
    pub fn postgres_pid(&self) -> Option<u32> {
        first_number(&self.folder.join("pg").join("postmaster.pid"))
    }

    /// nats-server, as it says itself.
    #[must_use]
    pub fn nats_pid(&self) -> Option<u32> {
        first_number(&self.folder.join("run").join("nats.pid"))
    }

    /// kill -9; returns when the process is gone. Its servers get a death signal of their own.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.end(Signal::KILL).await
    }

    /// SIGTERM, and -9 where that takes too long; returns when the process is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.end(Signal::TERM).await
    }

    async fn end(&self, signal: Signal) -> anyhow::Result<()> {
        let mut signal = Some(signal);
        let mut asked = Instant::now();
        loop {
            {
                let mut child = self.child.lock();
                if child.try_wait()?.is_some() {
                    return Ok(());
                }
                if let Some(signal) = signal.take() {
                    asked = Instant::now();
                    // Not reaped yet, so the number is still its own.
                    let _ = kill_process(Pid::from_child(&child), signal);
                }
            }
            if asked.elapsed() > STOP {
                signal = Some(Signal::KILL);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if let Ok(None) = child.try_wait() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(program: &Path, folder: &Path, more: &[&str], log: &Path) -> anyhow::Result<Command> {
    let parent = std::process::id().to_string();
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command
        // The shim gives the child a death signal; `nats` is the kind that wants SIGTERM.
        .args([servers::SHIM_ARG, "nats", &parent])
        .arg(folder)
        .arg("--")
        .arg(program)
        .args(["up", "--output", "json", "--data-dir"])
        .arg(folder)
        .args(more)
        .env_remove("TAFFRAIL_DATABASE_URL")
        .env_remove("TAFFRAIL_NATS_URL")
        .env_remove("TAFFRAIL_TOKEN")
        .env_remove("TAFFRAIL_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    if !more.contains(&"--http-addr") {
        command.args(["--http-addr", "127.0.0.1:0"]);
    }
    Ok(command)
}

fn first_number(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
