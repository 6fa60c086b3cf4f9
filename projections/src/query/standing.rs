//! How each read model stands: its place, its version, the one before it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::query::position_of;
use crate::{Model, Queries, QueryError, with_model};

/// A read model, as `GET /v1/projections` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelView {
    /// Its name.
    pub model: String,
    /// The last event folded.
    pub position: u64,
    /// Events that it has not seen yet.
    pub lag: u64,
    /// Grows whenever other rows take the place of those that are read.
    pub generation: u64,
    /// Version of the fold that made the rows.
    pub fold: u32,
    /// The rows are of another release: a rebuild is due.
    pub outdated: bool,
    /// Streams that stand still, because an event of theirs can't be folded.
    pub parked: u64,
    /// What was read before, and can be gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousView>,
    /// The rebuild under way, or one that was cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildView>,
}

/// See [`ModelView::previous`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviousView {
    /// The last event that it has seen.
    pub position: u64,
    /// Version of the fold that made it.
    pub fold: u32,
    /// Since when it is not read any more.
    pub retired_at: DateTime<Utc>,
}

/// See [`ModelView::rebuild`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RebuildView {
    /// The operation that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<Uuid>,
    /// How far it has come; absent on the way back to the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
}

impl Queries {
    /// Every read model.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn models(&self) -> Result<Vec<ModelView>, QueryError> {
        let client = self.pool().get().await?;
        let sql = "SELECT model, place, head, generation, fold, parked, previous, previous_fold,
                          retired_at, operation, rebuilt, run FROM read.standing()";
        let rows = client.query(&client.prepare_cached(sql).await?, &[]).await?;
        let mut models = Vec::with_capacity(rows.len());
        for row in &rows {
            let (name, position): (&str, u64) = (row.try_get(0)?, position_of(row, 1)?);
            let known = name.parse::<Model>().ok();
            let ours = known.map(|model| with_model!(model, projection => version(&projection)));
            let fold: i32 = row.try_get(4)?;
            let previous = match row.try_get::<_, Option<i64>>(6)? {
                None => None,
                Some(_) => Some(PreviousView {
                    position: position_of(row, 6)?,
                    fold: row.try_get::<_, i32>(7)?.unsigned_abs(),
                    retired_at: row.try_get(8)?,
                }),
            };
            let rebuilt: Option<i64> = row.try_get(10)?;
            let rebuild = row.try_get::<_, Option<Uuid>>(11)?.is_some();
            let operation_id = row.try_get(9)?;
            let rebuild = rebuild.then(|| RebuildView {
                operation_id,
                position: rebuilt.and_then(|position| u64::try_from(position).ok()),
            });
            models.push(ModelView {
                model: name.into(),
                position,
                lag: position_of(row, 2)?.saturating_sub(position),
                generation: position_of(row, 3)?,
                fold: fold.unsigned_abs(),
                outdated: position > 0 && ours.is_some_and(|ours| ours != fold),
                parked: position_of(row, 5)?,
                previous,
                rebuild,
            });
        }
        Ok(models)
    }
}

fn version<P: crate::engine::Projection>(_: &P) -> i32 {
    P::VERSION
}
