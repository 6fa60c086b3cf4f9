//! A read model in memory: the world as of a position, and what the tables are held
//! against.

use std::collections::HashMap;
use std::sync::Arc;

use domain::{Recorded, TenantId};
use store::StoreError;

use super::Projection;
use super::fold::{Batch, Parked, Rows, StreamKey};

/// The rows of one read model, folded from the log's first event on.
pub struct World<P: Projection> {
    projection: P,
    rows: Rows<P>,
    position: u64,
    parked: HashMap<StreamKey, Parked>,
    unknown: u64,
}

impl<P: Projection> World<P> {
    /// The world before the first event.
    pub fn new(projection: P) -> Self {
        Self { projection, rows: Rows::<P>::new(), position: 0, parked: HashMap::new(), unknown: 0 }
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
        let mut batch = Batch::<P>::plan(events, &mut self.parked);
        // Careful folding cannot be spoilt: it keeps what it is about to change.
        let _ = batch.fold(&self.projection, &mut self.rows, &mut self.parked, true);
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
