//! A command that ends with the agent that started it, also when that is killed outright.
//!
//! The death signal must be asked for between fork and exec; our own binary, executed
//! there, does it in safe code (`pre_exec` is not).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::fail::Failure;

/// The hidden verb.
pub const VERB: &str = "__exec";

/// `taffrail __exec PARENT -- COMMAND…`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The agent's process
    parent: i32,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a command line is put behind to end with this process.
pub fn launcher() -> Vec<OsString> {
    match std::env::current_exe() {
        Ok(own) => {
            vec![own.into(), VERB.into(), std::process::id().to_string().into(), "--".into()]
        }
        // Without it a killed agent's command runs on; its answer is refused all the same.
        Err(_) => Vec::new(),
    }
}

/// Becomes the command; returns only when that is not possible.
pub fn run(args: ExecArgs) -> Failure {
    let failed = |what: &str, source: std::io::Error| Failure::Io { what: what.into(), source };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return failed("no death signal", error.into());
    }
    if Pid::from_raw(args.parent) != getppid() {
        return Failure::Usage("the agent is already gone".into());
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::Usage("a command is missing".into());
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    failed(&format!("cannot execute {}", program.display()), error)
}
