//! Processes of this host, each in a sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::agent::Exit;
use domain::profile::{CommandLine, Level, Network, Runtime};
use futures::FutureExt;
use futures::future::BoxFuture;
use sandbox::{
    Handle, Limits, Mount, SECRETS, SOCKETS, Sandbox, Secret, Spec, StartError, Workspace,
};

use super::{Driver, Ending, Found, Job, NotStarted, Piece, Run, Stream, Word};

/// `SIGTERM`, the same on every Linux.
const SIGTERM: i32 = 15;
/// What a failing program is quoted with.
const QUOTED: usize = 300;
/// The file with the credential of NATS, among the secrets.
pub(crate) const TOKEN_FILE: &str = "taffrail-nats-token";
/// The agent's socket, in its folder.
pub(crate) const SOCKET: &str = "agent.sock";

/// Starts processes.
pub(crate) struct ProcessDriver {
    sandbox: Sandbox,
    level: sandbox::Level,
}

impl ProcessDriver {
    /// Finds out how strongly this host keeps processes apart.
    pub(crate) async fn find() -> Self {
        let sandbox = Sandbox::new();
        let mut level = sandbox::Level::None;
        for stronger in [sandbox::Level::Namespace, sandbox::Level::Process] {
            let missing = sandbox.missing(stronger).await;
            if missing.is_empty() {
                level = stronger;
                break;
            }
            tracing::warn!(level = %stronger, why = missing.join("; "), "an isolation level is absent");
        }
        Self { sandbox, level }
    }

    fn run(&self, handle: Handle, spec: Spec) -> Arc<dyn Run> {
        Arc::new(Process { sandbox: self.sandbox.clone(), handle, spec, words: AtomicU32::new(0) })
    }
}

impl Driver for ProcessDriver {
    fn runtime(&self) -> Runtime {
        Runtime::Process
    }

    fn level(&self) -> Level {
        match self.level {
            sandbox::Level::None => Level::None,
            sandbox::Level::Process => Level::Process,
            sandbox::Level::Namespace => Level::Namespace,
        }
    }

    fn start(&self, job: Job) -> BoxFuture<'_, Result<Arc<dyn Run>, NotStarted>> {
        async move {
            let spec = spec(&job, self.level);
            let input = job.input.as_deref().unwrap_or_default();
            let started = self.sandbox.start_with(&job.dir, &spec, input).await;
            let handle = started.map_err(|error| not_started(&error))?;
            Ok(self.run(handle, without_secrets(spec)))
        }
        .boxed()
    }

    fn adopt(&self, job: Job) -> BoxFuture<'_, Found> {
        async move {
            let over = |note: String| Found::Over(Ending { exit: None, note: Some(note) });
            let handle = match Sandbox::adopt(&job.dir) {
                Ok(Some(handle)) => handle,
                Ok(None) => return over("the node ended while it started the process".into()),
                Err(error) => return over(format!("{}: {error}", job.dir.display())),
            };
            match handle.exit() {
                Ok(None) => Found::Running(self.run(handle, spec(&job, self.level))),
                Ok(Some(exit)) => Found::Over(ending(&exit)),
                Err(error) => over(format!("{}: {error}", job.dir.display())),
            }
        }
        .boxed()
    }

    fn remains(&self, job: &Job) -> Option<Arc<dyn Run>> {
        let handle = Sandbox::adopt(&job.dir).ok().flatten()?;
        Some(self.run(handle, spec(job, self.level)))
    }
}

struct Process {
    sandbox: Sandbox,
    handle: Handle,
    /// For further programs in the same isolation; without the secrets.
    spec: Spec,
    words: AtomicU32,
}

impl Run for Process {
    fn pid(&self) -> Option<u32> {
        Some(self.handle.pid())
    }

    fn terminate(&self) -> BoxFuture<'_, ()> {
        async {
            if let Err(error) = self.handle.signal(SIGTERM) {
                tracing::warn!(%error, "SIGTERM cannot be sent");
            }
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        async {
            if let Err(error) = self.handle.kill() {
                tracing::error!(%error, "a process cannot be killed");
            }
        }
        .boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Ending> {
        async {
            match self.handle.wait().await {
                Ok(exit) => ending(&exit),
                Err(error) => Ending { exit: None, note: Some(error.to_string()) },
            }
        }
        .boxed()
    }

    fn exec<'a>(
        &'a self,
        command: &'a CommandLine,
        within: Duration,
    ) -> BoxFuture<'a, io::Result<Word>> {
        async move {
            let number = self.words.fetch_add(1, Ordering::Relaxed);
            // One that a killed daemon left may still be running.
            let name = format!("exec-{}-{number}", std::process::id());
            let dir = self.handle.dir().join(name);
            let mut spec = self.spec.clone();
            spec.command.clone_from(&command.0);
            let ms = (within.as_millis() as u64).max(1);
            spec.limits.wall_ms = Some(ms);
            let ran = self.sandbox.run_once(&dir, &spec, &[]).await;
            let output = ran.map_err(|error| io::Error::other(error.to_string()))?;
            let exit = &output.exit;
            let how = if exit.wall_timeout {
                format!("no end within {ms} ms")
            } else {
                domain_exit(exit).words()
            };
            let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            let detail = match quote(said) {
                quote if quote.is_empty() => how,
                quote => format!("{how}: {quote}"),
            };
            Ok(Word { success: exit.success(), detail })
        }
        .boxed()
    }

    fn output(&self, stream: Stream, from: u64, most: usize) -> io::Result<Piece> {
        let stream = match stream {
            Stream::Stdout => sandbox::Stream::Stdout,
            Stream::Stderr => sandbox::Stream::Stderr,
        };
        let chunk = self.handle.read(stream, from)?;
        Ok(chunk.map_or(Piece { at: from, bytes: Vec::new() }, |mut chunk| {
            chunk.bytes.truncate(most);
            Piece { at: chunk.offset, bytes: chunk.bytes }
        }))
    }
}

/// The end of what a program wrote, on one line.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(QUOTED)..]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a profile asks for, in the sandbox's terms.
pub(crate) fn spec(job: &Job, in_force: sandbox::Level) -> Spec {
    let profile = &job.launch.profile;
    let isolation = profile.sandbox.clone().unwrap_or_default();
    let command = profile.command.as_ref().map(|command| command.0.clone()).unwrap_or_default();
    let mut spec = Spec::new(command);
    // Who an agent is, its profile cannot change.
    spec.env = profile.env.clone();
    spec.env.extend(job.env.clone());
    spec.secrets =
        job.secrets.iter().map(|(name, value)| (name.clone(), Secret(value.clone()))).collect();
    spec.workdir = profile.workdir.clone();
    spec.workspace = Workspace::Folder(job.workspace.clone());
    spec.mounts = isolation
        .read_only
        .iter()
        .map(|folder| Mount { source: folder.into(), target: None })
        .collect();
    spec.socket_dir = job.sockets.clone();
    spec.network = match isolation.network {
        Network::None => sandbox::Network::None,
        Network::Host => sandbox::Network::Host,
    };
    spec.level = match isolation.level {
        Level::None => sandbox::Level::None,
        Level::Process => sandbox::Level::Process,
        Level::Namespace => sandbox::Level::Namespace,
    };
    spec.limits = limits(profile.resources.clone().unwrap_or_default());

    // The places of a root of its own, or those of the host.
    let inside = spec.level != sandbox::Level::None && in_force == sandbox::Level::Namespace;
    let place = |fixed: &str, own: PathBuf| if inside { PathBuf::from(fixed) } else { own };
    if spec.secrets.contains_key(TOKEN_FILE) {
        let file = place(SECRETS, job.dir.join("secrets")).join(TOKEN_FILE);
        spec.env.insert("TAFFRAIL_NATS_TOKEN_FILE".into(), text(&file));
    }
    if let Some(sockets) = &job.sockets {
        let socket = place(SOCKETS, sockets.clone()).join(SOCKET);
        spec.env.insert("TAFFRAIL_AGENT_SOCKET".into(), text(&socket));
    }
    spec
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A probe's program has the agent's isolation, not its secrets.
fn without_secrets(mut spec: Spec) -> Spec {
    spec.secrets.clear();
    spec
}

/// What is not set stays as the sandbox has it built in.
fn limits(resources: domain::profile::Resources) -> Limits {
    let built_in = Limits::default();
    let number = |value: Option<u64>, built_in: u32| {
        value.map_or(built_in, |value| u32::try_from(value).unwrap_or(u32::MAX))
    };
    let disk_bytes = resources.disk_bytes.unwrap_or(built_in.disk_bytes);
    Limits {
        memory_bytes: resources.memory_bytes.unwrap_or(built_in.memory_bytes),
        cpu_percent: number(
            resources.cpu_millis.map(|millis| millis.div_ceil(10)),
            built_in.cpu_percent,
        ),
        pids: number(resources.pids, built_in.pids),
        disk_bytes,
        open_files: number(resources.open_files, built_in.open_files),
        // No single file is kept smaller than the whole workspace may be.
        file_bytes: disk_bytes.max(4 << 10),
        // Without any room for output there would be no last words.
        output_bytes: resources.output_bytes.unwrap_or(built_in.output_bytes).max(16 << 10),
        output_bytes_per_s: built_in.output_bytes_per_s,
        wall_ms: resources.wall_ms,
    }
}

fn not_started(error: &StartError) -> NotStarted {
    let permanent = match error {
        StartError::Invalid { .. }
        | StartError::LevelAbsent { .. }
        | StartError::Missing { .. }
        | StartError::NotExecutable { .. }
        | StartError::Workdir { .. }
        | StartError::Mount { .. } => true,
        // The host may have more room another time.
        StartError::Layer { .. } | StartError::Running { .. } | StartError::Supervisor { .. } => {
            false
        }
    };
    NotStarted { reason: error.to_string(), permanent }
}

pub(crate) fn ending(exit: &sandbox::Exit) -> Ending {
    if exit.lost {
        let note = "its supervisor was gone before it could tell how it ended";
        return Ending { exit: None, note: Some(note.into()) };
    }
    let note = exit.disk_full.then(|| "its workspace grew beyond its limit".to_owned());
    Ending { exit: Some(domain_exit(exit)), note }
}

fn domain_exit(exit: &sandbox::Exit) -> Exit {
    Exit {
        code: exit.code,
        signal: exit.signal,
        out_of_memory: exit.oom,
        out_of_time: exit.wall_timeout,
        cpu_ms: Some(exit.usage.cpu_ms),
        max_rss_bytes: Some(exit.usage.max_rss_bytes),
        wall_ms: Some(exit.usage.wall_ms),
        output_bytes: Some(exit.usage.output_bytes.saturating_sub(exit.usage.dropped_bytes)),
        dropped_bytes: Some(exit.usage.dropped_bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::AgentId;
    use domain::node::Launch;

    use super::*;

    fn job(profile: &str) -> Job {
        let profile = serde_json::from_str(profile).unwrap();
        let (role, capabilities) = ("worker".into(), vec![]);
        Job {
            agent: AgentId::nth(1),
            launch: Box::new(Launch { profile_name: None, profile, role, capabilities, slots: 1 }),
            env: BTreeMap::from([("TAFFRAIL_NODE".into(), "n".into())]),
            secrets: BTreeMap::from([(TOKEN_FILE.into(), "hunter2".into())]),
            dir: "/data/run-1".into(),
            workspace: "/data/workspace".into(),
            sockets: Some("/data/sock".into()),
            input: None,
        }
    }

    #[test]
    fn a_profile_says_what_the_sandbox_is_asked_for() {
        let job = job(r#"{"command": ["run", "it"], "env": {"A": "b", "TAFFRAIL_NODE": "mine"},
                "workdir": "/workspace/src",
                "resources": {"cpu_millis": 1501, "memory_bytes": 33554432, "disk_bytes": 1048576,
                              "pids": 9, "open_files": 64, "output_bytes": 100, "wall_ms": 5},
                "sandbox": {"level": "process", "network": "host", "read_only": ["/opt/models"]}}"#);
        let spec = spec(&job, sandbox::Level::Namespace);
        spec.check().unwrap();
        assert_eq!(spec.command, ["run", "it"]);
        assert_eq!(spec.env["TAFFRAIL_NODE"], "n", "who it is, a profile cannot change");
        assert_eq!(spec.env["A"], "b");
        assert_eq!(spec.workdir.as_deref(), Some("/workspace/src"));
        assert_eq!(spec.workspace, Workspace::Folder("/data/workspace".into()));
        assert_eq!(spec.mounts[0].source, Path::new("/opt/models"));
        assert_eq!(spec.network, sandbox::Network::Host);
        assert_eq!(spec.level, sandbox::Level::Process);
        let limits = &spec.limits;
        assert_eq!((limits.cpu_percent, limits.memory_bytes, limits.pids), (151, 32 << 20, 9));
        assert_eq!((limits.disk_bytes, limits.file_bytes), (1 << 20, 1 << 20));
        assert_eq!((limits.open_files, limits.wall_ms), (64, Some(5)));
    }

    #[test]
    fn nothing_said_is_the_strongest_isolation_and_no_network() {
        let spec = spec(&job(r#"{"command": ["x"]}"#), sandbox::Level::Namespace);
        assert_eq!(spec.level, sandbox::Level::Namespace);
        assert_eq!(spec.network, sandbox::Network::None);
        assert_eq!(spec.limits, Limits { file_bytes: 1 << 30, ..Limits::default() });
    }

    #[test]
    fn places_are_named_as_the_program_sees_them() {
        let at = |profile: &str, in_force| {
            let spec = spec(&job(profile), in_force);
            let of = |name: &str| spec.env[name].clone();
            assert!(!spec.env.values().any(|value| value.contains("hunter2")));
            (of("TAFFRAIL_NATS_TOKEN_FILE"), of("TAFFRAIL_AGENT_SOCKET"))
        };
        let plain = r#"{"command": ["x"]}"#;
        let inside = at(plain, sandbox::Level::Namespace);
        assert_eq!(inside.0, "/run/taffrail/secrets/taffrail-nats-token");
        assert_eq!(inside.1, "/run/taffrail/sock/agent.sock");
        let outside = ("/data/run-1/secrets/taffrail-nats-token", "/data/sock/agent.sock");
        let bare = r#"{"command": ["x"], "sandbox": {"level": "none"}}"#;
        for (token, socket) in
            [at(plain, sandbox::Level::Process), at(bare, sandbox::Level::Namespace)]
        {
            assert_eq!((token.as_str(), socket.as_str()), outside);
        }
    }

    #[test]
    fn what_another_start_cannot_mend_is_permanent() {
        let permanent = |error: StartError| not_started(&error).permanent;
        assert!(permanent(StartError::Missing { program: "x".into() }));
        let wanted = sandbox::Level::Namespace;
        assert!(permanent(StartError::LevelAbsent { wanted, missing: vec![] }));
        assert!(!permanent(StartError::Supervisor { reason: "no memory".into() }));
    }

    #[test]
    fn an_end_is_told_as_it_was() {
        let exit = sandbox::Exit { signal: Some(9), oom: true, ..sandbox::Exit::default() };
        let told = ending(&exit).exit.unwrap();
        assert_eq!((told.signal, told.out_of_memory), (Some(9), true));
        assert!(ending(&sandbox::Exit { lost: true, ..sandbox::Exit::default() }).exit.is_none());
        assert_eq!(quote(b" a\n b\t"), "a b");
        assert_eq!(quote(&[b'x'; 1_000]).len(), QUOTED);
    }
}
