//! The stages of a sandbox and nothing else: what the tests of this crate execute.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == sandbox::STAGE_ARG) {
        return sandbox::stage_main(args);
    }
    eprintln!("sandbox-stage: to be started by the sandbox library");
    ExitCode::FAILURE
}
