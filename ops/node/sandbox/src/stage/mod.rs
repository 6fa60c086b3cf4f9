//! The processes between the daemon and the program.
//!
//! ```text
//! daemon ── shim ── enter ── init ── program
//! ```
//!
//! All are this same binary, executed anew: what is usually done between fork and exec (unsafe)
//! is done at the start of a program. `shim` supervises from outside and lives as long as the
//! program; `enter` makes the namespaces and is gone at once; `init` is process 1 inside: it
//! builds the root, locks itself in, starts the program and collects the dead. At level
//! `process` there is no `init`: `enter` locks itself in and becomes the program.

mod channel;
mod enter;
mod init;
mod launch;
mod output;
mod root;
pub(crate) mod shim;
mod supervise;
mod surroundings;

use std::ffi::OsString;
use std::process::ExitCode;

/// First argument of a process that is a stage of a sandbox.
pub const STAGE_ARG: &str = "__sandbox";

/// Runs a stage: `taffrail __sandbox shim|enter|init`.
///
/// Takes the arguments after [`STAGE_ARG`]. It must be the first thing in `main`, before any
/// thread exists, since a process with threads may not enter a user namespace:
///
/// ```no_run
/// let mut args = std::env::args_os().skip(1);
/// if args.next().is_some_and(|arg| arg == sandbox::STAGE_ARG) {
///     std::process::exit(if sandbox::stage_main(args) == std::process::ExitCode::SUCCESS { 0 } else { 1 });
/// }
/// ```
pub fn stage_main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    match args.next().and_then(|stage| stage.into_string().ok()).as_deref() {
        Some("shim") => shim::run(),
        Some("enter") => enter::run(),
        Some("init") => init::run(),
        _ => {
            eprintln!("{STAGE_ARG} is for internal use");
            ExitCode::FAILURE
        }
    }
}

/// The own binary, as the kernel has it open: also after it was replaced on disk, and where the
/// user outside may not reach its path.
pub(crate) const OWN_EXE: &str = "/proc/self/exe";
