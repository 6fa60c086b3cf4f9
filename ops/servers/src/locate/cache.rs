//! Bundles on disk.
//!
//! A bundle is a folder that appears by rename, complete: whatever is found under its final
//! name with a marker inside was verified when it was put there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::attempt::{Server, Source};
use super::{Located, Miss, packages, wheel};
use crate::data_dir::random_secret;

const MARKER: &str = "verified.json";

/// What the marker says, so that a start need not execute the program to know it.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    version: String,
    /// The program, relative to the bundle.
    program: PathBuf,
}

/// The best bundle that is there.
pub(super) fn find(server: Server, cache_dir: &Path) -> Result<Located, Miss> {
    let wanted: Vec<String> = match server {
        Server::Postgres => wheel::folder(server).into_iter().chain(packages::folders()).collect(),
        Server::Nats => wheel::folder(server).into_iter().collect(),
    };
    check_owner(cache_dir).map_err(Miss::fail)?;
    wanted
        .iter()
        .find_map(|folder| open(&cache_dir.join(folder)))
        .ok_or_else(|| Miss::skip(format!("nothing in {}", cache_dir.display())))
}

/// The bundle in this folder, when it is complete.
pub(super) fn open(bundle: &Path) -> Option<Located> {
    let marker = fs::read(bundle.join(MARKER)).ok()?;
    let Marker { version, program } = serde_json::from_slice(&marker).ok()?;
    let program = bundle.canonicalize().ok()?.join(program);
    let bin_dir = program.parent()?.to_owned();
    program.is_file().then_some(Located { bin_dir, program, version, source: Source::Cache })
}

/// Fills a bundle by `fill`, checks that its program runs, and puts it in place.
///
/// `fill` gets an empty folder and returns the program's path in it.
pub(super) fn install(
    server: Server,
    source: Source,
    cache_dir: &Path,
    folder: &str,
    fill: impl FnOnce(&Path) -> Result<PathBuf, String>,
) -> Result<Located, String> {
    let _held = lock(cache_dir).map_err(|error| format!("{}: {error}", cache_dir.display()))?;
    check_owner(cache_dir)?;
    let place = cache_dir.join(folder);
    // Another process may have put it there while we waited for the lock.
    if let Some(located) = open(&place) {
        return Ok(Located { source, ..located });
    }
    let draft = cache_dir.join(format!("{folder}.tmp-{}", random_secret()));
    // Open to other users: an image is often filled by root and used by somebody else.
    let filled = fs::create_dir(&draft)
        .map_err(|error| error.to_string())
        .and_then(|()| fill(&draft))
        .and_then(|program| {
            let located = super::system::checked(server, program, source)?;
            let relative =
                located.program.strip_prefix(&draft).map_err(|error| error.to_string())?;
            let marker = Marker { version: located.version, program: relative.to_owned() };
            place_bundle(&draft, &place, &marker).map_err(|error| error.to_string())
        });
    if let Err(reason) = filled {
        drop(fs::remove_dir_all(&draft));
        return Err(reason);
    }
    let located = open(&place).ok_or_else(|| format!("{} vanished", place.display()))?;
    Ok(Located { source, ..located })
}

fn place_bundle(draft: &Path, place: &Path, marker: &Marker) -> io::Result<()> {
    let text = serde_json::to_vec(marker)?;
    fs::write(draft.join(MARKER), text)?;
    if place.exists() {
        fs::remove_dir_all(place)?; // without a marker, or `open` had found it
    }
    fs::rename(draft, place)
}

/// Programs are executed from here, so nobody but this user and root may put them here.
pub(crate) fn check_owner(cache_dir: &Path) -> Result<(), String> {
    const WRITABLE_BY_ALL: u32 = 0o002;
    let Ok(found) = fs::metadata(cache_dir) else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    if (found.uid() == own || found.uid() == 0) && found.mode() & WRITABLE_BY_ALL == 0 {
        return Ok(());
    }
    Err(format!("{} can be written by other users", cache_dir.display()))
}

/// Exclusive use of the cache for one change; waits.
pub(crate) fn lock(cache_dir: &Path) -> io::Result<File> {
    fs::create_dir_all(cache_dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(cache_dir.join("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_bundle_without_marker_is_not_there() {
        let cache = std::env::temp_dir().join(format!("taffrail-cache-{}", random_secret()));
        let bundle = cache.join("nats");
        fs::create_dir_all(bundle.join("bin")).unwrap();
        fs::write(bundle.join("bin/nats-server"), "").unwrap();
        assert_eq!(open(&bundle), None);

        let marker = r#"{"version":"2.15.1","program":"bin/nats-server"}"#;
        fs::write(bundle.join(MARKER), marker).unwrap();
        let found = open(&bundle).unwrap();
        assert_eq!(found.version, "2.15.1");
        assert!(found.bin_dir.ends_with("nats/bin"));
        fs::remove_dir_all(&cache).unwrap();
    }

    #[test]
    fn a_fill_that_fails_leaves_nothing_behind() {
        let cache = std::env::temp_dir().join(format!("taffrail-cache-{}", random_secret()));
        let failed = install(Server::Nats, Source::Wheel, &cache, "nats", |draft| {
            fs::write(draft.join("half"), "").map_err(|error| error.to_string())?;
            Err("the line went dead".into())
        });
        assert_eq!(failed.unwrap_err(), "the line went dead");
        let left: Vec<_> = fs::read_dir(&cache).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["lock"]);
        fs::remove_dir_all(&cache).unwrap();
    }

    #[test]
    fn a_cache_that_everybody_may_write_is_not_trusted() {
        let cache = std::env::temp_dir().join(format!("taffrail-cache-{}", random_secret()));
        assert_eq!(check_owner(&cache), Ok(()), "absent is fine");
        fs::create_dir_all(&cache).unwrap();
        let allow = |mode| fs::set_permissions(&cache, Permissions::from_mode(mode)).unwrap();
        allow(0o755);
        assert_eq!(check_owner(&cache), Ok(()));
        allow(0o777);
        assert!(!find(Server::Nats, &cache).unwrap_err().skipped);
        fs::remove_dir_all(&cache).unwrap();
    }
}
