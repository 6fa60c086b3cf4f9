//! Exclusive use of a data folder.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A data folder held by this process until dropped.
///
/// The hold is a `flock` on the file `lock`: the kernel lets go of it however the process
/// ends. The file's text only serves the error message of whoever comes second.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is in use by {holder}", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// What the holder wrote about itself: its pid, then its address.
        holder: String,
    },
    /// It cannot be made or opened.
    #[error("cannot use {} as data folder", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl DataDir {
    /// Makes the folder when absent (mode 0700) and locks it without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] when another holder lives, [`LockError::Unusable`] otherwise.
    pub fn lock(path: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
        private_dir(path).map_err(unusable)?;
        // Children run elsewhere, so a relative path would mean another folder to them.
        let path = path.canonicalize().map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // the holder's words, unless the lock is ours
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).map_err(unusable)?;
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    known => known.to_owned(),
                };
                return Err(LockError::Held { path, holder });
            }
            Err(errno) => return Err(unusable(errno.into())),
        }
        let dir = Self { path, lock };
        narrow(&dir.path).map_err(unusable)?;
        dir.write_holder(&format!("pid {}", std::process::id())).map_err(unusable)?;
        Ok(dir)
    }

    /// The folder, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds to what the next comer is told, beside the pid; usually the HTTP address.
    pub fn note_holder(&self, text: &str) {
        let line = format!("pid {}, {text}", std::process::id());
        if let Err(error) = self.write_holder(&line) {
            tracing::warn!(%error, "cannot note the holder in the lock file");
        }
    }

    fn write_holder(&self, line: &str) -> io::Result<()> {
        let mut file = &self.lock;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{line}")
    }
}

/// Makes a folder that only this user may enter; an existing one stays as it is.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes everyone else's rights away; only by the holder, before any server runs on it.
///
/// A sticky folder is shared on purpose (`/tmp` given by mistake) and stays as it is.
fn narrow(path: &Path) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 && mode & STICKY == 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Replaces a file by one of mode 0600, so that no reader sees half of it.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// 128 bits of randomness as text, for a password or token.
pub(crate) fn random_secret() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_comer_is_told_who_holds_the_folder() {
        let path = std::env::temp_dir().join(format!("taffrail-lock-{}", random_secret()));
        let held = DataDir::lock(&path).unwrap();
        held.note_holder("http://127.0.0.1:7117");

        let Err(LockError::Held { holder, .. }) = DataDir::lock(&path) else {
            panic!("locked twice");
        };
        assert_eq!(holder, format!("pid {}, http://127.0.0.1:7117", std::process::id()));

        drop(held);
        let again = DataDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(again.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir_all(&path).unwrap();
    }
}
