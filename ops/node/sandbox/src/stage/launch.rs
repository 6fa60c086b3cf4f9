//! The steps from a plan to a running program, as the shim takes them.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use rustix::process::{geteuid, getpid};

use super::channel::{self, Report};
use super::root;
use super::supervise::now_ms;
use super::surroundings::{Parcel, in_memory};
use crate::cgroup::{self, Group};
use crate::error::StartError;
use crate::lock::files::View;
use crate::plan::{Layer, Plan};
use crate::proc::{self, Process};
use crate::spec::{Level, Workspace};

/// Longest way from the shim to the program.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Users of sandboxes: no system hands these numbers out. The first half belongs to workspace
/// folders, by inode, so that a program finds its files again; the second to processes.
const USERS: std::ops::Range<u32> = 0x7000_0000..0x7200_0000;
const USERS_OF_PROCESSES: u32 = 0x7100_0000;

/// Signals are read from a descriptor instead of interrupting.
pub(super) fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    let all = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];
    all.into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Chooses the user, and makes the folders of a sandbox without a root of its own.
pub(super) fn prepare(plan: &mut Plan) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::supervisor("folders", error);
    let view = View::of(plan);
    if !plan.has(Layer::Root) {
        for folder in [&view.secrets, &view.tmp] {
            fs::create_dir(folder).map_err(failed)?;
        }
        if plan.spec.workspace == Workspace::Tmpfs {
            fs::create_dir(&view.workspace).map_err(failed)?;
        }
    }
    if geteuid().is_root() && plan.has(Layer::UserMapping) {
        plan.outer_uid = Some(USERS_OF_PROCESSES + getpid().as_raw_pid().cast_unsigned());
        if let Workspace::Folder(folder) = &plan.spec.workspace {
            let mount = |error: io::Error| StartError::Mount {
                path: folder.clone(),
                reason: error.to_string(),
            };
            let found = fs::symlink_metadata(folder).map_err(mount)?;
            if !found.is_dir() {
                return Err(mount(io::ErrorKind::NotADirectory.into()));
            }
            let uid = match found.uid() {
                // Fresh: from now on it belongs to this workspace's own user.
                0 => {
                    let number = (found.ino() ^ (found.ino() >> 24)) & 0x00ff_ffff;
                    let uid = USERS.start + u32::try_from(number).unwrap_or(0);
                    lchown(folder, Some(uid), Some(uid)).map_err(mount)?;
                    uid
                }
                owner => owner,
            };
            plan.outer_uid = Some(uid);
        }
    }
    if let (false, Some(uid)) = (plan.has(Layer::Root), plan.outer_uid) {
        // Passed through, never listed.
        fs::set_permissions(&plan.dir, Permissions::from_mode(0o711)).map_err(failed)?;
        lchown(&view.tmp, Some(uid), Some(uid)).map_err(failed)?;
        lchown(&view.secrets, Some(uid), Some(uid)).map_err(failed)?;
        if plan.spec.workspace == Workspace::Tmpfs {
            lchown(&view.workspace, Some(uid), Some(uid)).map_err(failed)?;
        }
    }
    Ok(())
}

/// As root the mounts are copied here, since the user inside may not reach their paths.
pub(super) fn open_trees(plan: &mut Plan) -> Result<Vec<OwnedFd>, StartError> {
    if !plan.has(Layer::Root) || !geteuid().is_root() {
        return Ok(Vec::new());
    }
    let binds = root::binds(plan)?;
    let trees = root::open(&binds)?;
    plan.binds = binds;
    plan.opened = true;
    Ok(trees)
}

pub(super) fn make_group(plan: &mut Plan) -> Result<Group, StartError> {
    if !plan.has(Layer::Group) {
        return Ok(Group::default());
    }
    let name = format!("taffrail-{}-{}", getpid().as_raw_pid(), now_ms());
    let group = Group::create(&cgroup::places(), &name, &plan.spec.limits)
        .map_err(|error| StartError::layer("cgroup", error))?;
    plan.grouped = group.holds("memory") && group.holds("pids");
    Ok(group)
}

pub(super) fn namespaces(plan: &Plan) -> i32 {
    if plan.level != Level::Namespace {
        return 0;
    }
    let mut flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    for (layer, flag) in [
        (Layer::PidNamespace, CloneFlags::CLONE_NEWPID),
        (Layer::NetNamespace, CloneFlags::CLONE_NEWNET),
        (Layer::IpcNamespace, CloneFlags::CLONE_NEWIPC),
        (Layer::UtsNamespace, CloneFlags::CLONE_NEWUTS),
    ] {
        if plan.has(layer) {
            flags |= flag;
        }
    }
    flags.bits()
}

/// The plan and the program's input travel as memory, the mounts as descriptors.
pub(super) fn pass(
    channel: &OwnedFd,
    plan: &Plan,
    input: Option<&[u8]>,
    trees: &[OwnedFd],
) -> io::Result<()> {
    let plan = in_memory("plan", &serde_json::to_vec(plan)?)?;
    let input = input.map(|bytes| in_memory("input", bytes)).transpose()?;
    let mut fds = vec![plan.as_fd()];
    fds.extend(input.as_ref().map(AsFd::as_fd));
    fds.extend(trees.iter().map(AsFd::as_fd));
    channel::send(channel, &Parcel { has_input: input.is_some() }, &fds)
}

/// Brings the stages on their way into the group, and waits until the program was executed; then
/// the process to wait for and the program.
pub(super) fn await_program(
    channel: &OwnedFd,
    plan: &Plan,
    group: &Group,
    entering: i32,
) -> Result<(Process, Process), StartError> {
    let failed = |error: io::Error| StartError::supervisor("start", error);
    let until = Instant::now() + START_TIMEOUT;
    let (mut init, mut ready, mut started) = (None, false, false);
    // The kernel takes its time over the first move (it waits for all processors to be seen
    // idle), in which the stages go on; the second one is quick.
    let first = std::thread::spawn({
        let group = group.clone();
        move || group.add(entering)
    });
    let mut first = Some(first);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed() + 1, tv_nsec: 0 };
        let mut polled = [PollFd::new(channel, PollFlags::IN)];
        let _ = poll(&mut polled, Some(&timeout));
        if polled[0].revents().is_empty() {
            continue;
        }
        match channel::receive::<Report>(channel, RecvFlags::DONTWAIT).map_err(failed)? {
            Some((Report::Init(pid), _)) => init = Some(pid.cast_signed()),
            Some((Report::Ready, _)) => ready = true,
            Some((Report::Started, _)) => started = true,
            Some((Report::Failed(error), _)) => return Err(error),
            Some((Report::Exited { .. }, _)) => {}
            None if started && plan.level != Level::Namespace => {
                // Executed: the channel was closed by it. It may be dead already, but it stays
                // until it is collected.
                let program = Process::of(entering).map_err(failed)?;
                return Ok((program, program));
            }
            None => return Err(StartError::supervisor("start", "a stage died without a word")),
        }
        // The word of init may come before that of `enter` on who init is: nothing is told to go
        // on before the process that will become the program, or make it, is in the group.
        let inside = if plan.level == Level::Namespace { init } else { Some(entering) };
        if let (true, Some(inside)) = (ready, inside) {
            ready = false;
            // How the first move went does not matter: `enter` may have been gone by then.
            let _ = first.take().map(std::thread::JoinHandle::join);
            group.add(inside).map_err(|error| StartError::layer("cgroup", error))?;
            channel::send(channel, &(), &[]).map_err(failed)?;
        }
        if let (true, Some(init), Level::Namespace) = (started, init, plan.level) {
            let root = Process::of(init).map_err(failed)?;
            // Init leaves the dead lying until it is told to go on, so the program is there.
            let program = proc::children(init).first().copied().unwrap_or(init);
            let program = Process::of(program).unwrap_or(root);
            channel::send(channel, &(), &[]).map_err(failed)?;
            return Ok((root, program));
        }
    }
}
