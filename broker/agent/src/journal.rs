//! Answers that could not be delivered, kept on disk until they are.
//!
//! One file per agent, appended to and synced: `{"keep": <command>}` for an answer, `{"done":
//! "<command id>"}` once the server has decided it. The command ids are kept with them, so an
//! answer that was decided and not noted as such is delivered again and changes nothing.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::frame::CommandFrame;
use domain::{AgentId, StreamType};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Error;

/// Most bytes of kept answers: a result has at most 256 KiB.
const MAX_BYTES: u64 = 64 << 20;
/// Most kept answers.
const MAX_ENTRIES: usize = 10_000;
/// A file that has grown so large is written anew without what is done.
const REWRITE_AT: u64 = 2 * MAX_BYTES;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Keep(CommandFrame),
    Done(Uuid),
}

/// The kept answers of one agent. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    /// Of the file.
    bytes: u64,
    /// Of what is kept.
    kept_bytes: u64,
    kept: Vec<CommandFrame>,
    /// Being delivered by somebody.
    under_way: HashSet<Uuid>,
}

impl Journal {
    /// Opens an agent's journal in a folder, and makes both where they are missing.
    ///
    /// What a killed process wrote in part is no entry; it is cut off.
    ///
    /// # Errors
    /// When the folder cannot be written to, or another process has the journal.
    pub(crate) fn open(folder: &Path, agent: AgentId) -> Result<Self, Error> {
        let path = folder.join(format!("{agent}.jsonl"));
        let failed = |source| Error::File { path: path.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let (kept, whole) = read(&text);
        file.set_len(if kept.is_empty() { 0 } else { whole }).map_err(failed)?;
        let mut inner = Inner {
            path: path.clone(),
            file,
            bytes: if kept.is_empty() { 0 } else { whole },
            kept_bytes: kept.iter().map(size).sum(),
            kept,
            under_way: HashSet::new(),
        };
        if inner.bytes > 0 {
            inner.rewrite().map_err(failed)?;
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code of ours panics with it in hand.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer, on disk when this returns true; `under_way` until it is said otherwise.
    /// Progress replaces the progress kept before it.
    pub(crate) async fn keep(&self, command: CommandFrame) -> bool {
        let journal = self.clone();
        let kept = tokio::task::spawn_blocking(move || journal.inner().keep(command)).await;
        match kept {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::warn!(%error, "an answer could not be kept on disk");
                false
            }
            Err(_) => false,
        }
    }

    /// The server has decided it.
    pub(crate) fn done(&self, command_id: Uuid) {
        if let Err(error) = self.inner().done(command_id) {
            // It is delivered once more after a restart, and changes nothing then.
            tracing::warn!(%error, "a delivered answer could not be noted as such");
        }
    }

    /// Whoever delivered it has given up for now.
    pub(crate) fn leave(&self, command_id: Uuid) {
        self.inner().under_way.remove(&command_id);
    }

    /// The oldest answer that nobody is delivering; the caller does from now on.
    pub(crate) fn next(&self) -> Option<CommandFrame> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let next = inner.kept.iter().find(|c| !inner.under_way.contains(&c.command_id))?;
        inner.under_way.insert(next.command_id);
        Some(next.clone())
    }

    /// The progress of a task that nobody is delivering.
    pub(crate) fn progress_of(&self, task: Uuid) -> Option<CommandFrame> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut of_task = inner.kept.iter().filter(|kept| is_progress(kept) && kept.id == task);
        let next = of_task.find(|kept| !inner.under_way.contains(&kept.command_id))?;
        inner.under_way.insert(next.command_id);
        Some(next.clone())
    }

    /// Whether progress of a task waits.
    pub(crate) fn has_progress_of(&self, task: Uuid) -> bool {
        self.inner().kept.iter().any(|kept| is_progress(kept) && kept.id == task)
    }

    #[cfg(test)]
    fn kept(&self) -> Vec<Uuid> {
        self.inner().kept.iter().map(|kept| kept.command_id).collect()
    }
}

impl Inner {
    fn keep(&mut self, command: CommandFrame) -> std::io::Result<bool> {
        if is_progress(&command) {
            let old = self.kept.iter().find(|k| is_progress(k) && k.id == command.id);
            if let Some(old) = old.map(|old| old.command_id) {
                self.done(old)?;
            }
        }
        let entry = size(&command);
        if self.kept.len() >= MAX_ENTRIES || self.kept_bytes + entry > MAX_BYTES {
            tracing::warn!(entries = self.kept.len(), "no more answers are kept on disk");
            return Ok(false);
        }
        self.append(&Entry::Keep(command.clone()))?;
        self.file.sync_data()?;
        self.under_way.insert(command.command_id);
        self.kept_bytes += entry;
        self.kept.push(command);
        Ok(true)
    }

    /// Not synced: an answer that comes again after a power failure changes nothing.
    fn done(&mut self, command_id: Uuid) -> std::io::Result<()> {
        self.under_way.remove(&command_id);
        let Some(at) = self.kept.iter().position(|kept| kept.command_id == command_id) else {
            return Ok(());
        };
        self.kept_bytes -= size(&self.kept.remove(at));
        if self.kept.is_empty() {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(());
        }
        self.append(&Entry::Done(command_id))?;
        if self.bytes > REWRITE_AT { self.rewrite() } else { Ok(()) }
    }

    fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.seek(SeekFrom::Start(self.bytes))?;
        if let Err(error) = self.file.write_all(&line) {
            // A full disk: what was written of it must not run into the next line.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Writes what is kept into a new file and puts that in the old one's place.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&fresh)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut text = Vec::new();
        for command in &self.kept {
            serde_json::to_writer(&mut text, &Entry::Keep(command.clone()))?;
            text.push(b'\n');
        }
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&fresh, &self.path)?;
        // The rename itself must survive too.
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        (self.file, self.bytes) = (file, text.len() as u64);
        Ok(())
    }
}

/// The entries that are not done, and how many bytes of the text are whole lines.
fn read(text: &[u8]) -> (Vec<CommandFrame>, u64) {
    let mut kept: Vec<CommandFrame> = Vec::new();
    let mut whole = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") {
            break;
        }
        whole += line.len() as u64;
        match serde_json::from_slice(line) {
            Ok(Entry::Keep(command)) => kept.push(command),
            Ok(Entry::Done(id)) => kept.retain(|command| command.command_id != id),
            Err(error) => tracing::warn!(%error, "a line of the journal cannot be read"),
        }
    }
    (kept, whole)
}

fn size(command: &CommandFrame) -> u64 {
    command.body.as_str().len() as u64 + 256
}

fn is_progress(command: &CommandFrame) -> bool {
    command.kind == StreamType::Task && command.command == "progress"
}

#[cfg(test)]
mod tests {
    use domain::Json;

    use super::*;

    fn command(nth: u128, command: &str) -> CommandFrame {
        CommandFrame {
            kind: StreamType::Task,
            id: Uuid::from_u128(9),
            command: command.into(),
            command_id: Uuid::from_u128(nth),
            body: Json::of(&serde_json::json!({ "lease_token": 1, "result": nth as u64 })),
            traceparent: None,
        }
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("taffrail-journal-{name}-{}", std::process::id()))
    }

    fn ids(numbers: &[u128]) -> Vec<Uuid> {
        numbers.iter().map(|n| Uuid::from_u128(*n)).collect()
    }

    #[tokio::test]
    async fn what_is_kept_survives_and_what_is_done_does_not_come_back() {
        let folder = folder("kept");
        let agent = AgentId::nth(1);
        let journal = Journal::open(&folder, agent).unwrap();
        for nth in 1..=3 {
            assert!(journal.keep(command(nth, "complete")).await);
        }
        journal.done(Uuid::from_u128(2));
        assert!(Journal::open(&folder, agent).is_err(), "it belongs to one process");
        drop(journal);

        // As a kill in the middle of a write leaves it.
        let path = folder.join(format!("{agent}.jsonl"));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"keep":{"type":"ta"#).unwrap();
        drop(file);
        let journal = Journal::open(&folder, agent).unwrap();
        assert_eq!(journal.kept(), ids(&[1, 3]));
        assert!(journal.keep(command(4, "fail")).await, "written behind the whole lines");
        drop(journal);
        let journal = Journal::open(&folder, agent).unwrap();
        assert_eq!(journal.kept(), ids(&[1, 3, 4]));

        let first = journal.next().unwrap();
        assert_eq!(first, command(1, "complete"));
        assert_eq!(journal.next().unwrap().command_id, Uuid::from_u128(3), "each by one alone");
        journal.leave(first.command_id);
        assert_eq!(journal.next().unwrap().command_id, first.command_id);
        for id in ids(&[1, 3, 4]) {
            journal.done(id);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing is left behind");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn progress_is_kept_once_and_all_of_it_is_bounded() {
        let folder = folder("bounds");
        let journal = Journal::open(&folder, AgentId::nth(1)).unwrap();
        for nth in 1..=50 {
            assert!(journal.keep(command(nth, "progress")).await);
        }
        assert_eq!(journal.kept(), ids(&[50]));
        assert!(journal.progress_of(Uuid::from_u128(9)).is_none(), "its sender has it");
        journal.leave(Uuid::from_u128(50));
        assert!(journal.progress_of(Uuid::from_u128(9)).is_some());

        let text = "x".repeat(255 * 1024);
        let mut refused = 0;
        for nth in 100..400 {
            let body = Json::of(&serde_json::json!({ "lease_token": 1, "result": text }));
            let large = CommandFrame { body, ..command(nth, "complete") };
            refused += u32::from(!journal.keep(large).await);
        }
        assert!((30..60).contains(&refused), "{refused}");
        let path = folder.join(format!("{}.jsonl", AgentId::nth(1)));
        assert!(std::fs::metadata(path).unwrap().len() < REWRITE_AT);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
