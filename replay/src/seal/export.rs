//! A stretch of the log as lines that prove themselves.

use std::time::Duration;

use bytes::Bytes;
use store::{Log, Scan, StoreError};
use tokio::time::Instant;

use super::line::{
    Broken, Edge, End, FORMAT, Header, Hex, write_broken, write_edge, write_end, write_event,
    write_header, write_seal,
};
use super::record::Seal;
use super::table::Table;

/// How often it is asked whether the last position is sealed.
const ASK: Duration = Duration::from_millis(50);
/// Seals of one read.
const SEALS: u32 = 512;

/// Which stretch, and whether it must be sealed to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// The first position; 1 when absent.
    pub from: Option<u64>,
    /// The last position; the end of the log when absent.
    pub to: Option<u64>,
    /// How long the seal of the last position is waited for; not at all when absent, and
    /// then the last events may have none.
    pub wait: Option<Duration>,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such stretch.
    #[error("{what}")]
    Range {
        /// `from` or `to`.
        field: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Nobody seals, or too slowly.
    #[error("position {to} is not sealed yet, only those up to {sealed}; is a sealer running?")]
    NotSealed {
        /// The last position asked for.
        to: u64,
        /// How far seals go.
        sealed: u64,
    },
}

/// An export on its way.
#[derive(Debug)]
pub struct Export {
    table: Table,
    header: Header,
    scan: Scan,
    position: u64,
    /// The seals that come next, in order, and the number of the last that belongs to it.
    seals: std::collections::VecDeque<Seal>,
    last: u64,
    read: u64,
    /// The size of the seal that covers the last event.
    covering: Option<u64>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Events,
    Done,
}

impl Export {
    /// Finds the stretch, and waits for its seal.
    ///
    /// # Errors
    /// When there is no such stretch, or no seal of it in time.
    pub async fn begin(log: &Log, range: Range) -> Result<Self, ExportError> {
        let table = Table::new(log.pool().clone());
        let head = log.head().await?;
        let (from, to) = (range.from.unwrap_or(1), range.to.unwrap_or(head.position));
        let wrong = |field, what| Err(ExportError::Range { field, what });
        if to > head.position {
            return wrong("to", format!("the log ends at position {}", head.position));
        }
        if from == 0 || (from > to && range.from.is_some_and(|from| from != 1)) {
            return wrong("from", format!("`from` must lie between 1 and {}", to.max(1)));
        }
        let until = range.wait.map(|wait| Instant::now() + wait);
        let covering = loop {
            let covering = if to == 0 { None } else { table.covering(to).await? };
            let Some(until) = until.filter(|_| covering.is_none() && to > 0) else {
                break covering;
            };
            if Instant::now() >= until {
                let (_, sealed) = table.end().await?;
                return Err(ExportError::NotSealed { to, sealed });
            }
            tokio::time::sleep(ASK).await;
        };
        let last = match covering {
            Some((number, _)) => number,
            None => table.end().await?.0,
        };
        let first = if last == 0 { None } else { table.covering(from).await? };
        let left = table.range(0..from - 1).await?;
        let header = Header {
            format: FORMAT,
            epoch: head.epoch,
            from,
            to,
            left: left.iter().map(Hex::of).collect(),
            rotations: table.rotations().await?,
        };
        Ok(Self {
            table,
            scan: log.scan(from - 1, to),
            position: from - 1,
            seals: std::collections::VecDeque::new(),
            last,
            read: first.map_or(last, |(first, _)| first.saturating_sub(1)),
            covering: covering.map(|(_, size)| size),
            header,
            stage: Stage::Begin,
        })
    }

    /// What it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next lines; none at the end. A log that cannot be read any further ends in a line
    /// that says where.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut out = Vec::new();
        match self.lines(&mut out).await {
            Ok(true) => Ok(Some(out.into())),
            Ok(false) => Ok(None),
            Err(error) => {
                let Some(position) = place(&error) else { return Err(error) };
                let broken = Broken { position, reason: error.to_string() };
                write_broken(&mut out, &broken);
                self.stage = Stage::Done;
                Ok(Some(out.into()))
            }
        }
    }

    async fn lines(&mut self, out: &mut Vec<u8>) -> Result<bool, StoreError> {
        match self.stage {
            Stage::Done => return Ok(false),
            Stage::Begin => {
                write_header(out, &self.header);
                self.stage = Stage::Events;
            }
            Stage::Events => {
                let page = self.scan.next().await?;
                if page.is_empty() {
                    self.end(out).await?;
                    self.stage = Stage::Done;
                }
                for event in page {
                    write_event(out, &event);
                    self.position = event.position;
                    self.sealed(out, event.position).await?;
                }
            }
        }
        Ok(true)
    }

    /// The seals of this size.
    async fn sealed(&mut self, out: &mut Vec<u8>, size: u64) -> Result<(), StoreError> {
        loop {
            if self.seals.is_empty() && self.read < self.last {
                let seals = self.table.after(self.read, SEALS).await?;
                self.read = seals.last().map_or(self.last, |seal| seal.number);
                self.seals.extend(seals.into_iter().filter(|seal| seal.number <= self.last));
            }
            match self.seals.front() {
                // One that lies before the present place was made of another log: it is shown
                // where it does not fit.
                Some(seal) if seal.size <= size => {
                    write_seal(out, seal);
                    self.seals.pop_front();
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    async fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let to = self.position;
        if let Some(size) = self.covering.filter(|size| *size > to && to > 0) {
            let right = self.table.range(to..size).await?;
            write_edge(out, &Edge { size, right: right.iter().map(Hex::of).collect() });
            self.sealed(out, size).await?;
        }
        write_end(out, &End { events: (to + 1).saturating_sub(self.header.from) });
        Ok(())
    }
}

/// The position that an error speaks of.
fn place(error: &StoreError) -> Option<u64> {
    match error {
        StoreError::Hole { expected, .. } => Some(*expected),
        StoreError::Row { position, .. } => Some(u64::try_from(*position).unwrap_or_default()),
        StoreError::Database(_)
        | StoreError::Pool(_)
        | StoreError::LeaseLost
        | StoreError::Unfit(_) => None,
    }
}
