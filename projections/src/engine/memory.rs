//! A read model in memory: the world as of a position, and what the tables are held
//! against.

use std::collections::HashMap;
use std::sync::Arc;

use domain::{Recorded, TenantId};
use store::StoreError;

use super::fold::{Batch, Parked, Rows, StreamKey};
use super::{Numbers, Projection};

/// The rows of one read model, folded from the log's first event on.
pub struct World<P: Projection> {
    projection: P,
    rows: Rows<P>,
    position: u64,
    parked: HashMap<StreamKey, Parked>,
    numbers: Numbers,
    unknown: u64,
    careful: bool,
    spoilt: bool,
}

impl<P: Projection> World<P> {
    /// The world before the first event; it copies each row before it changes it, so a
    /// fold that panics costs its own stream alone.
    pub fn new(projection: P) -> Self {
        Self {
            projection,
            rows: Rows::<P>::new(),
            position: 0,
            parked: HashMap::new(),
            numbers: Numbers::default(),
            unknown: 0,
            careful: true,
            spoilt: false,
        }
    }

    /// The same without copies, for telling a whole log: about twice as fast. When a fold
    /// panics it [is spoilt](World::is_spoilt).
    pub fn quick(projection: P) -> Self {
        Self { careful: false, ..Self::new(projection) }
    }

    /// Whether a fold panicked and took a row with it: this world is worth nothing, a
    /// [careful](World::start_carefully) one must be told the log again.
    pub fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// The world before the first event, careful from there on.
    #[must_use]
    pub fn start_carefully(self) -> Self {
        Self::new(self.projection)
    }

    /// Folds further events; those that it has seen already change nothing.
    ///
    /// # Errors
    /// [`StoreError::Hole`] when a position is missing; nothing is folded then.
    pub fn apply(&mut self, events: &[Arc<Recorded>]) -> Result<(), StoreError> {
        let seen = events.partition_point(|event| event.position <= self.position);
        let events = &events[seen..];
        contiguous(self.position, events)?;
        let Some(last) = events.last() else { return Ok(()) };
        let mut batch = Batch::<P>::plan(events, &mut self.parked, &mut self.numbers).in_memory();
        // Careful folding cannot be spoilt: it keeps what it is about to change.
        let (rows, parked) = (&mut self.rows, &mut self.parked);
        if batch.fold(&self.projection, rows, parked, self.careful).is_err() {
            self.spoilt = true;
        }
        self.unknown += batch.unknown;
        self.position = last.position;
        Ok(())
    }

    /// The last event folded.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A row.
    pub fn get(&self, tenant: &TenantId, key: &P::Key) -> Option<&P::Row> {
        self.rows.get(&(tenant.clone(), key.clone()))?.row.as_ref()
    }

    /// Every row, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&TenantId, &P::Key, &P::Row)> {
        self.rows
            .iter()
            .filter_map(|((tenant, key), slot)| slot.row.as_ref().map(|row| (tenant, key, row)))
    }

    /// Streams that stand still, and why.
    pub fn parked(&self) -> &HashMap<StreamKey, Parked> {
        &self.parked
    }

    /// Events of types that this release does not know.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }
}

/// Refuses events that do not continue a checkpoint (invariant 2).
pub(crate) fn contiguous(checkpoint: u64, events: &[Arc<Recorded>]) -> Result<(), StoreError> {
    for (expected, event) in (checkpoint + 1..).zip(events) {
        if event.position != expected {
            return Err(StoreError::Hole { expected, found: event.position });
        }
    }
    Ok(())
}
