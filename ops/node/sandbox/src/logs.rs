//! What a program wrote: segments named by the offset they start at.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One of a program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it starts, bytes since the program started.
    pub offset: u64,
    /// Bytes between the asked offset and this one that are no longer kept.
    pub skipped: u64,
    /// Never empty.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// The offset to ask for next.
    pub fn next(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

pub(crate) fn segment(dir: &Path, stream: Stream, start: u64) -> PathBuf {
    dir.join(format!("{}.{start:020}.log", stream.name()))
}

/// Starts of the segments that are kept, oldest first.
pub(crate) fn segments(dir: &Path, stream: Stream) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let start = name.strip_prefix(stream.name()).and_then(|rest| rest.strip_prefix('.'));
        let start = start.and_then(|rest| rest.strip_suffix(".log"));
        starts.extend(start.and_then(|start| start.parse::<u64>().ok()));
    }
    starts.sort_unstable();
    Ok(starts)
}

/// Reads from an offset, at most `most` bytes; none when there is nothing yet.
///
/// # Errors
/// Of the file system.
pub fn read_from(
    dir: &Path,
    stream: Stream,
    offset: u64,
    most: usize,
) -> io::Result<Option<Chunk>> {
    let starts = segments(dir, stream)?;
    // The segment that holds the offset, else the oldest that is left.
    let at = starts.iter().rposition(|start| *start <= offset).unwrap_or(0);
    for start in starts.get(at..).unwrap_or_default() {
        let from = offset.max(*start);
        let file = match File::open(segment(dir, stream, *start)) {
            Ok(file) => file,
            // Rotated away since the listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; most.max(1)];
        let read = file.read_at(&mut bytes, from - start)?;
        if read > 0 {
            bytes.truncate(read);
            return Ok(Some(Chunk { offset: from, skipped: from - offset, bytes }));
        }
    }
    Ok(None)
}
