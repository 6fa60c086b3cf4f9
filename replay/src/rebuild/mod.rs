//! A read model made anew beside the live one, then put in its place.
//!
//! Invariants:
//! - Readers see one version or the other: tables change their schemas in one transaction,
//!   and whoever reads locks them before taking a snapshot. Positions never fall: the switch
//!   refuses a version that is behind the one that is read (`rebuild.switch`).
//! - Every event is folded outside of that transaction, so readers wait for the moves alone.
//! - One rebuild per model: its session holds a lock for as long as it lives.
//! - Whatever is cut short leaves tables that nobody reads; the next start removes them.

mod differences;
mod maker;
mod outdated;
mod rollback;
mod session;
mod standing;
mod switch;

use std::time::{Duration, Instant};

use deadpool_postgres::GenericClient;
use projections::engine::{Projection, Schema};
use projections::{Model, ProjectionError, with_model};
use serde::{Deserialize, Serialize};
use store::Log;
use uuid::Uuid;

pub use differences::{Differences, DifferingRow};
pub use outdated::{Outdated, outdated, sweep};
pub use rollback::RollbackReport;
pub use standing::{Phase, Standing};

use maker::Maker;
use session::Session;
use standing::Board;

/// How often the standing is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A fold that makes no progress for so long is an alarm.
const STALLS_AFTER: Duration = Duration::from_secs(30);

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// The model.
    pub model: String,
    /// Nothing was put in place: this is what would have been.
    pub dry_run: bool,
    /// Version of the fold.
    pub fold: i32,
    /// Events folded.
    pub events: u64,
    /// Rows made.
    pub rows: u64,
    /// Rows that were not what the live table had at the same position; absent when the
    /// live model was not far enough to be compared.
    pub differing: Option<u64>,
    /// Which rows these were.
    pub differences: Option<Differences>,
    /// Streams that stand still, because an event of theirs can't be folded.
    pub parked: u64,
    /// The position that the rows reflect.
    pub position: u64,
    /// Events folded per second, before the comparison.
    pub events_per_s: u64,
    /// How long readers were held up at most; absent in a dry run.
    pub switch_ms: Option<u64>,
    /// How long it took.
    pub ms: u64,
}

/// Makes a model anew and puts it in the place of the live one.
///
/// `progress` is told the position reached and the head that was there at the start.
///
/// # Errors
/// As [`Rebuild::run`].
pub async fn rebuild(
    model: Model,
    log: &Log,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<RebuildReport, ProjectionError> {
    Rebuild::of(log).run(model, |standing| progress(standing.done, standing.total)).await
}

/// A rebuild, or the way back from one, as it is asked for.
#[derive(Debug, Clone)]
pub struct Rebuild {
    log: Log,
    dry_run: bool,
    operation: Option<Uuid>,
    stalls_after: Duration,
}

impl Rebuild {
    /// From a log, through its pool.
    pub fn of(log: &Log) -> Self {
        Self { log: log.clone(), dry_run: false, operation: None, stalls_after: STALLS_AFTER }
    }

    /// Makes and compares the rows, and puts nothing in place.
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// The operation that it belongs to.
    pub fn operation(self, operation: Uuid) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// After how long without progress a fold is called stalled.
    pub fn stalls_after(self, stalls_after: Duration) -> Self {
        Self { stalls_after, ..self }
    }

    /// Makes a model anew and, unless it is a dry run, puts it in the place of the live one,
    /// which is kept to go back to.
    ///
    /// # Errors
    /// [`ProjectionError::Busy`] when somebody is at it already; else when the database
    /// cannot be reached. What is read then stands as it did.
    pub async fn run(
        &self,
        model: Model,
        told: impl FnMut(&Standing) + Send,
    ) -> Result<RebuildReport, ProjectionError> {
        let board = Board::new(model, self.stalls_after);
        let work = async { with_model!(model, projection => self.make(projection, &board).await) };
        tell(&board, work, told).await
    }

    async fn make<P: Projection>(
        &self,
        projection: P,
        board: &Board,
    ) -> Result<RebuildReport, ProjectionError> {
        let start = Instant::now();
        let session = Session::open::<P>(&self.log, self.operation).await?;
        session.start(Some(P::VERSION)).await?;
        let mut maker = Maker::begin(projection, Schema::Shadow, &self.log, board).await?;
        maker.fold_up().await?;
        let folded = start.elapsed();
        let events_per_s = per_second(maker.at(), folded);

        board.enter(Phase::Comparing);
        let differences = maker.compare(&session).await?;
        let mut switch_ms = None;
        if !self.dry_run {
            board.enter(Phase::Building);
            session.finish().await?;
            board.enter(Phase::Switching);
            switch_ms = Some(switch::switch(&mut maker, &session).await?.as_millis() as u64);
            outdated::now_folded(&session, P::NAME).await?;
        }
        let place = if self.dry_run { Schema::Shadow } else { Schema::Live };
        let count = format!("SELECT count(*) FROM {}.{}", place.as_str(), P::NAME);
        let rows: i64 = session.client().query_one(&count, &[]).await?.try_get(0)?;
        let report = RebuildReport {
            model: P::NAME.into(),
            dry_run: self.dry_run,
            fold: P::VERSION,
            events: maker.at(),
            rows: u64::try_from(rows).unwrap_or(0),
            differing: differences.as_ref().map(Differences::count),
            differences,
            parked: maker.parked(),
            position: maker.at(),
            events_per_s,
            switch_ms,
            ms: start.elapsed().as_millis() as u64,
        };
        session.end().await?;
        tracing::info!(
            model = P::NAME,
            dry_run = report.dry_run,
            events = report.events,
            rows = report.rows,
            differing = report.differing,
            switch_ms,
            ms = report.ms,
            "the read model was made anew"
        );
        Ok(report)
    }
}

/// Tells how the work stands until it has ended, and raises the alarm when it does not move.
async fn tell<T>(
    board: &Board,
    work: impl Future<Output = Result<T, ProjectionError>>,
    mut told: impl FnMut(&Standing),
) -> Result<T, ProjectionError> {
    tokio::pin!(work);
    let every = TELL_EVERY.min(board.patience());
    let mut ticks = tokio::time::interval(every);
    loop {
        tokio::select! {
            biased;
            ended = &mut work => {
                told(&board.standing());
                return ended;
            }
            _ = ticks.tick() => {
                let standing = board.standing();
                board.alarm(&standing);
                told(&standing);
            }
        }
    }
}

fn per_second(events: u64, took: Duration) -> u64 {
    (events as f64 / took.as_secs_f64().max(1e-3)) as u64
}

async fn position_of<P: Projection, C: GenericClient>(
    client: &C,
    schema: Schema,
    lock: &str,
) -> Result<u64, ProjectionError> {
    let sql =
        format!("SELECT position FROM {}.checkpoints WHERE model = $1{lock}", schema.as_str());
    let position: i64 = client.query_one(&sql, &[&P::NAME]).await?.try_get(0)?;
    Ok(u64::try_from(position).unwrap_or(0))
}
