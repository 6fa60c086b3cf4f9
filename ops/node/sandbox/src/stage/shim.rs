//! The supervisor of one program, outside of its sandbox.
//!
//! In a session of its own and answering to nobody: the daemon may go and come back. If the shim
//! itself dies, the program dies with it, since nobody would hold it to its limits.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::process::ExitCode;

use rustix::stdio::{dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::supervise::Supervision;
use crate::error::StartError;
use crate::exit::{EXIT_FILE, STATE_FILE, State, write_whole};
use crate::plan::Plan;

/// What the daemon is told, as one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Started(State),
    Failed(StartError),
}

pub(super) fn run() -> ExitCode {
    // Already a session leader only when started by hand.
    let _ = rustix::process::setsid();
    close_inherited();
    let started = read_plan().and_then(|(plan, input)| {
        let state_file = plan.dir.join(STATE_FILE);
        let exit_file = plan.dir.join(EXIT_FILE);
        let (supervision, state) = Supervision::start(plan, input)?;
        if let Err(error) = write_whole(&state_file, &state, false) {
            supervision.abandon();
            return Err(StartError::supervisor(STATE_FILE, error));
        }
        Ok((supervision, state, exit_file))
    });
    let (supervision, state, exit_file) = match started {
        Ok(started) => started,
        Err(error) => {
            answer(&Answer::Failed(error));
            return ExitCode::FAILURE;
        }
    };
    answer(&Answer::Started(state));
    release_daemon();
    let exit = supervision.run();
    match write_whole(&exit_file, &exit, true) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", exit_file.display());
            ExitCode::FAILURE
        }
    }
}

/// The plan is one line; what follows is the program's standard input.
fn read_plan() -> Result<(Plan, Option<Vec<u8>>), StartError> {
    let failed = |error: std::io::Error| StartError::supervisor("plan", error);
    let mut bytes = Vec::new();
    stdin().read_to_end(&mut bytes).map_err(failed)?;
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let plan = serde_json::from_slice(&bytes[..at]).map_err(|error| failed(error.into()))?;
    let input = bytes.get(at + 1..).unwrap_or_default();
    Ok((plan, (!input.is_empty()).then(|| input.to_vec())))
}

fn answer(answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    // A daemon that is gone reads state.json when it comes back.
    let _ = stdout().write_all(&line).and_then(|()| stdout().flush());
}

/// Lets go of the daemon's pipes.
fn release_daemon() {
    if let Ok(nowhere) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&nowhere);
        let _ = dup2_stdout(&nowhere);
    }
}

/// A descriptor somebody forgot to mark would reach the program.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    // One of them was the listing itself, which is closed by now.
    for fd in open {
        let _ = nix::unistd::close(fd);
    }
}
