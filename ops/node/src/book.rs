//! The book: what the daemon has on disk of each agent, and has not told yet.
//!
//! A record and what is still to be told of it are one file, replaced as a whole. So nothing
//! is observed without being told, nor told under a number that is given again, wherever the
//! daemon dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use domain::AgentId;
use domain::agent::{Exit, ObserveAgent, Phase};
use domain::node::{Launch, Running};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::Error;
use crate::folder::{Place, replace};

/// Observations of one agent that wait to be told. A day's outage with a probe that flaps
/// must not fill the disk.
const MOST_UNTOLD: usize = 64;
/// A start of the host may lose the last records (nothing is flushed to the disk): numbers go
/// on beyond any that can have been told.
const LEAP: u32 = 1_000;

/// What is seen of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub pid: Option<u32>,
    pub exit: Option<Exit>,
    pub permanent: bool,
    pub detail: Option<String>,
}

impl Seen {
    /// Something in words.
    pub(crate) fn said(detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::default() }
    }
}

/// One agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub agent_id: AgentId,
    pub name: String,
    /// Of the last process.
    pub generation: u32,
    /// What was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Box<Launch>>,
    pub phase: Phase,
    seq: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The host's start that the process belongs to.
    boot: String,
    /// Oldest first.
    untold: VecDeque<ObserveAgent>,
}

impl Record {
    /// Whether there is a process.
    pub(crate) fn is_live(&self) -> bool {
        !self.phase.is_over()
    }

    /// Whether everything that was seen was told.
    pub(crate) fn is_told(&self) -> bool {
        self.untold.is_empty()
    }
}

/// Every agent that this node has, or had and has to tell of.
pub(crate) struct Book {
    dir: PathBuf,
    node: Uuid,
    boot: String,
    records: Mutex<BTreeMap<AgentId, Record>>,
    /// Rung when there is something to tell.
    pub news: Notify,
}

impl Book {
    /// Reads what the last daemon left.
    ///
    /// A record that cannot be read is set aside; its process, if any, is nobody's then.
    pub(crate) fn open(dir: PathBuf, node: Uuid, boot: String) -> Result<Self, Error> {
        let mut records = BTreeMap::new();
        let entries = std::fs::read_dir(&dir).map_err(|error| Error::file(&dir, error))?;
        for entry in entries.flatten() {
            let file = entry.path().join("record.json");
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                // A workspace alone.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::file(file, error)),
            };
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(mut record) => {
                    if record.boot != boot {
                        record.seq = record.seq.saturating_add(LEAP);
                        record.boot.clone_from(&boot);
                    }
                    records.insert(record.agent_id, record);
                }
                Err(error) => {
                    let aside = file.with_extension("unreadable");
                    tracing::error!(file = %file.display(), %error, "a record cannot be read; it is set aside");
                    std::fs::rename(&file, &aside).map_err(|error| Error::file(&aside, error))?;
                }
            }
        }
        Ok(Self { dir, node, boot, records: Mutex::new(records), news: Notify::new() })
    }

    /// One agent.
    pub(crate) fn get(&self, agent: AgentId) -> Option<Record> {
        self.records.lock().get(&agent).cloned()
    }

    /// Every agent.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.records.lock().values().cloned().collect()
    }

    /// What runs here, as the managers are told.
    pub(crate) fn running(&self) -> Vec<Running> {
        let records = self.records.lock();
        let running = records.values().map(|record| Running {
            agent_id: record.agent_id,
            generation: record.generation,
            phase: record.phase,
        });
        running.take(domain::node::MAX_AGENTS).collect()
    }

    /// Opens the page of a new generation with its first observation. What was not told of
    /// the older one stays to be told.
    pub(crate) fn begin(
        &self,
        (agent_id, name): (AgentId, &str),
        generation: u32,
        launch: Option<Box<Launch>>,
        (phase, seen): (Phase, Seen),
    ) {
        let mut records = self.records.lock();
        let untold = records.remove(&agent_id).map(|old| old.untold).unwrap_or_default();
        let record = Record {
            agent_id,
            name: name.to_owned(),
            generation,
            launch,
            phase,
            seq: 0,
            pid: None,
            boot: self.boot.clone(),
            untold,
        };
        let record = records.entry(agent_id).or_insert(record);
        note(self.node, record, phase, seen);
        self.write(record);
        self.news.notify_one();
    }

    /// Notes what is seen of an agent's process.
    pub(crate) fn observe(&self, agent: AgentId, phase: Phase, seen: Seen) {
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&agent) else { return };
        note(self.node, record, phase, seen);
        self.write(record);
        self.news.notify_one();
    }

    /// The oldest untold observation of each agent that is not among those.
    pub(crate) fn heads(&self, but: &BTreeSet<AgentId>) -> Vec<(AgentId, ObserveAgent)> {
        let records = self.records.lock();
        let records = records.values().filter(|record| !but.contains(&record.agent_id));
        records.filter_map(|r| Some((r.agent_id, r.untold.front()?.clone()))).collect()
    }

    /// There is an outcome: it need not be told again.
    pub(crate) fn told(&self, agent: AgentId, generation: u32, seq: u32) {
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&agent) else { return };
        record.untold.retain(|seen| (seen.generation, seen.seq) != (generation, seq));
        self.write(record);
    }

    /// Takes an agent out whose process is over and all of which is told.
    pub(crate) fn forget(&self, agent: AgentId) {
        let mut records = self.records.lock();
        if records.get(&agent).is_some_and(|record| !record.is_live() && record.is_told()) {
            records.remove(&agent);
            let _ = std::fs::remove_file(self.file(agent));
        }
    }

    /// Whether anything is left to tell.
    pub(crate) fn is_told(&self) -> bool {
        self.records.lock().values().all(Record::is_told)
    }

    fn file(&self, agent: AgentId) -> PathBuf {
        Place(self.dir.join(agent.to_string())).0.join("record.json")
    }

    fn write(&self, record: &Record) {
        let file = self.file(record.agent_id);
        if let Err(error) = write(&file, record) {
            // The daemon goes on from memory: a full disk must not stop what runs.
            tracing::error!(file = %file.display(), %error, "a record cannot be written");
        }
    }
}

fn write(file: &Path, record: &Record) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    replace(file, &serde_json::to_vec(record)?)
}

fn note(node_id: Uuid, record: &mut Record, phase: Phase, seen: Seen) {
    record.seq += 1;
    record.phase = phase;
    record.pid = if phase.is_over() { None } else { seen.pid.or(record.pid) };
    let detail = seen.detail.map(|text| text.chars().take(2_000).collect());
    record.untold.push_back(ObserveAgent {
        node_id,
        generation: record.generation,
        seq: record.seq,
        phase,
        pid: seen.pid.or(record.pid),
        exit: seen.exit.map(Box::new),
        permanent: seen.permanent,
        detail,
    });
    let dropped = trim(&mut record.untold, MOST_UNTOLD);
    if dropped > 0 {
        tracing::warn!(agent = %record.agent_id, dropped, "observations that nobody could be told are left out");
    }
}

/// Leaves out what later observations outdate, the oldest first: how healthy a process was,
/// then what older generations did. The newest stays in any case.
fn trim(untold: &mut VecDeque<ObserveAgent>, most: usize) -> usize {
    use Phase as P;
    let mut dropped = 0;
    while untold.len() > most {
        let newest = untold.len() - 1;
        let passing = untold.iter().take(newest).position(|seen| {
            matches!(seen.phase, P::Ready | P::NotReady | P::Unhealthy | P::Warming)
        });
        untold.remove(passing.unwrap_or(0));
        dropped += 1;
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("taffrail-book-{}", Uuid::new_v4()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn book(&self, boot: &str) -> Book {
            Book::open(self.0.clone(), Uuid::from_u128(7), boot.into()).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const A: AgentId = AgentId(Uuid::from_u128(1));

    fn begin(book: &Book, generation: u32) {
        book.begin((A, "a"), generation, None, (Phase::Starting, Seen::default()));
    }

    fn head(book: &Book) -> Option<(u32, u32, Phase)> {
        let (_, seen) = book.heads(&BTreeSet::new()).pop()?;
        Some((seen.generation, seen.seq, seen.phase))
    }

    #[test]
    fn what_was_seen_is_told_in_order_also_by_the_next_daemon() {
        let folder = Folder::new();
        let book = folder.book("b");
        begin(&book, 3);
        book.observe(A, Phase::Ready, Seen { pid: Some(42), ..Seen::default() });
        assert_eq!(head(&book), Some((3, 1, Phase::Starting)));
        book.told(A, 3, 1);
        drop(book);

        let book = folder.book("b");
        assert_eq!(head(&book), Some((3, 2, Phase::Ready)));
        assert_eq!(book.get(A).unwrap().pid, Some(42));
        book.observe(A, Phase::Exited, Seen::default());
        book.told(A, 3, 2);
        assert_eq!(head(&book), Some((3, 3, Phase::Exited)));
        book.forget(A);
        assert!(book.get(A).is_some(), "its end is not told yet");
        book.told(A, 3, 3);
        book.forget(A);
        assert!(book.get(A).is_none() && folder.book("b").get(A).is_none());
    }

    #[test]
    fn an_agent_in_flight_is_passed_over() {
        let folder = Folder::new();
        let book = folder.book("b");
        begin(&book, 1);
        assert!(book.heads(&BTreeSet::from([A])).is_empty());
    }

    #[test]
    fn a_new_generation_counts_anew_and_tells_the_rest_of_the_old_one_first() {
        let folder = Folder::new();
        let book = folder.book("b");
        begin(&book, 1);
        book.told(A, 1, 1);
        book.observe(A, Phase::Exited, Seen::default());
        begin(&book, 2);
        assert_eq!(head(&book), Some((1, 2, Phase::Exited)));
        book.told(A, 1, 2);
        assert_eq!(head(&book), Some((2, 1, Phase::Starting)));
    }

    #[test]
    fn after_a_start_of_the_host_no_number_is_given_again() {
        let folder = Folder::new();
        begin(&folder.book("one"), 1);
        let book = folder.book("two");
        book.observe(A, Phase::Lost, Seen::default());
        book.told(A, 1, 1);
        assert_eq!(head(&book), Some((1, 2 + LEAP, Phase::Lost)));
    }

    #[test]
    fn a_probe_that_flaps_for_long_is_told_in_part_and_an_end_in_any_case() {
        let folder = Folder::new();
        let book = folder.book("b");
        begin(&book, 1);
        for _ in 0..200 {
            book.observe(A, Phase::NotReady, Seen::default());
            book.observe(A, Phase::Ready, Seen::default());
        }
        book.observe(A, Phase::Exited, Seen::default());
        let untold = book.get(A).unwrap().untold;
        assert_eq!(untold.len(), MOST_UNTOLD);
        assert_eq!(untold[0].phase, Phase::Starting);
        assert_eq!(untold.back().unwrap().phase, Phase::Exited);
        assert!(untold.iter().zip(untold.iter().skip(1)).all(|(a, b)| a.seq < b.seq));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_set_aside() {
        let folder = Folder::new();
        begin(&folder.book("b"), 1);
        let file = folder.0.join(A.to_string()).join("record.json");
        std::fs::write(&file, "{").unwrap();
        assert!(folder.book("b").get(A).is_none());
        assert!(file.with_extension("unreadable").exists());
    }
}
