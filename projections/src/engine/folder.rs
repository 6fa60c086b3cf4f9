//! One read model on its tables, batch by batch: shared by the live engine and the
//! rebuild.
//!
//! Invariant: rows kept in memory between batches equal the stored ones, because nobody
//! else writes while the checkpoint is where we left it; after any failure they go.

use std::collections::HashMap;
use std::sync::Arc;

use deadpool_postgres::GenericClient;
use domain::{Recorded, Timestamp};

use super::aside::aside;
use super::fold::{Batch, Parked, Rows, StreamKey};
use super::memory::contiguous;
use super::storage::{Checkpoint, Storage};
use super::{Numbers, Projection};
use crate::ProjectionError;

/// Memory that a row costs beside its payload, roughly.
const ROW_BYTES: usize = 1_024;

/// Folds batches onto a model's tables.
pub struct Folder<P: Projection> {
    projection: P,
    storage: Storage<P>,
    at: Checkpoint,
    parked: HashMap<StreamKey, Parked>,
    kept: Rows<P>,
    kept_bytes: usize,
    most_bytes: usize,
    numbers: Numbers,
}

/// A folded batch, not yet written.
pub struct Folded<P: Projection> {
    /// The rows, touched or kept.
    pub rows: Rows<P>,
    /// The streams that stand still after it.
    pub parked: HashMap<StreamKey, Parked>,
    /// The last numbers given.
    pub numbers: Numbers,
    /// Where the checkpoint goes.
    pub to: (u64, Timestamp),
    /// Events of types that this release does not know.
    pub unknown: u64,
    /// Events of parked streams.
    pub skipped: u64,
    bytes: usize,
}

impl<P: Projection> Folder<P> {
    /// Goes on from a checkpoint; keeps about `most_bytes` of rows between batches.
    pub fn new(
        projection: P,
        storage: Storage<P>,
        at: Checkpoint,
        parked: HashMap<StreamKey, Parked>,
        most_bytes: usize,
    ) -> Self {
        let (kept, kept_bytes, numbers) = (Rows::<P>::new(), 0, Numbers::default());
        Self { projection, storage, at, parked, kept, kept_bytes, most_bytes, numbers }
    }

    /// Where it stands.
    pub fn at(&self) -> Checkpoint {
        self.at
    }

    /// The tables.
    pub fn storage(&self) -> &Storage<P> {
        &self.storage
    }

    /// The streams that stand still.
    pub fn parked(&mut self) -> &mut HashMap<StreamKey, Parked> {
        &mut self.parked
    }

    /// Folds the events behind the checkpoint; `None` when there are none.
    ///
    /// # Errors
    /// When a position is missing, the database cannot be reached, or a stored row is
    /// not readable.
    pub async fn fold<C: GenericClient>(
        &mut self,
        client: &C,
        events: &[Arc<Recorded>],
    ) -> Result<Option<Folded<P>>, ProjectionError> {
        let Some(last) = events.last() else { return Ok(None) };
        contiguous(self.at.position, events)?;
        // Taken out: a failure on the way leaves nothing half-folded behind.
        let mut rows = std::mem::take(&mut self.kept);
        let mut bytes = std::mem::take(&mut self.kept_bytes);
        let mut counted = std::mem::take(&mut self.numbers);
        let schema = self.storage.schema();
        counted.load::<P, C>(client, schema, events.iter().map(|event| &**event)).await?;
        let mut careful = false;
        loop {
            let (mut parked, mut numbers) = (self.parked.clone(), counted.clone());
            let mut batch =
                aside(events.len(), || Batch::<P>::plan(events, &mut parked, &mut numbers));
            let mut missing = batch.keys();
            missing.retain(|key| !rows.contains_key(key));
            rows.extend(self.storage.load(client, missing).await?);
            let fold = || batch.fold(&self.projection, &mut rows, &mut parked, careful);
            if aside(events.len(), fold).is_err() {
                // A panic took a row with it: from the stored rows again, with copies.
                rows = Rows::<P>::new();
                bytes = 0;
                careful = true;
                continue;
            }
            bytes += events.iter().map(|event| event.payload.len() + ROW_BYTES).sum::<usize>();
            let to = (last.position, last.recorded_at);
            let (unknown, skipped) = (batch.unknown, batch.skipped);
            return Ok(Some(Folded { rows, parked, numbers, to, unknown, skipped, bytes }));
        }
    }

    /// A folded batch was committed.
    pub fn settle(&mut self, folded: Folded<P>) {
        self.at.position = folded.to.0;
        self.parked = folded.parked;
        self.parked.values_mut().for_each(|at| at.changed = false);
        self.numbers = folded.numbers;
        self.numbers.settle();
        if P::WRITE_ONCE || folded.bytes > self.most_bytes {
            return;
        }
        self.kept = folded.rows;
        self.kept.retain(|_, slot| {
            slot.stored = slot.row.is_some();
            slot.touched = false;
            slot.past.clear();
            slot.stored
        });
        self.kept_bytes = folded.bytes;
    }
}
