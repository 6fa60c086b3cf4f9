//! Programs that are on the machine already: named by the caller, or installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::attempt::{Server, Source};
use super::{Located, Miss, run};
use crate::Options;

/// A loaded machine may need a while to page in a server of 40 MB.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// What the caller named.
pub(super) fn given(server: Server, options: &Options) -> Result<Located, Miss> {
    let (variable, named) = match server {
        Server::Postgres => (
            "TAFFRAIL_POSTGRES_BIN_DIR",
            options.postgres_bin_dir.as_ref().map(|folder| folder.join("postgres")),
        ),
        Server::Nats => ("TAFFRAIL_NATS_SERVER_BIN", options.nats_server_bin.clone()),
    };
    let program = named.ok_or_else(|| Miss::skip(format!("{variable} is not set")))?;
    // Children run in folders of their own, so a relative path would not be found there.
    let program = program
        .canonicalize()
        .map_err(|error| Miss::fail(format!("{variable}: {}: {error}", program.display())))?;
    checked(server, program, Source::Given)
        .map_err(|reason| Miss::fail(format!("{variable}: {reason}")))
}

/// The newest usable installation.
pub(super) fn find(server: Server) -> Result<Located, Miss> {
    let candidates = candidates(server);
    if candidates.is_empty() {
        return Err(Miss::skip(match server {
            Server::Postgres => "not in PATH nor in /usr/lib/postgresql",
            Server::Nats => "not in PATH",
        }));
    }
    let mut reasons = Vec::new();
    let mut best: Option<Located> = None;
    for program in candidates {
        match checked(server, program, Source::System) {
            Ok(found) if best.as_ref().is_none_or(|best| newer(&found, best)) => best = Some(found),
            Ok(_) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    best.ok_or_else(|| Miss::fail(reasons.join("; ")))
}

/// The program, if it runs, is new enough and has the tools we need beside it.
pub(super) fn checked(server: Server, program: PathBuf, source: Source) -> Result<Located, String> {
    let version = version_of(&program)?;
    let minimum = match server {
        Server::Postgres => (15, 0), // NULLS NOT DISTINCT, MERGE
        Server::Nats => (2, 11),     // per-message TTL, consumer pause
    };
    if parts(&version) < Some(minimum) {
        let (major, minor) = minimum;
        return Err(format!(
            "{} is {version}, at least {major}.{minor} is needed",
            program.display()
        ));
    }
    let bin_dir = program.parent().unwrap_or(Path::new("/")).to_owned();
    if server == Server::Postgres {
        version_of(&bin_dir.join("initdb"))?;
    }
    Ok(Located { bin_dir, program, version, source })
}

fn candidates(server: Server) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    if server == Server::Postgres {
        // Debian keeps the server out of PATH, one folder per major version.
        let majors = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        folders.extend(majors.map(|major| major.path().join("bin")));
    }
    let mut found: Vec<PathBuf> = folders
        .into_iter()
        // Resolved, since `initdb` and the share folder lie beside the real file.
        .filter_map(|folder| folder.join(server.program()).canonicalize().ok())
        .filter(|program| program.is_file())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn version_of(program: &Path) -> Result<String, String> {
    let text = run::output(Command::new(program).arg("--version"), VERSION_LIMIT)?;
    parse_version(&text)
        .ok_or_else(|| format!("{} tells no version: {}", program.display(), text.trim()))
}

/// The first word that is a dotted number, with or without a leading `v`.
fn parse_version(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        let number: String =
            word.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
        let number = number.trim_end_matches('.');
        parts(number).map(|_| number.to_owned())
    })
}

/// Major and minor.
fn parts(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((major, minor))
}

fn newer(found: &Located, best: &Located) -> bool {
    parts(&found.version) > parts(&best.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_servers_print() {
        let read = |text| parse_version(text).unwrap();
        assert_eq!(read("postgres (PostgreSQL) 18.4\n"), "18.4");
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), "15.18");
        assert_eq!(read("postgres (PostgreSQL) 19beta1"), "19");
        assert_eq!(read("nats-server: v2.15.1"), "2.15.1");
        assert_eq!(parse_version("nats-server: unknown"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parts("2.9.25") < Some((2, 11)));
        assert!(parts("2.11.0") >= Some((2, 11)));
        assert!(parts("18.4") > parts("9.6"));
        assert!(parts("none") < Some((0, 0)));
    }

    #[test]
    fn a_named_program_that_is_absent_is_a_failure() {
        let mut options = Options::new("shim");
        assert!(given(Server::Nats, &options).unwrap_err().skipped);
        options.nats_server_bin = Some("/no/such/nats-server".into());
        let miss = given(Server::Nats, &options).unwrap_err();
        assert!(!miss.skipped);
        assert!(miss.reason.starts_with("TAFFRAIL_NATS_SERVER_BIN: /no/such"), "{}", miss.reason);
    }
}
