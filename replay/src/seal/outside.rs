//! Where seals are published outside the database, so that whoever can change it cannot
//! change what it said before.

use std::io::{BufRead, BufReader, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use commands::Boxed;

use super::record::Seal;

/// The file in the data folder that seals are appended to, one JSON document per line.
pub const FILE: &str = "seals.ndjson";

/// A place outside the database where seals are kept.
pub trait Outside: Send + Sync + 'static {
    /// Names it in messages.
    fn name(&self) -> &'static str;

    /// The number of the last seal there; 0 when there is none.
    fn last(&self) -> Boxed<Result<u64, OutsideError>>;

    /// The seals behind a number, in order.
    fn after(&self, number: u64) -> Boxed<Result<Vec<Seal>, OutsideError>>;

    /// Adds seals behind those that are there; durable when it returns.
    fn publish(&self, seals: Vec<Seal>) -> Boxed<Result<(), OutsideError>>;
}

/// Why a place outside could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct OutsideError {
    /// Which.
    pub place: String,
    /// What was said.
    pub reason: String,
}

/// The file.
#[derive(Debug, Clone)]
pub struct SealFile {
    path: PathBuf,
}

impl SealFile {
    /// The file of a data folder.
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// A file that somebody keeps elsewhere.
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    fn failed(&self, reason: impl ToString) -> OutsideError {
        OutsideError { place: self.path.display().to_string(), reason: reason.to_string() }
    }

    /// All seals in it. A last line without its line feed was cut by a crash and does not
    /// count; anything else that is no seal is an error.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no seal.
    pub fn read(&self) -> Result<Vec<Seal>, OutsideError> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let (mut seals, mut line) = (Vec::new(), Vec::new());
        let mut file = BufReader::new(file);
        loop {
            line.clear();
            file.read_until(b'\n', &mut line).map_err(|error| self.failed(error))?;
            if line.last() != Some(&b'\n') {
                return Ok(seals);
            }
            let number = seals.len() + 1;
            let seal = serde_json::from_slice(&line)
                .map_err(|error| self.failed(format!("line {number} is no seal: {error}")))?;
            seals.push(seal);
        }
    }

    /// The seals behind a number: read from the end on, because the file grows for years.
    fn tail(&self, number: u64) -> Result<Vec<Seal>, OutsideError> {
        let mut window: u64 = 64 << 10;
        loop {
            let (lines, whole) = match self.end(window) {
                Ok(end) => end,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(self.failed(error)),
            };
            let mut seals: Vec<Seal> = Vec::new();
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let seal = serde_json::from_slice(line);
                seals.push(seal.map_err(|error| {
                    self.failed(format!("a line near the end is no seal: {error}"))
                })?);
            }
            if whole || seals.first().is_some_and(|first| first.number <= number) {
                seals.retain(|seal| seal.number > number);
                return Ok(seals);
            }
            window *= 4;
        }
    }

    fn last_number(&self) -> Result<u64, OutsideError> {
        // A seal is shorter than any window; with one line in it, that is the last.
        let (lines, _) = match self.end(16 << 10) {
            Ok(end) => end,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(self.failed(error)),
        };
        let last = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        let Some(last) = last else { return Ok(0) };
        let seal: Seal = serde_json::from_slice(last)
            .map_err(|error| self.failed(format!("the last line is no seal: {error}")))?;
        Ok(seal.number)
    }

    /// The whole lines among the last bytes, and whether that is all.
    fn end(&self, window: u64) -> std::io::Result<(Vec<u8>, bool)> {
        use std::io::Read as _;
        let mut file = std::fs::File::open(&self.path)?;
        let end = whole_lines(&mut file)?;
        let start = end.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact(&mut bytes)?;
        if start > 0 {
            let first = bytes.iter().position(|byte| *byte == b'\n');
            bytes.drain(..first.map_or(bytes.len(), |at| at + 1));
        }
        Ok((bytes, start == 0))
    }

    fn append(&self, seals: &[Seal]) -> Result<(), OutsideError> {
        let open = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path);
        let mut file = open.map_err(|error| self.failed(error))?;
        let written = (|| {
            // What a crash left of a line goes: it was never told to anybody.
            let end = whole_lines(&mut file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            let mut text = Vec::new();
            for seal in seals {
                serde_json::to_writer(&mut text, seal)?;
                text.push(b'\n');
            }
            file.write_all(&text)?;
            file.sync_data()
        })();
        written.map_err(|error| self.failed(error))
    }
}

/// Where the last whole line of a file ends.
fn whole_lines(file: &mut std::fs::File) -> std::io::Result<u64> {
    use std::io::Read as _;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = [0; 4_096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let block = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl Outside for SealFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn last(&self) -> Boxed<Result<u64, OutsideError>> {
        let file = self.clone();
        Box::pin(async move { blocking(move || file.last_number()).await })
    }

    fn after(&self, number: u64) -> Boxed<Result<Vec<Seal>, OutsideError>> {
        let file = self.clone();
        Box::pin(async move { blocking(move || file.tail(number)).await })
    }

    fn publish(&self, seals: Vec<Seal>) -> Boxed<Result<(), OutsideError>> {
        let file = self.clone();
        Box::pin(async move { blocking(move || file.append(&seals)).await })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OutsideError> + Send + 'static,
) -> Result<T, OutsideError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OutsideError { place: FILE.into(), reason: error.to_string() })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::testing::seal;

    #[test]
    fn a_line_that_a_crash_cut_is_gone_with_the_next_seal_and_nothing_else_is() {
        let folder = std::env::temp_dir().join(format!("taffrail-outside-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = SealFile::of(&folder);
        assert_eq!(file.read().unwrap(), []);
        file.append(&[seal(1), seal(2)]).unwrap();
        let whole = std::fs::read(folder.join(FILE)).unwrap();
        // Longer than a block, so that the end is looked for in several.
        let cut = [&whole[..], &vec![b'x'; 10_000]].concat();
        std::fs::write(folder.join(FILE), cut).unwrap();
        assert_eq!(file.read().unwrap(), [seal(1), seal(2)]);
        file.append(&[seal(3)]).unwrap();
        assert_eq!(file.read().unwrap(), [seal(1), seal(2), seal(3)]);
        assert_eq!(file.last_number().unwrap(), 3);
        let many: Vec<Seal> = (4..400).map(seal).collect();
        file.append(&many).unwrap();
        for number in [0, 2, 3, 17, 398, 399, 500] {
            let behind: Vec<u64> = file.tail(number).unwrap().iter().map(|s| s.number).collect();
            assert_eq!(behind, (number + 1..400).collect::<Vec<_>>());
        }
        std::fs::write(folder.join(FILE), [&whole[..], b"nonsense\n"].concat()).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("line 3"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
