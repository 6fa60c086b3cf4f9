//! What a program finds: environment, working directory, secrets, standard input.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::RecvFlags;

use super::channel;
use crate::error::StartError;
use crate::lock::files::View;
use crate::plan::{Layer, Plan};

/// Where programs are looked for when the environment does not say.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the shim passes besides the instructions.
pub(super) struct Passed {
    pub input: Option<OwnedFd>,
    pub trees: Vec<OwnedFd>,
}

/// Says which descriptors follow.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Parcel {
    pub has_input: bool,
}

impl Passed {
    /// Takes the plan, the program's input and the mounts from the channel.
    pub fn receive(from: impl AsFd) -> Result<(Plan, Self), StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::supervisor("plan", error);
        let received = channel::receive::<Parcel>(from, RecvFlags::empty());
        let Some((parcel, fds)) = received.map_err(|error| failed(&error))? else {
            return Err(failed(&"the shim is gone"));
        };
        let mut fds = fds.into_iter();
        let plan = fds.next().ok_or_else(|| failed(&"missing"))?;
        let mut text = String::new();
        File::from(plan).read_to_string(&mut text).map_err(|error| failed(&error))?;
        let plan = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        let input = if parcel.has_input { fds.next() } else { None };
        Ok((plan, Self { input, trees: fds.collect() }))
    }
}

/// Bytes in memory, to be passed on: nothing of it is in any argument or environment.
pub(super) fn in_memory(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Writes the secrets; without an own root they are on disk and the shim removes them.
pub(super) fn deliver_secrets(plan: &Plan, view: &View) -> Result<(), StartError> {
    let failed = |error: std::io::Error| StartError::supervisor("secrets", error);
    for (name, secret) in &plan.spec.secrets {
        let path = view.secrets.join(name);
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o400).open(&path).map_err(failed)?;
        file.write_all(secret.0.as_bytes()).map_err(failed)?;
        if !plan.has(Layer::Root)
            && let Some(uid) = plan.outer_uid
        {
            lchown(&path, Some(uid), Some(uid)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Goes where the program is to start.
pub(super) fn enter_workdir(plan: &Plan, view: &View) -> Result<(), StartError> {
    let workdir = workdir(plan, view);
    std::env::set_current_dir(&workdir).map_err(|error| StartError::Workdir {
        path: workdir.display().to_string(),
        reason: error.to_string(),
    })
}

/// Without an own root `/workspace` means the workspace, wherever it is.
fn workdir(plan: &Plan, view: &View) -> PathBuf {
    let workdir = Path::new(plan.spec.workdir());
    match workdir.strip_prefix(crate::spec::WORKSPACE) {
        Ok(below) if below.as_os_str().is_empty() => view.workspace.clone(),
        Ok(below) => view.workspace.join(below),
        Err(_) => workdir.to_owned(),
    }
}

/// The program with its arguments and environment, found but not yet executed.
pub(super) fn command(plan: &Plan, view: &View) -> Result<Command, StartError> {
    let spec = &plan.spec;
    let [name, args @ ..] = spec.command.as_slice() else {
        return Err(StartError::Invalid { field: "command".into(), reason: "is empty".into() });
    };
    let path = spec.env.get("PATH").map_or(PATH, String::as_str);
    let mut command = Command::new(find(name, path)?);
    command.args(args).env_clear();
    command.env("PATH", path).env("HOME", &view.workspace).env("TMPDIR", &view.tmp);
    command.env("TAFFRAIL_WORKSPACE", &view.workspace).env("TAFFRAIL_SECRETS", &view.secrets);
    if let Some(sockets) = &view.sockets {
        command.env("TAFFRAIL_SOCKETS", sockets);
    }
    command.envs(&spec.env);
    Ok(command)
}

fn find(name: &str, path: &str) -> Result<PathBuf, StartError> {
    let missing = || StartError::Missing { program: name.into() };
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut refused = None;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let candidate = Path::new(folder).join(name);
        match fs::metadata(&candidate) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(_) => refused = Some(candidate),
            Err(_) => {}
        }
    }
    Err(refused.map_or_else(missing, |candidate| StartError::NotExecutable {
        program: candidate.display().to_string(),
        reason: "not an executable file".into(),
    }))
}

/// Standard input: what was passed, else nothing.
pub(super) fn input(passed: Option<OwnedFd>) -> Result<Stdio, StartError> {
    match passed {
        Some(input) => Ok(Stdio::from(input)),
        // Opened here, where /dev/null may still be opened for certain.
        None => File::open("/dev/null")
            .map(Stdio::from)
            .map_err(|error| StartError::supervisor("/dev/null", error)),
    }
}

/// Why an exec failed.
pub(super) fn not_executed(command: &Command, error: &std::io::Error) -> StartError {
    let program = command.get_program().to_string_lossy().into_owned();
    // A script whose interpreter is missing is reported as missing too, though it is there.
    if error.kind() == ErrorKind::NotFound && !Path::new(&program).exists() {
        return StartError::Missing { program };
    }
    StartError::NotExecutable { program, reason: error.to_string() }
}
