//! One batch of events over rows in memory: what the live engine, the rebuild and the
//! time machine have in common.
//!
//! Invariant: an event that cannot be read, or whose fold panics, leaves every row as it
//! was and parks its stream; the other streams go on.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use domain::recorded::DecodeError;
use domain::{Recorded, TenantId};
use uuid::Uuid;

use super::{Numbers, Projection};

/// A stream within its tenant.
pub type StreamKey = (TenantId, Uuid);

/// Rows by tenant and key.
pub type Rows<P> = HashMap<(TenantId, <P as Projection>::Key), Slot<<P as Projection>::Row>>;

/// A row's place: what was stored, and what the events made of it.
#[derive(Debug, Clone)]
pub struct Slot<R> {
    /// The row now.
    pub row: Option<R>,
    /// The position of the event that made it so; 0 where none did.
    pub at: u64,
    /// Whether a row was stored before the batch.
    pub stored: bool,
    /// Whether an event touched it.
    pub touched: bool,
    /// Versions that stood at a [boundary](boundary) and do no more, oldest first.
    pub past: Vec<PastRow<R>>,
}

/// A version of a row that another one has replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct PastRow<R> {
    /// The row.
    pub row: R,
    /// The position that made it so.
    pub at: u64,
    /// The position that replaced it.
    pub until: u64,
}

/// How far boundaries are apart. A past version of a row is kept where it stood at one; the
/// world as of any other position is folded from the boundary before it, so this is also the
/// most that a look into the past has to fold.
pub const INTERVAL: u64 = 4_096;

/// The last boundary up to a position: the multiple of [`INTERVAL`].
pub const fn boundary(position: u64) -> u64 {
    position - position % INTERVAL
}

/// Why and where a stream stands still for one read model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The first event that was not folded.
    pub position: u64,
    /// What was wrong with it.
    pub reason: String,
    /// Later events of the stream that were passed over.
    pub skipped: u64,
    /// Changed in this batch.
    pub changed: bool,
}

/// A fold panicked and the row it was given is lost: fold the batch anew, carefully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spoilt;

/// An event, the rows that it touches, and the number of the stream that it begins.
struct Planned<K> {
    recorded: Arc<Recorded>,
    keys: Vec<K>,
    number: Option<u64>,
}

/// A batch of events, each with the rows that it touches.
pub(super) struct Batch<P: Projection> {
    planned: Vec<Planned<P::Key>>,
    /// Whether past versions are kept.
    keeps: bool,
    /// Events of types that this release does not know.
    pub unknown: u64,
    /// Events of parked streams.
    pub skipped: u64,
}

impl<P: Projection> Batch<P> {
    /// Finds the rows that each event touches and counts the streams that begin; parks the
    /// streams of unreadable events.
    pub fn plan(
        events: &[Arc<Recorded>],
        parked: &mut HashMap<StreamKey, Parked>,
        numbers: &mut Numbers,
    ) -> Self {
        let mut batch =
            Self { planned: Vec::with_capacity(events.len()), keeps: true, unknown: 0, skipped: 0 };
        for recorded in events {
            // Before anything is left out: what can't be folded today counts all the same.
            let number = numbers.next::<P>(recorded);
            if batch.passes_over(recorded, parked) {
                continue;
            }
            match recorded.event() {
                Ok(event) => match quietly(|| P::keys(recorded, event)) {
                    Ok(keys) if keys.is_empty() => {}
                    Ok(keys) => {
                        let recorded = recorded.clone();
                        batch.planned.push(Planned { recorded, keys, number });
                    }
                    Err(reason) => park(parked, recorded, reason),
                },
                Err(DecodeError::Unknown { .. }) => batch.unknown += 1,
                Err(error @ DecodeError::Malformed { .. }) => {
                    park(parked, recorded, error.to_string());
                }
            }
        }
        batch
    }

    /// Keeps no past versions: for rows that nobody stores.
    pub fn in_memory(mut self) -> Self {
        self.keeps = false;
        self
    }

    /// Every row that the batch touches, each once.
    pub fn keys(&self) -> Vec<(TenantId, P::Key)> {
        let mut seen = std::collections::HashSet::new();
        self.planned
            .iter()
            .flat_map(|Planned { recorded, keys, .. }| {
                keys.iter().map(|key| (recorded.tenant.clone(), key.clone()))
            })
            .filter(|key| seen.insert(key.clone()))
            .collect()
    }

    /// Folds the batch into the rows.
    ///
    /// Rows are moved through the fold; only `careful` keeps a copy to fall back on.
    pub(super) fn fold(
        &mut self,
        projection: &P,
        rows: &mut Rows<P>,
        parked: &mut HashMap<StreamKey, Parked>,
        careful: bool,
    ) -> Result<(), Spoilt> {
        let planned = std::mem::take(&mut self.planned);
        let keeps = self.keeps;
        let outcome = planned.iter().try_for_each(|Planned { recorded, keys, number }| {
            // Parked by an earlier event of this very batch.
            if self.passes_over(recorded, parked) {
                return Ok(());
            }
            let Ok(event) = recorded.event() else { return Ok(()) };
            let before = careful.then(|| copies::<P>(rows, recorded, keys));
            let folded = quietly(|| {
                for key in keys {
                    let place = (recorded.tenant.clone(), key.clone());
                    let slot = rows.entry(place).or_insert_with(Slot::empty);
                    slot.leave(recorded.position, keeps);
                    slot.row = projection.fold(key, slot.row.take(), recorded, event);
                    if let (Some(row), Some(number)) = (&mut slot.row, number) {
                        P::number(row, *number);
                    }
                }
            });
            match (folded, before) {
                (Ok(()), _) => Ok(()),
                (Err(_), None) => Err(Spoilt),
                (Err(reason), Some(before)) => {
                    rows.extend(before);
                    park(parked, recorded, reason);
                    Ok(())
                }
            }
        });
        self.planned = planned;
        outcome
    }

    fn passes_over(
        &mut self,
        recorded: &Recorded,
        parked: &mut HashMap<StreamKey, Parked>,
    ) -> bool {
        if parked.is_empty() {
            return false;
        }
        let key = (recorded.tenant.clone(), recorded.stream_id);
        let Some(at) = parked.get_mut(&key).filter(|at| recorded.position >= at.position) else {
            return false;
        };
        if recorded.position > at.position {
            self.skipped += 1;
            at.skipped += 1;
            at.changed = true;
        }
        true
    }
}

impl<R: Clone> Slot<R> {
    fn empty() -> Self {
        Self { row: None, at: 0, stored: false, touched: false, past: Vec::new() }
    }

    /// A row as it was stored, and the position that made it so.
    pub fn stored(row: R, at: u64) -> Self {
        Self { row: Some(row), at, stored: true, ..Self::empty() }
    }

    /// An event is about to change the row: keeps it where it stood at a boundary.
    fn leave(&mut self, until: u64, keeps: bool) {
        let (at, last) = (self.at, until.saturating_sub(1));
        if keeps
            && at > 0
            && at <= boundary(last)
            && let Some(row) = &self.row
        {
            self.past.push(PastRow { row: row.clone(), at, until });
        }
        self.at = until;
        self.touched = true;
    }
}

/// Parks the stream of an event.
pub(super) fn park(parked: &mut HashMap<StreamKey, Parked>, recorded: &Recorded, reason: String) {
    let key = (recorded.tenant.clone(), recorded.stream_id);
    let position = recorded.position;
    let at = parked.entry(key).or_insert(Parked {
        position,
        reason: String::new(),
        skipped: 0,
        changed: true,
    });
    // A batch is planned before it is folded, so the first culprit may be found last.
    if position <= at.position {
        *at = Parked { position, reason, changed: true, ..*at };
    }
}

fn copies<P: Projection>(rows: &Rows<P>, recorded: &Recorded, keys: &[P::Key]) -> Rows<P> {
    keys.iter()
        .map(|key| {
            let place = (recorded.tenant.clone(), key.clone());
            let slot = rows.get(&place).cloned().unwrap_or_else(Slot::empty);
            (place, slot)
        })
        .collect()
}

/// Runs code that may panic; what it said is the reason to park.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("the fold panicked: {}", said.unwrap_or_else(|| "no message".into()))
    })
}
