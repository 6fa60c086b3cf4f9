//! The loop of a live read model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use domain::Recorded;
use store::seeded::{Planted, planted};
use store::{Reader, StoreError};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::commit::Commits;
use super::fold::{Rows, park};
use super::folder::{Folded, Folder};
use super::pages::Pages;
use super::passed::note_passed;
use super::storage::{Schema, Storage};
use super::{Numbers, Pace, Projection};
use crate::{Model, Progress, ProjectionError, with_model};

/// How long an idle model sleeps at most before it asks the log itself (reliability D21).
const POLL: Duration = Duration::from_millis(250);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Rows kept in memory between batches, per model.
const KEPT_BYTES: usize = 16 << 20;

/// Carries one read model along the log.
struct Engine<P: Projection + Clone> {
    projection: P,
    model: Model,
    pool: Pool,
    pages: Pages,
    commits: Commits,
    progress: Progress,
}

impl<P: Projection + Clone> Engine<P> {
    /// Follows the log until told to stop; a lost database is waited for.
    async fn run(self, stop: CancellationToken) {
        let mut backoff = BACKOFF.0;
        while !stop.is_cancelled() {
            let failed = match self.begin().await {
                Ok(folder) => self.follow(folder, &stop, &mut backoff).await,
                Err(error) => Err(error),
            };
            let Err(error) = failed else { continue };
            if let ProjectionError::Log(StoreError::Hole { expected, found }) = &error {
                tracing::error!(
                    model = P::NAME,
                    expected,
                    found,
                    "ALARM: the log has a hole; the read model stands still before it"
                );
            } else {
                tracing::warn!(
                    model = P::NAME,
                    %error,
                    retry_ms = backoff.as_millis() as u64,
                    "the read model cannot go on for now"
                );
            }
            pause(backoff, &stop).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Reads the checkpoint; sets the model back when the log is shorter than it.
    async fn begin(&self) -> Result<Folder<P>, ProjectionError> {
        let mut client = self.pool.get().await?;
        let storage = Storage::<P>::new(Schema::Live);
        let (mut at, head) = storage.checkpoint(&client).await?;
        if at.position > head {
            tracing::error!(
                model = P::NAME,
                checkpoint = at.position,
                head,
                "the log is shorter than the read model: an older copy was put back; folding anew"
            );
            at = storage.reset(&mut client).await?;
        }
        if storage.is_outdated(&client).await? {
            tracing::info!(
                model = P::NAME,
                "its rows are of another release: a rebuild replaces them"
            );
        }
        let parked = storage.parked(&client).await?;
        self.progress.reset(self.model, at.position);
        self.progress.counters(self.model).parked(parked.len());
        Ok(Folder::new(self.projection.clone(), storage, at, parked, KEPT_BYTES))
    }

    /// Takes batch after batch; returns to begin anew, or to stop.
    async fn follow(
        &self,
        mut folder: Folder<P>,
        stop: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), ProjectionError> {
        let mut pace = Pace::default();
        while !stop.is_cancelled() {
            let next = self.next(folder.at().position, pace.limit(), stop).await?;
            let Some(events) = next else { return Ok(()) };
            if events.is_empty() {
                continue;
            }
            let began = Instant::now();
            match self.step(&mut folder, &events).await {
                Ok(true) => {
                    *backoff = BACKOFF.0;
                    pace.took(&events);
                    self.progress.counters(self.model).took(began.elapsed());
                }
                // Somebody else moved the checkpoint: see where it is now.
                Ok(false) => {
                    pause(BACKOFF.0, stop).await;
                    return Ok(());
                }
                Err(error) if error.is_data() => {
                    isolate(&mut folder, &mut pace, &events, &error);
                }
                Err(error) => return Err(error),
            }
            if let Some(breath) = pace.breath(events.len()) {
                pause(breath, stop).await;
            }
        }
        Ok(())
    }

    /// The events behind the checkpoint; empty when nothing came within a poll, none
    /// when the model must begin anew or stop.
    async fn next(
        &self,
        position: u64,
        limit: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Arc<Recorded>>>, ProjectionError> {
        let reader = self.pages.reader();
        let mut head = reader.feed.watch();
        if *head.borrow_and_update() <= position {
            // Only waiting is raced against the stop; no query is ever dropped half-way.
            let woken = tokio::select! {
                changed = head.changed() => changed.is_ok(),
                () = sleep(POLL) => false,
                () = stop.cancelled() => return Ok(None),
            };
            // What follows on the first event mostly follows soon, and whoever waits for its
            // commit should not share the machine with ours.
            if woken && !self.progress.is_awaited(self.model) {
                pause(Pace::LINGER, stop).await;
            }
            if !woken {
                let end = reader.log.head().await?.position;
                if end < position {
                    return Ok(None);
                }
                reader.feed.announce(end);
                if end == position {
                    return Ok(Some(Vec::new()));
                }
            }
        }
        let events = self.pages.after(position, limit).await?;
        if events.is_empty() {
            // The feed is ahead of the log: an older copy was put back. Do not spin.
            pause(POLL, stop).await;
            let end = reader.log.head().await?.position;
            return Ok((end >= position).then(Vec::new));
        }
        Ok(Some(events))
    }

    /// Folds and commits a batch; false when the checkpoint was moved by somebody else.
    async fn step(
        &self,
        folder: &mut Folder<P>,
        events: &[Arc<Recorded>],
    ) -> Result<bool, ProjectionError> {
        let client = self.pool.get().await?;
        let Some(folded) = folder.fold(&client, events).await? else { return Ok(true) };
        if folded.unknown > 0 {
            note_passed::<P, _>(&client, events).await?;
        }
        drop(client);
        let Folded { rows, parked, numbers, to, unknown, skipped, .. } = &folded;
        let (storage, at) = (folder.storage(), folder.at());
        let moved = if parked.values().any(|at| at.changed) {
            storage.write(&mut self.pool.get().await?, at, &folded).await?
        } else if planted(Planted::CheckpointApart) && !rows.is_empty() {
            let stay = (at.position, to.1);
            let rows = self.commits.write(storage.writing(at, stay, rows, numbers)).await?;
            sleep(POLL).await;
            let none = (Rows::<P>::new(), Numbers::default());
            rows && self.commits.write(storage.writing(at, *to, &none.0, &none.1)).await?
        } else {
            self.commits.write(storage.writing(at, *to, rows, numbers)).await?
        };
        if !moved {
            return Ok(false);
        }
        store::seeded::point("dies-after-rows");
        for ((tenant, stream), at) in parked {
            if at.position > folder.at().position {
                tracing::error!(
                    model = P::NAME,
                    tenant = tenant.as_str(),
                    %stream,
                    position = at.position,
                    reason = at.reason,
                    "ALARM: a stream is parked; rebuild the model when the cause is mended"
                );
            }
        }
        let counters = self.progress.counters(self.model);
        counters.batch(events.len() as u64, *unknown, *skipped);
        counters.parked(parked.len());
        folder.settle(folded);
        self.progress.advance(self.model, folder.at().position);
        Ok(true)
    }
}

/// The database refused what the batch holds: ever smaller batches find the event, whose
/// stream is then parked; the next try passes it over.
fn isolate<P: Projection>(
    folder: &mut Folder<P>,
    pace: &mut Pace,
    events: &[Arc<Recorded>],
    error: &ProjectionError,
) {
    match events {
        [culprit] => {
            park(folder.parked(), culprit, format!("the database refused its row: {error}"));
        }
        several => {
            tracing::warn!(model = P::NAME, %error, "a batch was refused; halving it");
            pace.halve(several.len());
        }
    }
}

/// Runs every read model until told to stop.
pub async fn run_all(pool: Pool, reader: Reader, progress: Progress, stop: CancellationToken) {
    let mut running = JoinSet::new();
    let pages = Pages::of(reader);
    let (commits, committing) = Commits::through(pool.clone());
    running.spawn(committing);
    for model in Model::ALL {
        let (pool, pages, commits) = (pool.clone(), pages.clone(), commits.clone());
        let (progress, stop) = (progress.clone(), stop.clone());
        with_model!(model, projection => {
            running.spawn(Engine { projection, model, pool, pages, commits, progress }.run(stop));
        });
    }
    // The last model to end closes the door.
    drop(commits);
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a read model's engine ended by a bug");
        }
    }
}

async fn pause(length: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(length) => {}
        () = stop.cancelled() => {}
    }
}
