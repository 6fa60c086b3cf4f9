//! Taffrail processes as children that end with the test, whatever happens to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};

use serde_json::Value;

use super::{SOON, TAFFRAIL, run_dir, unique};

/// A running `taffrail` that tells on stdout, as JSON lines, what is ready.
pub struct Process {
    pub pid: u32,
    /// Where its log goes.
    pub log: PathBuf,
    child: Child,
    lines: Mutex<Receiver<String>>,
}

impl Process {
    /// Starts `taffrail ARGUMENTS…` with some environment; its log goes to the run's folder.
    pub fn start(name: &str, arguments: &[String], environment: &[(&str, &str)]) -> Self {
        let log = run_dir().join(format!("{name}-{}.log", unique()));
        let stderr = std::fs::File::create(&log).unwrap();
        let parent = std::process::id().to_string();
        let mut command = Command::new(TAFFRAIL);
        // The shim gives the child a death signal; `nats` is the kind that wants SIGTERM.
        command
            .args([servers::SHIM_ARG, "nats", &parent])
            .arg(Path::new("."))
            .args(["--", TAFFRAIL])
            .args(arguments)
            .env_remove("TAFFRAIL_DATABASE_URL")
            .env_remove("TAFFRAIL_NATS_URL")
            .env_remove("TAFFRAIL_TOKEN")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let (spawned, child) = mpsc::channel();
        let (sent, lines) = mpsc::channel();
        // The death signal fires when the spawning thread ends: this one never does.
        std::thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            spawned.send(child).unwrap();
            for line in out.lines() {
                let Ok(line) = line else { break };
                let _ = sent.send(line);
            }
            drop(sent);
            loop {
                std::thread::park();
            }
        });
        let child = child.recv().unwrap();
        Self { pid: child.id(), log, child, lines: Mutex::new(lines) }
    }

    /// The lines up to `{"ready":"all"}`, each as a document.
    pub fn ready(&self) -> Vec<Value> {
        self.try_ready().expect("the process did not become ready")
    }

    /// The same; `None` when it ends or is silent for too long.
    pub fn try_ready(&self) -> Option<Vec<Value>> {
        let mut ready = Vec::new();
        let lines = self.lines.lock().unwrap();
        loop {
            let line = lines.recv_timeout(SOON).ok()?;
            let line: Value = serde_json::from_str(&line).unwrap();
            let last = line["ready"] == "all";
            ready.push(line);
            if last {
                return Some(ready);
            }
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// kill -9; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a ready line says, by its kind.
pub fn said(ready: &[Value], kind: &str, field: &str) -> String {
    let line = ready.iter().find(|line| line["ready"] == kind);
    line.and_then(|line| line[field].as_str()).unwrap_or_default().to_owned()
}
