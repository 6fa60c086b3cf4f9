//! A host for sandboxes: things to be attacked, and an attacker.

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox::{Exit, Level, Mount, Output, Sandbox, Spec, Workspace};

/// The stages, as they lie where the tests are built.
const STAGE: &str = env!("CARGO_BIN_EXE_sandbox-stage");

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether these tests run as root; what only root can prepare is left out otherwise.
pub fn root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn sandbox() -> Sandbox {
    Sandbox::at(STAGE)
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Success(String),
    Stopped(String),
    Died(Box<Exit>, String),
}

impl Verdict {
    pub fn of(output: &Output) -> Self {
        let line = String::from_utf8_lossy(output.last_line().unwrap_or_default()).into_owned();
        if line.starts_with("SUCCESS") {
            return Self::Success(line);
        }
        if line.starts_with("STOPPED") {
            return Self::Stopped(line);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self::Died(Box::new(output.exit.clone()), format!("{line}\n{stderr}"))
    }

    pub fn success(&self) -> bool {
        matches!(self, Self::Success(_))
    }
}

/// A folder that is removed, and the processes and sockets in it.
pub struct Host {
    pub dir: PathBuf,
    /// Owner of the workspace and of the victim: the user of the sandbox outside.
    pub uid: u32,
    pub victim: Child,
    pub abstract_name: String,
    pub tcp: TcpListener,
    pub udp: UdpSocket,
    _sockets: Vec<UnixListener>,
}

impl Host {
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandbox-it-{}-{number}", std::process::id());
        // Not in /tmp, which a sandbox has of its own.
        let dir = Path::new("/var/tmp").join(&name);
        let _ = fs::remove_dir_all(&dir);
        for folder in ["secret", "shared", "sock", "workspace", "other", "runs"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attack.py"), dir.join("attack.py"))
            .unwrap();
        fs::write(dir.join("secret/file"), "a secret").unwrap();
        fs::write(dir.join("secret/open"), "for all").unwrap();
        fs::set_permissions(dir.join("secret/open"), Permissions::from_mode(0o666)).unwrap();
        fs::write(dir.join("shared/file"), "shared").unwrap();
        fs::write(dir.join("shared/root-only"), "for root").unwrap();
        fs::set_permissions(dir.join("shared/root-only"), Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.join("shared"), Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("other/file"), "another agent's").unwrap();
        let abstract_name = format!("{name}-abstract");
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let sockets = vec![
            UnixListener::bind_addr(&address).unwrap(),
            UnixListener::bind(dir.join("secret/sock")).unwrap(),
            UnixListener::bind(dir.join("sock/sidecar")).unwrap(),
        ];
        for socket in ["secret/sock", "sock/sidecar"] {
            fs::set_permissions(dir.join(socket), Permissions::from_mode(0o777)).unwrap();
        }
        let own = fs::metadata("/proc/self").unwrap().uid();
        let mut victim = Command::new("sleep");
        victim.arg("300").current_dir("/");
        let mut uid = own;
        if root() {
            uid = 0x70f0_0000 + (std::process::id() << 4) % 0xf_0000 + number;
            for path in ["workspace", "other", "other/file", "shared/file"] {
                chown(dir.join(path), Some(uid), Some(uid)).unwrap();
            }
            victim.uid(uid).gid(uid);
        }
        Self {
            victim: victim.spawn().unwrap(),
            uid,
            abstract_name,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            _sockets: sockets,
            dir,
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A folder for one run.
    pub fn run(&self) -> PathBuf {
        self.dir.join("runs").join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// The attacker with a workspace of the host and a shared folder, limits small.
    pub fn spec(&self, attempt: &[&str]) -> Spec {
        let script = self.path("attack.py");
        let command = ["python3", &script].into_iter().chain(attempt.iter().copied());
        let mut spec = Spec::new(command);
        spec.workspace = Workspace::Folder(self.dir.join("workspace"));
        spec.mounts.push(Mount { source: script.into(), target: None });
        spec.mounts.push(Mount { source: self.dir.join("shared"), target: None });
        spec.limits.memory_bytes = 128 << 20;
        spec.limits.disk_bytes = 32 << 20;
        spec.limits.file_bytes = 32 << 20;
        spec.limits.pids = 40;
        spec.limits.open_files = 128;
        spec.limits.wall_ms = Some(20_000);
        self.mark(&mut spec);
        spec
    }

    pub async fn attempt(&self, sandbox: &Sandbox, spec: &Spec) -> Verdict {
        let output = sandbox.run_once(&self.run(), spec, b"").await.unwrap();
        Verdict::of(&output)
    }

    /// Stages that run as this user instead of root: what an unprivileged daemon would start.
    pub fn unprivileged(&self) -> Sandbox {
        let stage = self.dir.join("stage");
        fs::copy(STAGE, &stage).unwrap();
        let wrapper = self.dir.join("as-user");
        let (uid, stage) = (self.uid, stage.display());
        let text = format!(
            "#!/bin/sh\nexec setpriv --reuid {uid} --regid {uid} --clear-groups {stage} \"$@\"\n"
        );
        fs::write(&wrapper, text).unwrap();
        fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
        // The trial of a level would use a folder of root's.
        Sandbox::at(wrapper).exactly(Level::Namespace)
    }

    /// A folder for one run that belongs to the user.
    pub fn run_of_user(&self) -> PathBuf {
        let run = self.run();
        fs::create_dir_all(&run).unwrap();
        if root() {
            chown(&run, Some(self.uid), Some(self.uid)).unwrap();
        }
        run
    }

    /// Marks a program and what it starts, see [`Self::processes`].
    pub fn mark(&self, spec: &mut Spec) {
        spec.env.insert("MARK".into(), self.dir.display().to_string());
    }

    /// What is left of sandboxes: all of their user, where they have one to themselves, else
    /// those that bear the mark.
    pub fn processes(&self) -> Vec<String> {
        let victim = self.victim.id().to_string();
        let mark = self.dir.display().to_string();
        let ours = |entry: &fs::DirEntry| {
            let environ = || fs::read(entry.path().join("environ")).unwrap_or_default();
            entry.metadata().is_ok_and(|found| found.uid() == self.uid)
                && (root() || environ().windows(mark.len()).any(|part| part == mark.as_bytes()))
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(ours)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != victim)
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Groups of sandboxes of a shim, wherever they are mounted.
pub fn groups_of(shim: u32) -> Vec<PathBuf> {
    fn seek(at: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(name) {
                    found.push(entry.path());
                }
                seek(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    seek(Path::new("/sys/fs/cgroup"), &format!("taffrail-{shim}-"), &mut found);
    found
}

/// The mounts of this process's own view.
pub fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}
