//! Process 1 inside: builds the root, locks itself in, starts the program, collects the dead.
//!
//! When it ends, for whatever reason, the kernel kills everything in the namespace.

use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, wait};

use super::channel::{self, Report};
use super::surroundings::Passed;
use super::{root, surroundings};
use crate::error::StartError;
use crate::lock::{self, files::View};
use crate::plan::{Layer, Plan};

pub(super) fn run() -> ExitCode {
    let stdin = stdin();
    let channel = stdin.as_fd();
    let done = start(channel).and_then(|program| collect(channel, program));
    if let Err(error) = done {
        let _ = channel::send(channel, &Report::Failed(error), &[]);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn start(channel: BorrowedFd<'_>) -> Result<Pid, StartError> {
    let (plan, mut passed) = Passed::receive(channel)?;
    let view = View::of(&plan);
    if plan.has(Layer::UtsNamespace) {
        rustix::system::sethostname(b"sandbox")
            .map_err(|error| StartError::layer("uts namespace", error))?;
    }
    if plan.has(Layer::Root) {
        root::build(&plan, passed.trees)?;
    }
    surroundings::deliver_secrets(&plan, &view)?;
    if plan.has(Layer::Root) && plan.has(Layer::ReadOnly) {
        root::seal()?;
    }
    surroundings::enter_workdir(&plan, &view)?;
    let mut command = surroundings::command(&plan, &view)?;
    let input = surroundings::input(passed.input.take())?;
    channel::send(channel, &Report::Ready, &[])
        .map_err(|error| StartError::supervisor("report", error))?;
    if !channel::told(channel) {
        return Err(StartError::supervisor("start", "the shim is gone"));
    }
    confine(&plan, &view)?;
    let spawned = command.stdin(input).process_group(0).spawn();
    let program = match spawned {
        Ok(child) => Pid::from_child(&child),
        Err(error) => return Err(surroundings::not_executed(&command, &error)),
    };
    channel::send(channel, &Report::Started, &[])
        .map_err(|error| StartError::supervisor("report", error))?;
    Ok(program)
}

/// What holds for this process and all that it starts.
fn confine(plan: &Plan, view: &View) -> Result<(), StartError> {
    if plan.has(Layer::CgroupNamespace) {
        // Its root is the group this process is in, so not before it is in its own.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|error| StartError::layer("cgroup namespace", error))?;
    }
    SigSet::empty().thread_set_mask().map_err(|error| StartError::supervisor("signals", error))?;
    lock::restrict(plan, view)?;
    if plan.has(Layer::Capabilities) {
        lock::drop_all()?;
    }
    // The program is the same user: what init keeps in memory and holds open is not for it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| StartError::layer("init", error))?;
    lock::limit(plan)
}

/// Collects until the program is gone, or the shim.
fn collect(channel: BorrowedFd<'_>, program: Pid) -> Result<(), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::supervisor("init", error);
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block().map_err(|error| failed(&error))?;
    let signals = SignalFd::with_flags(&ended, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| failed(&error))?;
    // The dead are left lying until the shim has found the program among init's children.
    if !channel::told(channel) {
        return Ok(());
    }
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == program {
                let (code, signal) = (status.exit_status(), status.terminating_signal());
                let _ = channel::send(channel, &Report::Exited { code, signal }, &[]);
                return Ok(());
            }
        }
        let mut ready = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::from_borrowed_fd(channel, PollFlags::IN),
        ];
        let _ = poll(&mut ready, None);
        let shim_gone = !ready[1].revents().is_empty();
        while let Ok(Some(_)) = signals.read_signal() {}
        if shim_gone {
            return Ok(());
        }
    }
}
