//! The file a child writes to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// At a start a larger log becomes `<name>.old`, replacing the one before.
const LARGE: u64 = 16 << 20;

/// A log, and where in it the present child began.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the log for a child about to start.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, File)> {
        if fs::metadata(path).is_ok_and(|found| found.len() > LARGE) {
            fs::rename(path, path.with_extension("log.old"))?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let start = file.metadata()?.len();
        Ok((Self { path: path.to_owned(), start }, file))
    }

    /// The last lines the present child wrote; empty when there are none.
    pub(crate) fn tail(&self) -> String {
        const BYTES: u64 = 4096;
        const LINES: usize = 12;
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.start.max(end.saturating_sub(BYTES))))?;
            let mut bytes = Vec::new();
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
