//! One version of a model's tables in the place of another.

use std::time::{Duration, Instant};

use projections::ProjectionError;
use projections::engine::{Projection, Schema};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::maker::{Maker, NOT_FOR_EVER};
use super::position_of;
use super::session::Session;

/// How long the switch may wait for the live engine's statement, which it holds up then; a
/// vacuum of the table gives way after a second.
const WRITERS: &str = "SET LOCAL lock_timeout = '2s'";
/// How long it may wait for readers: who comes later waits behind it.
const READERS: &str = "SET LOCAL lock_timeout = '50ms'";
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(150);
/// How long it is attempted.
const PATIENCE: Duration = Duration::from_secs(60);

/// Folds the last events, then puts the made version in the place of the live one; tells how
/// long readers were held up at most.
pub(super) async fn switch<P: Projection>(
    maker: &mut Maker<'_, P>,
    session: &Session,
) -> Result<Duration, ProjectionError> {
    let begin = Instant::now();
    loop {
        maker.near().await?;
        match attempt(maker, session).await {
            Ok(held) => return Ok(held),
            Err(error) if !is_in_use(&error) => return Err(error),
            Err(_) if begin.elapsed() > PATIENCE => {
                let seconds = PATIENCE.as_secs();
                return Err(ProjectionError::InUse { model: P::NAME, seconds });
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn attempt<P: Projection>(
    maker: &mut Maker<'_, P>,
    session: &Session,
) -> Result<Duration, ProjectionError> {
    let mut holder = maker.log().pool().get().await?;
    let hold = holder.transaction().await?;
    hold.batch_execute(NOT_FOR_EVER).await?;
    hold.batch_execute(WRITERS).await?;
    // The table before its checkpoint, as the live engine takes them: the other way round
    // each would wait for the other. Readers are not in the way of this lock.
    let mut tables = format!("read.{}", P::NAME);
    if !P::WRITE_ONCE {
        tables = format!("{tables}, past.{}", P::NAME);
    }
    hold.batch_execute(&format!("LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")).await?;
    let live = position_of::<P, _>(&hold, Schema::Live, " FOR UPDATE").await?;
    // Committed on its own, before the switch: whoever's snapshot is taken in between finds
    // all rows in whichever table.
    maker.fold_to(live).await?;
    store::seeded::point("dies-before-switch");
    hold.batch_execute(READERS).await?;
    let switch = hold.prepare_cached("SELECT rebuild.switch($1, $2, $3)").await?;
    let began = Instant::now();
    hold.query_one(&switch, &[&P::NAME, &session.run(), &maker.schema().as_str()]).await?;
    store::seeded::point("dies-in-switch");
    hold.commit().await?;
    Ok(began.elapsed())
}

fn is_in_use(error: &ProjectionError) -> bool {
    let ProjectionError::Database(error) = error else { return false };
    error.code().is_some_and(|code| {
        [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&code)
    })
}
