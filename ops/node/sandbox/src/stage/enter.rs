//! Makes the namespaces and starts `init` in them; or, without namespaces, becomes the program.

use std::convert::Infallible;
use std::fs;
use std::io::stdin;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::CloneFlags;
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::channel::{self, Go, Report};
use super::surroundings::Passed;
use super::{OWN_EXE, STAGE_ARG, surroundings};
use crate::error::StartError;
use crate::lock::{self, files::View};
use crate::plan::Layer;

/// The user inside: not 0, so that executing a file never brings capabilities back.
pub(super) const INNER_UID: u32 = 1000;

pub(super) fn run() -> ExitCode {
    // The channel must survive the program's standard input taking its place.
    let channel = match rustix::io::fcntl_dupfd_cloexec(stdin().as_fd(), 3) {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!("no channel: {error}");
            return ExitCode::FAILURE;
        }
    };
    match enter(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = channel::send(&channel, &Report::Failed(error), &[]);
            ExitCode::FAILURE
        }
    }
}

fn enter(channel: &OwnedFd) -> Result<(), StartError> {
    let received = channel::receive::<Go>(channel, RecvFlags::empty());
    let Ok(Some((go, _))) = received else {
        return Err(StartError::supervisor("no instructions", "the shim is gone"));
    };
    if go.namespaces == 0 {
        return become_program(channel, &go).map(|never| match never {});
    }
    if let Some(uid) = go.outer_uid {
        become_user(uid)?;
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let flags = CloneFlags::from_bits_truncate(go.namespaces);
    nix::sched::unshare(flags).map_err(|error| StartError::layer("namespaces", error))?;
    // A change of user made this process unreadable for its own user, and with it the maps.
    set_dumpable_behavior(DumpableBehavior::Dumpable)
        .map_err(|error| StartError::layer("user mapping", error))?;
    let inner = if go.map_root { 0 } else { INNER_UID };
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| StartError::layer("user mapping", format!("{file}: {error}")))
    };
    map("setgroups", "deny".into())?;
    map("uid_map", format!("{inner} {uid} 1", uid = uid.as_raw()))?;
    map("gid_map", format!("{inner} {gid} 1", gid = gid.as_raw()))?;
    // To mount, to name the host, to drop the bounding set: init gives them up.
    let wanted = CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP;
    lock::keep(if go.keep_capabilities { CapabilitySet::all() } else { wanted })?;

    let mut command = Command::new(OWN_EXE);
    command.args([STAGE_ARG, "init"]).env_clear().stdin(Stdio::inherit());
    let init = command.spawn().map_err(|error| StartError::layer("process namespace", error))?;
    channel::send(channel, &Report::Init(init.id()), &[])
        .map_err(|error| StartError::supervisor("report", error))
}

/// Level `process` or `none`: no other stage follows.
fn become_program(channel: &OwnedFd, go: &Go) -> Result<Infallible, StartError> {
    let (plan, mut passed) = Passed::receive(channel)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| StartError::supervisor("death signal", error))?;
    let view = View::of(&plan);
    surroundings::deliver_secrets(&plan, &view)?;
    surroundings::enter_workdir(&plan, &view)?;
    let mut command = surroundings::command(&plan, &view)?;
    let input = surroundings::input(passed.input.take())?;
    channel::send(channel, &Report::Ready, &[])
        .map_err(|error| StartError::supervisor("report", error))?;
    if !channel::told(channel) {
        return Err(StartError::supervisor("start", "the shim is gone"));
    }
    // Locked in before the change of user: rules need paths this user may not reach, and both
    // locks hold for any user.
    lock::restrict(&plan, &view)?;
    if let Some(uid) = go.outer_uid {
        become_user(uid)?;
        // A change of user clears the death signal (prctl(2)).
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| StartError::supervisor("death signal", error))?;
    }
    // A path this user may not reach would otherwise be found out by the program.
    if let Err(error) = fs::metadata(&view.workspace) {
        let reason = format!("not reachable for the user of the sandbox: {error}");
        return Err(StartError::Workdir { path: view.workspace.display().to_string(), reason });
    }
    lock::limit(&plan)?;
    if plan.has(Layer::Capabilities) {
        lock::drop_all()?;
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(|error| StartError::supervisor("signals", error))?;
    // The channel closes when the program is executed; without this word before, it closed
    // because this stage died.
    channel::send(channel, &Report::Started, &[])
        .map_err(|error| StartError::supervisor("report", error))?;
    let error = command.stdin(input).exec();
    Err(surroundings::not_executed(&command, &error))
}

/// Becomes a user nobody else is, without groups.
fn become_user(uid: u32) -> Result<(), StartError> {
    let failed = |error| StartError::layer("user mapping", error);
    let gid = rustix::process::Gid::from_raw(uid);
    let uid = rustix::process::Uid::from_raw(uid);
    set_thread_groups(&[]).map_err(failed)?;
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)
}
