//! Back to the version that was read before the last switch.

use std::time::Instant;

use projections::engine::{Projection, Schema};
use projections::{Model, ProjectionError, with_model};
use serde::{Deserialize, Serialize};

use super::maker::Maker;
use super::session::Session;
use super::standing::{Board, Phase, Standing};
use super::{Rebuild, switch, tell};

/// What a way back did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// The model.
    pub model: String,
    /// Where the version had stood since it was replaced.
    pub from: u64,
    /// The position that its rows reflect now.
    pub position: u64,
    /// How long readers were held up at most.
    pub switch_ms: u64,
    /// How long it took.
    pub ms: u64,
}

impl Rebuild {
    /// Puts the version before in the place of the live one, once it has seen all that the
    /// live one has; the two change places, so doing it twice changes nothing.
    ///
    /// # Errors
    /// [`ProjectionError::NothingKept`] when there is none that this release can carry on,
    /// and as [`Rebuild::run`].
    pub async fn roll_back(
        &self,
        model: Model,
        told: impl FnMut(&Standing) + Send,
    ) -> Result<RollbackReport, ProjectionError> {
        let board = Board::new(model, self.stalls_after);
        let work = async { with_model!(model, projection => self.back(projection, &board).await) };
        tell(&board, work, told).await
    }

    async fn back<P: Projection>(
        &self,
        projection: P,
        board: &Board,
    ) -> Result<RollbackReport, ProjectionError> {
        let start = Instant::now();
        let session = Session::open::<P>(&self.log, self.operation).await?;
        if let Some(reason) = refusal::<P>(&session, self.log.head().await?.position).await? {
            session.leave();
            return Err(ProjectionError::NothingKept { model: P::NAME, reason });
        }
        session.start(None).await?;
        let mut maker = Maker::begin(projection, Schema::Retired, &self.log, board).await?;
        let from = maker.at();
        maker.fold_up().await?;
        board.enter(Phase::Switching);
        let switch_ms = switch::switch(&mut maker, &session).await?.as_millis() as u64;
        let position = maker.at();
        session.end().await?;
        let ms = start.elapsed().as_millis() as u64;
        tracing::info!(model = P::NAME, from, position, ms, "the version before is read again");
        Ok(RollbackReport { model: P::NAME.into(), from, position, switch_ms, ms })
    }

    /// Frees the space of the version before; false when there was none.
    ///
    /// # Errors
    /// As [`Rebuild::run`].
    pub async fn forget(&self, model: Model) -> Result<bool, ProjectionError> {
        let session = Session::of(&self.log, model.as_str(), self.operation).await?;
        let forget = "SELECT rebuild.forget($1)";
        let known = session.client().query_one(forget, &[&model.as_str()]).await?.try_get(0)?;
        session.end().await?;
        Ok(known)
    }
}

/// Why there is no way back.
async fn refusal<P: Projection>(
    session: &Session,
    head: u64,
) -> Result<Option<String>, ProjectionError> {
    let client = session.client();
    let kept = "SELECT fold, position FROM retired.checkpoints WHERE model = $1";
    let Some(row) = client.query_opt(kept, &[&P::NAME]).await? else {
        return Ok(Some("no version before it is kept".into()));
    };
    let fold: i32 = row.try_get(0)?;
    if fold != P::VERSION {
        let ours = P::VERSION;
        return Ok(Some(format!(
            "the version before was made by fold {fold}, this release folds {ours}"
        )));
    }
    if row.try_get::<_, i64>(1)? > i64::try_from(head).unwrap_or(i64::MAX) {
        return Ok(Some("the version before knows events that the log has not".into()));
    }
    let unlike = client.query_one("SELECT rebuild.unlike($1)", &[&P::NAME]).await?;
    Ok(unlike.try_get(0)?)
}
