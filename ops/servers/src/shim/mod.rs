//! The moment between fork and exec, as a program.
//!
//! What a child needs before it becomes a server (death signal, another user) is usually
//! done in `pre_exec`, which is unsafe. Our own binary, re-executed, does it in safe code.

mod root;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, geteuid, getppid, set_parent_process_death_signal};

use crate::process::Kind;

/// First argument of a process that is to become a server.
pub const SHIM_ARG: &str = "__child";

/// Becomes a server: `taffrail __child KIND PARENT OWNED-FOLDER -- PROGRAM ARGS…`.
///
/// Takes the arguments after [`SHIM_ARG`]. It must be the first thing in `main`, before any
/// thread exists, since a process with threads may not enter a user namespace:
///
/// ```no_run
/// let mut args = std::env::args_os().skip(1).peekable();
/// if args.next_if(|arg| arg == servers::SHIM_ARG).is_some() {
///     eprintln!("{:#}", servers::run_shim(args));
///     std::process::exit(71);
/// }
/// ```
///
/// It returns only on failure; the text belongs on stderr, which is the server's log.
pub fn run_shim(args: impl Iterator<Item = OsString>) -> anyhow::Error {
    match become_server(args) {
        Ok(never) => match never {},
        Err(error) => error.context("cannot become a server"),
    }
}

fn become_server(args: impl Iterator<Item = OsString>) -> anyhow::Result<std::convert::Infallible> {
    let call = Call::parse(args)?;
    if call.kind == Kind::Postgres && geteuid().is_root() {
        root::leave(&call.owned, &call.program)?;
    }
    // Only now: a change of user clears the death signal (prctl(2)).
    set_parent_process_death_signal(Some(call.kind.stop_signal())).context("no death signal")?;
    if getppid() != Some(call.parent) {
        bail!("the supervisor {} is already gone", call.parent);
    }
    let error = Command::new(&call.program).args(&call.args).exec();
    Err(error).with_context(|| format!("cannot execute {}", call.program.display()))
}

#[derive(Debug)]
struct Call {
    kind: Kind,
    parent: Pid,
    owned: PathBuf,
    program: PathBuf,
    args: Vec<OsString>,
}

impl Call {
    fn parse(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut next = |what: &str| args.next().ok_or_else(|| anyhow!("argument missing: {what}"));
        let kind = next("kind")?;
        let kind =
            kind.to_str().and_then(Kind::from_name).ok_or_else(|| anyhow!("kind {kind:?}"))?;
        let parent = next("parent")?;
        let parent = parent
            .to_str()
            .and_then(|text| text.parse().ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("parent {parent:?}"))?;
        let owned = next("folder")?.into();
        if next("--")? != "--" {
            bail!("`--` expected before the program");
        }
        let program = next("program")?.into();
        Ok(Self { kind, parent, owned, program, args: args.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Call> {
        Call::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_call_names_kind_parent_folder_and_program() {
        let call = parse("postgres 42 /data/pg -- /bin/postgres -D /data/pg").unwrap();
        assert_eq!(call.kind, Kind::Postgres);
        assert_eq!(call.parent.as_raw_nonzero().get(), 42);
        assert_eq!(call.program, PathBuf::from("/bin/postgres"));
        assert_eq!(call.args, ["-D", "/data/pg"]);
    }

    #[test]
    fn a_call_by_hand_is_refused_with_a_reason() {
        assert!(parse("mysql 42 /data -- /bin/x").unwrap_err().to_string().contains("mysql"));
        assert!(parse("nats 0 /data -- /bin/x").unwrap_err().to_string().contains("parent"));
        assert!(parse("nats 42 /data").unwrap_err().to_string().contains("--"));
    }

    #[test]
    fn a_shim_whose_parent_is_gone_does_not_start_the_server() {
        let error = run_shim("nats 2147483000 /data -- /bin/true".split(' ').map(OsString::from));
        assert!(format!("{error:#}").contains("already gone"), "{error:#}");
        set_parent_process_death_signal(None).unwrap();
    }
}
