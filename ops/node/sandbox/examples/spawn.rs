//! What starting in isolation costs: `spawn [STAGE-BINARY]`, by default this example itself.

use std::process::ExitCode;

use sandbox::{STAGE_ARG, Sandbox, stage_main};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == STAGE_ARG).is_some() {
        return stage_main(args);
    }
    let sandbox = args.next().map_or_else(Sandbox::new, Sandbox::at);
    let dir = std::env::temp_dir().join(format!("sandbox-spawn-{}", std::process::id()));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let measured = runtime.block_on(sandbox.measure(&dir, 200, 50));
    let _ = std::fs::remove_dir_all(dir);
    match measured {
        Ok(figures) => {
            println!("{figures:#?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
