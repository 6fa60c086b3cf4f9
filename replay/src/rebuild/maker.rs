//! Folding the log into tables that nobody reads yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Client;
use domain::Recorded;
use projections::ProjectionError;
use projections::engine::{Folder, Projection, Schema, Storage, note_passed};
use store::Log;

use super::differences::{self, Differences};
use super::position_of;
use super::session::Session;
use super::standing::Board;

/// Rows kept in memory between batches.
const KEPT_BYTES: usize = 128 << 20;
/// Events folded at a time.
const BATCH: usize = 8_192;
/// Payload bytes folded at a time.
const BATCH_BYTES: usize = 8 << 20;
/// Events that may be folded while the live engine is held up.
const LAST_STEP: u64 = 2_000;
/// Rounds of catching up with a live model that keeps running ahead.
const ROUNDS: usize = 20;
/// How long to wait for a live model that lags behind the log's end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Holding up the live engine ends by itself when this process is paused at it.
pub(super) const NOT_FOR_EVER: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Folds a model into a version of its tables.
pub(super) struct Maker<'a, P: Projection> {
    folder: Folder<P>,
    schema: Schema,
    log: &'a Log,
    client: Client,
    board: &'a Board,
}

impl<'a, P: Projection> Maker<'a, P> {
    /// Goes on where the version's checkpoint is.
    pub async fn begin(
        projection: P,
        schema: Schema,
        log: &'a Log,
        board: &'a Board,
    ) -> Result<Self, ProjectionError> {
        let client = log.pool().get().await?;
        let storage = Storage::<P>::new(schema);
        let at = storage.checkpoint(&client).await?.0;
        let parked = storage.parked(&client).await?;
        let folder = Folder::new(projection, storage, at, parked, KEPT_BYTES);
        Ok(Self { folder, schema, log, client, board })
    }

    /// The last event folded.
    pub fn at(&self) -> u64 {
        self.folder.at().position
    }

    /// Where the rows go.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// The log that is folded.
    pub fn log(&self) -> &Log {
        self.log
    }

    /// Streams that stand still.
    pub fn parked(&mut self) -> u64 {
        self.folder.parked().len() as u64
    }

    /// Folds up to the log's head, then after the live model until it is near.
    pub async fn fold_up(&mut self) -> Result<(), ProjectionError> {
        let head = self.log.head().await?.position;
        self.board.reach(self.at(), head);
        self.fold_to(head).await?;
        self.near().await
    }

    /// Folds after the live model until the last step is short.
    pub async fn near(&mut self) -> Result<(), ProjectionError> {
        let patient_until = Instant::now() + PATIENCE;
        for _ in 0..ROUNDS {
            let live = position_of::<P, _>(&self.client, Schema::Live, "").await?;
            if live < self.at() && Instant::now() < patient_until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            } else if live > self.at() + LAST_STEP {
                self.fold_to(live).await?;
            } else if live >= self.at() {
                break;
            }
        }
        Ok(())
    }

    /// Folds the log up to a position; it is read ahead meanwhile.
    pub async fn fold_to(&mut self, target: u64) -> Result<(), ProjectionError> {
        if self.at() >= target {
            return Ok(());
        }
        let mut pages = self.log.scan(self.at(), target);
        let (mut events, mut bytes) = (Vec::new(), 0);
        loop {
            let page = pages.next().await?;
            let over = page.is_empty();
            bytes += page.iter().map(|event| event.payload.len()).sum::<usize>();
            events.extend(page);
            // Rows that change often are written the less often, the longer the batch.
            if events.len() < BATCH && bytes < BATCH_BYTES && !over {
                continue;
            }
            if events.is_empty() {
                return Ok(());
            }
            self.fold(&events).await?;
            events.clear();
            bytes = 0;
            self.board.reach(self.at(), target);
            if over {
                return Ok(());
            }
        }
    }

    async fn fold(&mut self, events: &[Arc<Recorded>]) -> Result<(), ProjectionError> {
        let Some(folded) = self.folder.fold(&self.client, events).await? else { return Ok(()) };
        if folded.unknown > 0 {
            note_passed::<P, _>(&self.client, events).await?;
        }
        let (storage, at) = (self.folder.storage(), self.folder.at());
        if !storage.write(&mut self.client, at, &folded).await? {
            // The lock was lost with its connection and somebody else began.
            return Err(ProjectionError::Busy { model: P::NAME, operation: None });
        }
        store::seeded::point("dies-in-fold");
        self.folder.settle(folded);
        Ok(())
    }

    /// Holds the rows against the live ones, both at one position; `None` when the live
    /// model is not that far. The live engine waits for as long as it takes to come to that
    /// position, not for the comparison.
    pub async fn compare(
        &mut self,
        session: &Session,
    ) -> Result<Option<Differences>, ProjectionError> {
        let mut holder = self.log.pool().get().await?;
        let hold = holder.transaction().await?;
        hold.batch_execute(NOT_FOR_EVER).await?;
        let live = position_of::<P, _>(&hold, Schema::Live, " FOR UPDATE").await?;
        self.fold_to(live).await?;
        if live != self.at() {
            return Ok(None);
        }
        // The session's snapshot has both: what was folded is committed, and nobody moves on.
        let snapshot = session.client();
        snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT").await?;
        hold.rollback().await?;
        let found = differences::find::<P>(snapshot, live).await;
        snapshot.batch_execute("ROLLBACK").await?;
        Ok(Some(found?))
    }
}
