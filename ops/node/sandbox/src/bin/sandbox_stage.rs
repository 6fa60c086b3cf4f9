//! The stages of a sandbox, and a daemon in one line: what the tests of this crate execute.

use std::path::Path;
use std::process::ExitCode;

use sandbox::{STAGE_ARG, Sandbox, Spec, stage_main};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == STAGE_ARG).is_some() {
        return stage_main(args);
    }
    match (args.next(), args.next()) {
        (Some(verb), Some(dir)) if verb == "start" => match start(Path::new(&dir)) {
            Ok(pid) => {
                println!("{pid}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("sandbox-stage start FOLDER < SPEC");
            ExitCode::FAILURE
        }
    }
}

/// Starts a program and leaves: it must go on without whoever started it.
fn start(dir: &Path) -> Result<u32, Box<dyn std::error::Error>> {
    let spec: Spec = serde_json::from_reader(std::io::stdin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Sandbox::new().start(dir, &spec))?.pid())
}
